"""Checkpoints: what a training goes on from. Nothing in them is executed when read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file, check_uncompressed, write_atomic

CHECKPOINT = "checkpoint.pt"


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
    check_regular_file(path)
    try:
        check_uncompressed(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        belongs, state = dict(saved["of"]), dict(saved["state"])
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
