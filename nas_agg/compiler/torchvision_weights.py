"""Loads weights: state dicts of a network itself or of torchvision's models.

torchvision registers a model's layers in the order in which they are computed, which is the graph's order too: the n-th
weighted layer of torchvision's model corresponds to the n-th of the graph, whatever its name. All of torchvision's
names are checked, and for each pair of layers the type, stride, groups and padding, the names and shapes of tensors,
and that a `downsample` corresponds to a `match` (the only case in which two layers of the same shape could be
swapped). Activations and pools have no weights and are not compared.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nas_agg.common.errors import InputError, NasAggError, did_you_mean, one_line, truncate
from nas_agg.common.files import check_regular_file, check_uncompressed
from nas_agg.compiler.weights import check_shapes
from nas_agg.graph.graph import Graph

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

    from nas_agg.compiler.network import Network

MODELS = (
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
)
_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
_COUNTER = "num_batches_tracked"  # missing in older files, and not used for inference
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")  # norm.1 instead of norm1, in older files
#: Parts of names that wrappers add: torch.compile, FSDP and activation checkpointing anywhere; DataParallel,
#: DistributedDataParallel and AveragedModel at the beginning, where a part of a network may have the same name.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_OUTER_WRAPPER, _AVERAGED = "module.", "n_averaged"

State = dict[str, Tensor]
Weights = str | os.PathLike[str] | Mapping[str, Tensor]


def load_weights_from(network: Network, graph: Graph, weights: Weights, download: bool = False) -> None:
    """Load weights from a state dict, from a file or by name.

    Args:
        network: A network compiled from the graph.
        graph: The network's graph.
        weights: The state of this network or of one of torchvision's `MODELS`: a state dict; its file, ``.pt`` or
            ``.pth`` as `torch.save` writes it, else safetensors; or the name of a model for torchvision's default
            weights, with a version for others (``resnet50.IMAGENET1K_V1``).
        download: Whether named weights that are not in torch.hub's folder are downloaded.

    Raises:
        InputError: There are no such weights, or they belong to another network: the first name that is missing,
            unexpected or of another shape.
        NasAggError: The download failed.
    """
    state, source, model = read_weights(weights, download)
    own = network.state_dict()
    state = _unwrap(state, own)
    if model is None and state.keys() != own.keys():
        model = _closest_model(_current_names(state))
    if model is not None:
        state = _translate(network, graph, _current_names(state), model, source)
    else:
        check_shapes(own, {name: tuple(tensor.shape) for name, tensor in state.items()}, source)
    network.load_state_dict(state)


def read_weights(weights: Weights, download: bool = False) -> tuple[State, str, str | None]:
    """Read a state dict, as for `load_weights_from`.

    Args:
        weights: A state dict, a file or a name.
        download: Whether named weights that are not in torch.hub's folder are downloaded.

    Returns:
        The state, where it is from, and the name of torchvision's model if the weights were named.

    Raises:
        InputError: There are no such weights, or they are no state dict.
        NasAggError: The download failed.
    """
    if not isinstance(weights, Mapping | str | os.PathLike):
        raise InputError(f"weights: expected a state dict, a file or a name, not {truncate(repr(weights))}")
    if isinstance(weights, Mapping):
        return _check_state(weights, "weights"), "weights", None
    source = os.fspath(weights)
    name, dot, version = source.partition(".")
    if name in MODELS and (not dot or version.isupper()):
        return _read_state(_cached_file(name, version, download)), source, name
    return _read_state(Path(source)), source, None


def named_weights(source: str) -> WeightsEnum | None:
    """torchvision's description of weights by their name or the name of their file; None of any other weights."""
    from torchvision.models import get_model_weights

    name, _, version = source.partition(".")
    if name in MODELS and (not version or version.isupper()):
        versions = get_model_weights(name).__members__
        return versions.get(version or "DEFAULT")
    for model in MODELS:
        for entry in get_model_weights(model):
            if entry.url.rsplit("/", 1)[-1] == Path(source).name:
                return entry
    return None


def _unwrap(state: State, own: State) -> State:
    """Remove what wrappers of the saved module added to its names, unless the network's own names have it."""
    if state.keys() == own.keys():
        return state
    names = {name: reduce(lambda text, part: text.replace(part, ""), _WRAPPERS, name) for name in state}
    while state and set(names.values()) != own.keys():
        inner = {name: text for name, text in names.items() if text != _AVERAGED or text in own}
        if not inner or not all(text.startswith(_OUTER_WRAPPER) for text in inner.values()):
            break
        names = {name: text.removeprefix(_OUTER_WRAPPER) for name, text in inner.items()}
    if len(set(names.values())) < len(names):
        return state
    return {text: state[name] for name, text in names.items()}


def _current_names(state: State) -> State:
    """A state dict of torchvision with the names of current versions."""
    return {_OLD_NAME.sub(r"\1", name): tensor for name, tensor in state.items()}


def _cached_file(model: str, version: str, download: bool) -> Path:
    """The file of a model's weights in torch.hub's folder; it is downloaded if required."""
    from torchvision.models import get_model_weights

    versions = get_model_weights(model)
    if version and version not in versions.__members__:
        available = ", ".join(versions.__members__)
        raise InputError(f"torchvision's {model} has no weights '{version}'; choose from {available}")
    url = versions[version or "DEFAULT"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        if not download:
            raise InputError(
                f"{path}: no such file; use --download (in Python download=True) to download it from {url}"
            )
        try:
            torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise NasAggError(one_line(f"{url}: download failed ({' '.join(str(error).split())})")) from None
    return path


def _read_state(path: Path) -> State:
    """Read a state dict from a file."""
    check_regular_file(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a weights file")
    is_torch_file = path.suffix.lower() in (".pt", ".pth")
    try:
        if is_torch_file:
            check_uncompressed(path)
            with warnings.catch_warnings(action="ignore"):
                state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            state = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{did_you_mean(path.name, MODELS)}") from None
    except (OSError, SafetensorError) as error:
        kind = "torch.save" if is_torch_file else "safetensors"
        raise InputError(one_line(f"{path}: not a readable {kind} file ({' '.join(str(error).split())})")) from None
    except Exception:  # a damaged file can make torch.load raise almost anything
        raise InputError(f"{path}: not a state dict that can be read without executing code") from None
    return _check_state(state, str(path))


def _check_state(state: object, source: str) -> State:
    """Return a state dict after checking that it is one.

    Raises:
        InputError: It is not a state dict of dense, finite tensors.
    """
    if not isinstance(state, Mapping) or not all(map(_is_entry, state, state.values())):
        raise InputError(f"{source}: not a state dict of dense tensors; save model.state_dict()")
    for name, tensor in state.items():
        if not tensor.is_floating_point() and not name.endswith((_COUNTER, _AVERAGED)):
            raise InputError(
                f"{source}: '{name}' has type {str(tensor.dtype).removeprefix('torch.')}, not floating point"
            )
        if not tensor.isfinite().all():
            raise InputError(
                f"{source}: '{name}' has values that are not finite; the training diverged, or the file is damaged"
            )
    return dict(state)


def _is_entry(name: object, tensor: object) -> bool:
    return (
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    )


def _meta_model(name: str) -> nn.Module:
    """torchvision's model on the meta device, without weights."""
    from torchvision.models import get_model

    with torch.device("meta"):
        return get_model(name, weights=None)


def _closest_model(state: State) -> str | None:
    """The model with most names, then most shapes in common with a state dict; None if most names differ."""
    given = {name for name in state if not name.endswith(_COUNTER)}
    if not any(name.startswith(("layer1.", "features.")) for name in given):
        return None

    def differences(model: str) -> tuple[int, int]:
        own = _meta_model(model).state_dict()
        shapes = {name: tensor.shape for name, tensor in own.items() if not name.endswith(_COUNTER)}
        return len(given ^ shapes.keys()), sum(state[name].shape != shapes[name] for name in given & shapes.keys())

    closest = min(MODELS, key=differences)
    return closest if differences(closest)[0] < len(given) else None


def _translate(network: nn.Module, graph: Graph, state: State, model: str, source: str) -> State:
    """Rename the state dict of a torchvision model for the network.

    Raises:
        InputError: The network is not that model, or the state dict is not that of the model.
    """
    theirs, own, modules = _meta_model(model), network.state_dict(), dict(network.named_modules())
    names = set(theirs.state_dict())
    if extra := [name for name in state if name not in names]:
        raise InputError(f"{source}: '{extra[0]}' is not in torchvision's {model}")
    layers = [(name, module) for name, module in theirs.named_modules() if isinstance(module, _LAYERS)]
    paths = [path for op, path in zip(graph.ops, graph.paths, strict=True) if op.stateful]
    translated: State = {}
    for (name, module), path in zip(layers, paths, strict=False):
        if type(modules.get(path)) is not type(module) or ("downsample" in name) != (".match." in path):
            raise _other_network(source, f"the network has '{path}' in place of '{name}'", model)
        for key in module.state_dict():
            tensor = state.get(f"{name}.{key}")
            if tensor is None and key != _COUNTER:
                raise InputError(f"{source}: '{name}.{key}' of torchvision's {model} is missing")
            tensor = torch.zeros((), dtype=torch.int64) if tensor is None else tensor
            expected = own.get(f"{path}.{key}")
            if expected is None or tensor.shape != expected.shape:
                shape = "nothing" if expected is None else tuple(expected.shape)
                problem = f"'{name}.{key}' has shape {tuple(tensor.shape)}, '{path}' {shape}"
                raise _other_network(source, problem, model)
            translated[f"{path}.{key}"] = tensor
        if isinstance(module, nn.Conv2d) and (field := _differing_field(module, modules[path])):
            problem = f"'{name}' has {field} {getattr(module, field)}, '{path}' {getattr(modules[path], field)}"
            raise _other_network(source, problem, model)
    if len(layers) > len(paths):
        raise _other_network(source, f"'{layers[len(paths)][0]}' has no counterpart", model)
    if missing := [name for name in own if name not in translated]:
        raise _other_network(source, f"no weights for '{missing[0]}'", model)
    return translated


def _differing_field(theirs: nn.Conv2d, own: nn.Module) -> str | None:
    fields = ("stride", "padding", "groups")
    return next((field for field in fields if getattr(theirs, field) != getattr(own, field)), None)


def _other_network(source: str, problem: str, model: str) -> InputError:
    return InputError(f"{source}: {problem}; the network is not torchvision's {model}")
