"""Search spaces: search variables and their domains, points, encodings, and references to genotypes.

Imports `expansion` and what lies below it.
"""
