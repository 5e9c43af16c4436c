"""What a study is: settings, objectives, the task, trials, the result, Pareto fronts, stop signals.

The other rooms of a study exchange these; imports nothing of them.
"""
