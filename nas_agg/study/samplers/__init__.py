"""What searchers share: encoded points, features, surrogates, extrapolated learning curves, proxies, initial points.

A searcher is a pure function of the trials, a seed and a number. Imports `study.tables` and `study.definition`.
"""
