"""Genotype -> torch.nn.Module: expansion, passes, weights, and the form that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nas_agg.common.errors import InputError
from nas_agg.compiler.inference_fusion import fuse as fused
from nas_agg.compiler.network import Network, build
from nas_agg.compiler.residual_branches import branch_ends
from nas_agg.compiler.torchvision_weights import Weights, load_from
from nas_agg.expansion.expansion import expand
from nas_agg.expansion.passes import tidy
from nas_agg.graph.rematerialization import MemoryMode
from nas_agg.language.genotype import Genotype


def compile(
    genotype: Genotype,
    seed: int | None = None,
    weights: Weights | None = None,
    *,
    download: bool = False,
    zero_branches: bool = False,
    classifier_init: Literal["he", "glorot"] = "he",
    conv_init: Literal["fan_in", "fan_out", "fan_out_uniform"] = "fan_in",
    memory: MemoryMode = "plain",
    passes: Iterable[str] | None = None,
    fuse: bool = False,
) -> Network:
    """Compiles a genotype into a network.

    Args:
        genotype: A genotype without open names.
        seed: Of the initial weights; None takes torch's global random state.
        weights: A file of weights or the name of torchvision's; see `nas_agg.compiler.torchvision_weights.load_from`.
        download: Whether named weights that are not here are fetched.
        zero_branches: Whether the layers that `nas_agg.compiler.residual_branches.branch_ends` finds start at zero.
        classifier_init: How linear layers start; see `Network.start`.
        conv_init: How convolutions start; likewise.
        memory: What training keeps for backward; see `Network`.
        passes: Names of the passes that run over the graph, of `nas_agg.expansion.passes.PASSES`; all if unsaid.
        fuse: Whether it is a network for inference alone; see `nas_agg.compiler.inference_fusion`.

    Returns:
        A module from images ``(N, channels, height, width)`` to logits ``(N, classes)``.

    Raises:
        GenotypeError: If the genotype is not a network.
        InputError: If the weights are another network's, a pass unknown, or what is asked for does not fit together.
    """
    if fuse and memory != "plain":
        raise InputError(f"a fused network is for inference, which keeps nothing: memory 'plain', not {memory!r}")
    graph = tidy(expand(genotype), passes)
    zeros = branch_ends(graph) if zero_branches else ()
    network = build(graph, seed, zeros=zeros, classifier_init=classifier_init, conv_init=conv_init, memory=memory)
    if weights is not None:
        load_from(network, graph, weights, download)
    return fused(network, graph) if fuse else network
