"""Genotype -> torch.nn.Module."""

from nas_agg.compiler.network import Network, build, compile, forward_source

__all__ = ["Network", "build", "compile", "forward_source"]
