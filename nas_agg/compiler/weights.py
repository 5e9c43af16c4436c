"""Saving and loading weights as safetensors, under the names of a network's parameters."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file, write_atomic

_DIGEST = "nas_agg:sha256"  # its key in the metadata
_FLOATS = ("F64", "F32", "F16", "BF16")


def save_weights(model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and buffers as safetensors, under their names in the module.

    The metadata of the file contains the SHA-256 of the tensors.

    Args:
        model: The model.
        path: The file.
        metadata: Further metadata.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    data = safetensors.torch.save(state, {_DIGEST: _digest(state), **(metadata or {})})
    write_atomic(path, _with_sorted_metadata(data) if metadata else data)


def _with_sorted_metadata(data: bytes) -> bytes:
    """A file in the format of safetensors with its metadata in order; the library writes them in any order."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[start:]


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a file of :func:`save_weights` into a model of the same network, on the model's device.

    Raises:
        InputError: The file cannot be read, or belongs to another network: the first name that is missing,
            unexpected or of another shape.
    """
    check_regular_file(path)
    state = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            check_shapes(state, shapes, path)
            for name, tensor in state.items():
                kind = file.get_slice(name).get_dtype()
                if tensor.is_floating_point() and kind not in _FLOATS:
                    raise InputError(f"{path}: '{name}' has type {kind}, not floating point")
            loaded = {name: file.get_tensor(name) for name in state}
            expected = (file.metadata() or {}).get(_DIGEST)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({' '.join(str(error).split())})") from None
    if expected is not None and expected != _digest(loaded):
        raise InputError(
            f"{path}: damaged: its tensors do not match the SHA-256 in its metadata; restore it from a copy"
        )
    model.load_state_dict(loaded)


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_shapes(
    state: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], path: str | os.PathLike[str]
) -> None:
    """Compare the names and shapes in a file with those of a state dict.

    Raises:
        InputError: A name is missing, unexpected or of another shape.
    """
    end = "these are the weights of another network"
    for name, tensor in state.items():
        if name not in shapes:
            raise InputError(f"{path}: no weights named '{name}'; {end}")
        if shapes[name] != tuple(tensor.shape):
            raise InputError(f"{path}: '{name}' has shape {shapes[name]}, not {tuple(tensor.shape)}; {end}")
    extra = [name for name in shapes if name not in state]
    if extra:
        raise InputError(f"{path}: '{extra[0]}' is not in the network; {end}")
