"""Weights to fine-tune from: those of the same network, with a classifier made anew where the classes differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from nas_agg.common.errors import InputError
from nas_agg.compiler.compilation import compile
from nas_agg.compiler.network import Network
from nas_agg.compiler.torchvision_weights import Weights, read_weights
from nas_agg.language.genotype import Genotype

IMAGENET_CLASSES = 1000  # of torchvision's weights


def classifier_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of the classifier, the last linear layer."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return []
    prefix = f"{linear[-1]}." if linear[-1] else ""
    return [name for name, _ in model.named_parameters() if name.startswith(prefix)]


def load_pretrained(network: Network, genotype: Genotype, weights: Weights, download: bool = False) -> list[str]:
    """Load weights of the same network for the same or for other classes.

    Args:
        network: The network, with its initial weights.
        genotype: Its genotype.
        weights: As for `nas_agg.compiler.compile`, or a run folder: that of its final network.
        download: Whether named weights that are not cached are downloaded.

    Returns:
        Names of the classifier's parameters if they keep their initial values, since the classes differ.

    Raises:
        InputError: The weights belong to another network.
    """
    weights = _file_of_run(weights)
    head = classifier_parameters(network)
    classes = _classes(weights, head) or genotype.classes
    source = compile(genotype.with_task(None, classes), 0, weights, download=download).state_dict()
    anew = head if classes != genotype.classes else []
    own = network.state_dict()
    network.load_state_dict({name: own[name] if name in anew else tensor for name, tensor in source.items()})
    return anew


def check_weights(weights: Weights, download: bool = False) -> None:
    """Read weights, whose network is not known yet; named ones are downloaded, so that they are there later.

    Args:
        weights: As for `load_pretrained`.
        download: As for `load_pretrained`.

    Raises:
        InputError: There are no such weights, or they are no state dict.
        NasAggError: The download failed.
    """
    read_weights(_file_of_run(weights), download)


def _file_of_run(weights: Weights) -> Weights:
    """The weights of a run folder's final network; other weights are returned as they are."""
    if not isinstance(weights, str | Path):
        return weights
    path = Path(weights) / "best" / "weights.safetensors"
    if not path.is_file() and (Path(weights) / "run.json").is_file():
        raise InputError(f"{weights}: a run without a final network; its training is not finished")
    return path if path.is_file() else weights


def _classes(weights: Weights, head: list[str]) -> int | None:
    """The number of classes that weights are for; None if unknown."""
    if not head:
        return None
    if isinstance(weights, Mapping):
        tensor = weights.get(head[0])
        return int(tensor.shape[0]) if isinstance(tensor, torch.Tensor) else IMAGENET_CLASSES
    path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        return None if path.is_file() else IMAGENET_CLASSES
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            return int(file.get_slice(head[0]).get_shape()[0]) if head[0] in names else None
    except (OSError, SafetensorError):
        return None  # the error is reported when it is loaded


def freeze(model: nn.Module, paths: tuple[str, ...]) -> None:
    """Exclude parts of a network from training: their parameters, and the statistics of their batch norms.

    Args:
        model: The network.
        paths: Beginnings of the paths of parameters, such as ``stage1``.

    Raises:
        InputError: No parameter has such a path, or none would remain.
    """
    parameters = dict(model.named_parameters())
    for path in paths:
        chosen = [name for name in parameters if name == path or name.startswith(f"{path}.")]
        if not chosen:
            tops = dict.fromkeys(name.partition(".")[0] for name in parameters)
            raise InputError(f"freeze: the network has no part '{path}'; its parts are {', '.join(tops)}")
        for name in chosen:
            parameters[name].requires_grad_(False)
    if paths and not any(parameter.requires_grad for parameter in parameters.values()):
        raise InputError("freeze: no parameter of the network would be trained")


def keep_frozen_statistics(model: nn.Module) -> None:
    """Put batch norms whose parameters are all frozen into evaluation mode, so that their statistics stay."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
