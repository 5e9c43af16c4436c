"""Genotype -> torch.nn.Module; weights to and from files, from torchvision, and between writings of a network."""

from nas_agg.compiler.compilation import compile
from nas_agg.compiler.network import Network, build, forward_source
from nas_agg.compiler.weight_permutation import carry
from nas_agg.compiler.weights import load_weights, save_weights

__all__ = ["Network", "build", "carry", "compile", "forward_source", "load_weights", "save_weights"]
