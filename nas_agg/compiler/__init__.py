"""Genotype -> torch.nn.Module; weights to and from files, and from one writing of a network to another."""

from nas_agg.compiler.carry import carry
from nas_agg.compiler.network import Network, build, compile, forward_source
from nas_agg.compiler.weights import load_weights, save_weights

__all__ = ["Network", "build", "carry", "compile", "forward_source", "load_weights", "save_weights"]
