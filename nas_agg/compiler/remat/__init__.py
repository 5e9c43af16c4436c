"""Training that keeps less for backward: each piece of the graph is one autograd function that rematerialises.

What is kept is decided by `nas_agg.graph.rematerialization`. Imports `graph` and below.
"""
