"""Checkpoints of trainings. Reading one executes no code from the file."""

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
_DIGEST_BYTES = hashlib.sha256().digest_size


class DamagedCheckpoint(InputError):
    """A checkpoint is not what was written; the training can only start anew."""


def model_fingerprint(model: nn.Module) -> str:
    """A hash of the names, shapes and types of a model's parameters and buffers."""
    state = model.state_dict()
    text = ";".join(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}" for name, tensor in state.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_checkpoint(out: Path, fingerprint: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a folder's checkpoint, replacing an earlier one. The file ends with the SHA-256 of what is before.

    Args:
        out: The folder.
        fingerprint: Identifies the training: plain values by name.
        state: Tensors and plain values.
    """
    buffer = io.BytesIO()
    torch.save({"of": fingerprint, "state": state}, buffer)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_atomic(out / CHECKPOINT, buffer.getvalue())


def load_checkpoint(out: Path, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    """Load the state of a folder's checkpoint to the CPU; None if there is no checkpoint.

    Raises:
        DamagedCheckpoint: The file is damaged.
        InputError: It belongs to another training; the message names what differs.
    """
    path = out / CHECKPOINT
    if not path.exists():
        return None
    check_regular_file(path)
    try:
        data = path.read_bytes()
        content = io.BytesIO(data[:-_DIGEST_BYTES])
        if hashlib.sha256(content.getbuffer()).digest() != data[-_DIGEST_BYTES:]:
            raise DamagedCheckpoint(f"{path}: damaged: it does not match its SHA-256; remove it to start anew")
        check_uncompressed(content)
        content.seek(0)
        saved = torch.load(content, map_location="cpu", weights_only=True)
        saved_fingerprint, state = dict(saved["of"]), dict(saved["state"])
    except InputError:
        raise
    except Exception:  # a damaged file can make torch.load raise almost anything
        raise DamagedCheckpoint(f"{path}: not a readable checkpoint; remove it to start anew") from None
    for name, value in fingerprint.items():
        if saved_fingerprint.get(name) != value:
            raise InputError(
                f"{path}: checkpoint of another {name} ({saved_fingerprint.get(name)}, not {value}); choose another "
                "folder, or remove the checkpoint to start anew"
            )
    return state


def remove_checkpoint(out: Path) -> None:
    """Remove a folder's checkpoint, if there is one."""
    (out / CHECKPOINT).unlink(missing_ok=True)
