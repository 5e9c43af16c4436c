"""Weights of torchvision's models in networks written here, besides those a network saved itself.

torchvision registers a model's layers in the order in which they are computed, and a graph has that order too: the n-th
layer with weights there is the n-th here, whatever its name. Checked are all names there, against torchvision's own
model, and for each pair the kind of layer, its strides, groups and padding, the names and shapes of its tensors, and
that a `downsample` there is a `match` here (the one place where two layers of the same shape could change places).
Activations and pools have no weights and are not compared.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nas_agg.common.errors import InputError, NasAggError, cut, did_you_mean, one_line
from nas_agg.common.files import check_regular, check_stored
from nas_agg.compiler.weights import check_shapes
from nas_agg.graph.graph import Graph

if TYPE_CHECKING:
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
_COUNTER = "num_batches_tracked"  # is not in older files, and nothing is computed from it
_OLD = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")  # norm.1 for norm1, in older files

State = dict[str, Tensor]
Weights = str | os.PathLike[str] | Mapping[str, Tensor]


def load_from(network: Network, graph: Graph, weights: Weights, download: bool = False) -> None:
    """Loads weights from a file or by name.

    Args:
        network: Compiled from the graph.
        graph: Of the network.
        weights: The state of this network or of one of torchvision's `MODELS`: a state dict; a file of one, ``.pt`` or
            ``.pth`` as `torch.save` writes it, else safetensors; or a model's name, which stands for torchvision's
            default weights, others behind a dot (``resnet50.IMAGENET1K_V1``).
        download: Whether named weights that are not in torch.hub's folder are fetched.

    Raises:
        InputError: If there are none, or they are another network's: the first name that is missing, too many or of
            another shape.
        NasAggError: If they cannot be fetched.
    """
    if not isinstance(weights, Mapping | str | os.PathLike):
        raise InputError(f"weights: a state dict, a file or a name, not {cut(repr(weights))}")
    text = "weights" if isinstance(weights, Mapping) else os.fspath(weights)
    model, dot, version = text.partition(".")
    named = model in MODELS and (not dot or version.isupper())
    if isinstance(weights, Mapping):
        state = _checked(weights, text)
    else:
        state = _read(_place(model, version, download) if named else Path(text))
    own = network.state_dict()
    if named or state.keys() != own.keys():
        today = {_OLD.sub(r"\1", name): tensor for name, tensor in state.items()}
    if not named:
        if state.keys() == own.keys() or (near := _nearest(today)) is None:
            check_shapes(own, {name: tuple(tensor.shape) for name, tensor in state.items()}, text)
            network.load_state_dict(state)
            return
        model = near
    network.load_state_dict(_translated(network, graph, today, model, text))


def _place(model: str, version: str, download: bool) -> Path:
    """The file of a model's weights in torch.hub's folder."""
    from torchvision.models import get_model_weights

    known = get_model_weights(model)
    if version and version not in known.__members__:
        raise InputError(f"torchvision's {model} has no weights {version}; there are {', '.join(known.__members__)}")
    url = known[version or "DEFAULT"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        if not download:
            raise InputError(f"{path}: no such file; --download (in Python download=True) fetches it from {url}")
        try:
            torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise NasAggError(one_line(f"{url}: cannot be fetched ({' '.join(str(error).split())})")) from None
    return path


def _read(path: Path) -> State:
    """The tensors in a file, by their names."""
    check_regular(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a file of weights")
    torch_s = path.suffix.lower() in (".pt", ".pth")
    try:
        if torch_s:
            check_stored(path)
            with warnings.catch_warnings(action="ignore"):
                state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            state = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{did_you_mean(path.name, MODELS)}") from None
    except (OSError, SafetensorError) as error:
        kind = "file of torch.save" if torch_s else "safetensors file"
        raise InputError(one_line(f"{path}: not a {kind} that can be read ({' '.join(str(error).split())})")) from None
    except Exception:  # a damaged file can make torch.load raise almost anything
        raise InputError(f"{path}: not a state dict that can be read without executing what is in it") from None
    return _checked(state, str(path))


def _checked(state: object, source: str) -> State:
    """A state dict, if it is one.

    Raises:
        InputError: It is not.
    """
    if not isinstance(state, Mapping) or not all(map(_is_entry, state, state.values())):
        raise InputError(f"{source}: not a state dict of dense tensors; save model.state_dict()")
    for name, tensor in state.items():
        if not tensor.is_floating_point() and not name.endswith(_COUNTER):
            raise InputError(f"{source}: '{name}' holds {str(tensor.dtype).removeprefix('torch.')}, not floating point")
    return dict(state)


def _is_entry(name: object, tensor: object) -> bool:
    return (
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    )


def _model(name: str) -> nn.Module:
    """torchvision's model without the memory and the time for its weights."""
    from torchvision.models import get_model

    with torch.device("meta"):
        return get_model(name, weights=None)


def _nearest(state: State) -> str | None:
    """The model that shares most names with a state, and of those most shapes; None if none shares most names."""
    given = {name for name in state if not name.endswith(_COUNTER)}
    if not any(name.startswith(("layer1.", "features.")) for name in given):
        return None

    def others(name: str) -> tuple[int, int]:
        known = {key: tensor.shape for key, tensor in _model(name).state_dict().items() if not key.endswith(_COUNTER)}
        return len(given ^ known.keys()), sum(state[key].shape != known[key] for key in given & known.keys())

    near = min(MODELS, key=others)
    return near if others(near)[0] < len(given) else None


def _translated(network: nn.Module, graph: Graph, state: State, model: str, source: str) -> State:
    """A state of torchvision's model under the names of the network."""
    known, own, modules = _model(model), network.state_dict(), dict(network.named_modules())
    names = set(known.state_dict())
    if extra := [name for name in state if name not in names]:
        raise InputError(f"{source}: '{extra[0]}' is not in torchvision's {model}")
    layers = [(name, module) for name, module in known.named_modules() if isinstance(module, _LAYERS)]
    places = [(path, op.module()) for op, path in zip(graph.ops, graph.paths, strict=True) if op.stateful]
    end = f"the network is not torchvision's {model}"
    found: State = {}
    for (name, module), (path, made) in zip(layers, places, strict=False):
        if made is None or made[0] != type(module).__name__ or ("downsample" in name) != (".match." in path):
            raise InputError(f"{source}: '{path}' stands where '{name}' should; {end}")
        for key in module.state_dict():
            given, wanted = state.get(f"{name}.{key}"), own.get(f"{path}.{key}")
            if given is None and key == _COUNTER:
                given = torch.zeros((), dtype=torch.int64)
            if given is None:
                raise InputError(f"{source}: no weights named '{name}.{key}', as torchvision's {model} has")
            if wanted is None or given.shape != wanted.shape:
                shape = "nothing" if wanted is None else tuple(wanted.shape)
                raise InputError(f"{source}: '{name}.{key}' has shape {tuple(given.shape)}, '{path}' {shape}; {end}")
            found[f"{path}.{key}"] = given
        for field in ("stride", "padding", "groups") if isinstance(module, nn.Conv2d) else ():
            theirs, mine = getattr(module, field), getattr(modules[path], field)
            if theirs != mine:
                raise InputError(f"{source}: '{name}' has {field} {theirs}, '{path}' {mine}; {end}")
    if len(layers) > len(places):
        raise InputError(f"{source}: '{layers[len(places)][0]}' has no place in the network; {end}")
    if left := [name for name in own if name not in found]:
        raise InputError(f"{source}: no weights for '{left[0]}'; {end}")
    return found
