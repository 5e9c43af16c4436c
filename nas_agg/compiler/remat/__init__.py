"""Rematerialised training: each piece of the graph is one autograd function that recomputes what it did not keep.

`nas_agg.graph.rematerialization` plans what is kept; `executor` runs the plan, `forward` and `backward` compute values
and gradients, `kernels` holds batch norm. Imports ``graph``, ``common`` and torch.
"""
