"""What a study leaves behind: its trials in an Optuna storage, the run folder, provenance, progress, cached scores.

Only this room writes to a run's storage and run.json. Imports `study.samplers` and the rooms below it.
"""
