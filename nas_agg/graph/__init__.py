"""The graph of a network: primitives with shapes and costs, canonical hash, connectivity, what a backward pass keeps.

A `Graph` is a list of primitives in topological order; torch is not needed. Imports `common` alone.
"""
