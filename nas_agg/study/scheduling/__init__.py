"""How much of a training a trial gets: rungs of successive halving, limits and constraints, memory modes.

Imports `study.records` and what lies below it.
"""
