"""What a study leaves behind: its record in an Optuna storage, the run folder, provenance, progress, cached scores.

Imports `study.samplers` and what lies below it.
"""
