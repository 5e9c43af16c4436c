"""Compiles genotypes into torch modules; saves, loads and transfers weights; fuses networks for inference.

The lowest package that imports torch. ``remat`` is training with less memory, ``codegen`` writes readable Python.
Imports ``common``, ``graph``, ``language``, ``expansion`` and ``search_space``.
"""

from nas_agg.compiler.compilation import compile
from nas_agg.compiler.network import Network, build, forward_source
from nas_agg.compiler.weight_permutation import transfer_weights
from nas_agg.compiler.weights import load_weights, save_weights

__all__ = ["Network", "build", "compile", "forward_source", "load_weights", "save_weights", "transfer_weights"]
