"""What a training leaves on disk: weights, and checkpoints to go on from. Nothing in them is executed when read."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from nas_agg.errors import InputError
from nas_agg.files import write_atomic

CHECKPOINT = "checkpoint.pt"


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters and buffers as safetensors, under their names in the module."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(state))


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read what :func:`save_weights` wrote into a model of the same network, on the device it is on.

    Raises:
        InputError: The file cannot be read, or it is another network's: the first name that is missing, too many or
            of another shape.
    """
    state = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _compare(state, shapes, path)
            loaded = {name: file.get_tensor(name) for name in state}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file that can be read ({' '.join(str(error).split())})") from None
    model.load_state_dict(loaded)


def _compare(state: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], path: str | os.PathLike[str]) -> None:
    end = "these are the weights of another network"
    for name, tensor in state.items():
        if name not in shapes:
            raise InputError(f"{path}: no weights named '{name}'; {end}")
        if shapes[name] != tuple(tensor.shape):
            raise InputError(f"{path}: '{name}' has shape {shapes[name]}, not {tuple(tensor.shape)}; {end}")
    extra = [name for name in shapes if name not in state]
    if extra:
        raise InputError(f"{path}: '{extra[0]}' is not in the network; {end}")


def model_print(model: nn.Module) -> str:
    """A short text that models with the same parameters and buffers (names, shapes, types) share."""
    state = model.state_dict()
    text = ";".join(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}" for name, tensor in state.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_checkpoint(out: Path, of: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint into a folder, in the place of the one there.

    Args:
        out: The folder.
        of: What training it belongs to: plain values by name.
        state: Tensors and plain values.
    """
    buffer = io.BytesIO()
    torch.save({"of": of, "state": state}, buffer)
    write_atomic(out / CHECKPOINT, buffer.getvalue())


def load_checkpoint(out: Path, of: dict[str, Any]) -> dict[str, Any] | None:
    """The state in a folder's checkpoint, on the CPU; none if there is no checkpoint.

    Raises:
        InputError: The file cannot be read, or belongs to another training: what differs.
    """
    path = out / CHECKPOINT
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        belongs, state = saved["of"], saved["state"]
    except Exception:  # a damaged file can make torch.load raise almost anything
        raise InputError(f"{path}: not a checkpoint that can be read; remove it to train from the start") from None
    for name, value in of.items():
        if belongs.get(name) != value:
            raise InputError(
                f"{path}: of another {name} ({belongs.get(name)}, not {value}); give another folder, or remove it to "
                "train from the start"
            )
    return state


def remove_checkpoint(out: Path) -> None:
    """Remove a folder's checkpoint, if it has one."""
    (out / CHECKPOINT).unlink(missing_ok=True)
