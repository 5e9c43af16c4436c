"""Building blocks of searchers: observations, features, surrogates, acquisition functions, proxies, initial points.

A searcher is a pure function of the trials, a seed and a number. Imports `study.tables` and `study.definition`.
"""
