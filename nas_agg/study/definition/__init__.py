"""The data that the other packages of a study exchange: settings, metrics, objectives, task, trials, result.

Also Pareto fronts and stop signals. Imports no other package of the study.
"""
