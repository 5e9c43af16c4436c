"""Search spaces: search variables and points, sampling, mutation, encoding, and references to genotypes.

Imports `expansion` and what lies below it.
"""
