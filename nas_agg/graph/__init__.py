"""The graph of a network: primitives, canonical hash, connectivity, and the plan of rematerialization.

A `Graph` is a list of primitives in topological order; torch is not needed. Imports only `common`.
"""
