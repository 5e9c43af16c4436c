"""Records of a study: its trials in an Optuna storage, the run folder, provenance, progress, cached scores.

Imports `study.samplers` and the packages below it.
"""
