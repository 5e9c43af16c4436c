"""How far each trial is trained: rungs of successive halving, pruner, limits and constraints, memory modes.

Nothing here starts a training; the engine, the coordinator and the workers do. Imports `study.records` and the
packages below it.
"""
