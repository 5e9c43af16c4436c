"""Genotype to graph: aggregates written out node by node, passes over graphs, and the cost of a network.

Imports `language`, `graph` and `common`; torch is not needed.
"""
