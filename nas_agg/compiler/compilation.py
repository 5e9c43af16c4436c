"""Compiles a genotype into a torch.nn.Module: expansion, passes, weights and inference fusion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nas_agg.common.errors import InputError
from nas_agg.compiler.inference_fusion import fuse as fuse_network
from nas_agg.compiler.network import Network, build
from nas_agg.compiler.regularization import regularize
from nas_agg.compiler.residual_branches import branch_ends
from nas_agg.compiler.torchvision_weights import Weights, load_weights_from
from nas_agg.expansion.expansion import expand
from nas_agg.expansion.passes import apply_passes
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
    dropout: float = 0.0,
    drop_path: float = 0.0,
    memory: MemoryMode = "plain",
    passes: Iterable[str] | None = None,
    fuse: bool = False,
) -> Network:
    """Compile a genotype into a network.

    Args:
        genotype: A genotype without search variables.
        seed: Seed of the initial weights; None uses torch's global random state.
        weights: A file, or the name of torchvision weights; see `nas_agg.compiler.torchvision_weights.load_from`.
        download: Whether named weights that are not cached are downloaded.
        zero_branches: Whether the layers of `nas_agg.compiler.residual_branches.branch_ends` are initialised at zero.
        classifier_init: Initialisation of linear layers; see `nas_agg.compiler.network.init_weights`.
        conv_init: Initialisation of convolutions; likewise.
        dropout: Rate of dropout before the last linear layer in training.
        drop_path: Rate of stochastic depth of the last residual branch; see `nas_agg.compiler.regularization`.
        memory: The memory mode of training; see `Network`.
        passes: Names of graph passes of `nas_agg.expansion.passes.PASSES`; all by default.
        fuse: Whether to build an inference-only network; see `nas_agg.compiler.inference_fusion`.

    Returns:
        A module from images ``(N, channels, height, width)`` to logits ``(N, classes)``.

    Raises:
        GenotypeError: The genotype does not describe a network.
        InputError: The weights belong to another network, a pass is unknown, or options contradict each other.
    """
    if fuse and memory != "plain":
        raise InputError(f"a fused network is for inference only; use memory mode 'plain', not {memory!r}")
    graph = apply_passes(expand(genotype), passes)
    zeros = branch_ends(graph) if zero_branches else ()
    graph = regularize(graph, dropout, drop_path)
    network = build(graph, seed, zeros=zeros, classifier_init=classifier_init, conv_init=conv_init, memory=memory)
    if weights is not None:
        load_weights_from(network, graph, weights, download)
    return fuse_network(network, graph) if fuse else network
