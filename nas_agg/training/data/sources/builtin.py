"""Data sets by name: scikit-learn's digits and torchvision's."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.training.data.samples import Part, Samples, parts_of
from nas_agg.training.recipes import Augmentation

_FILES = {
    "fashion-mnist": "FashionMNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte "
    "and t10k-labels-idx1-ubyte",
    "cifar10": "cifar-10-batches-py/ (unpacked from cifar-10-python.tar.gz)",
    "cifar100": "cifar-100-python/ (unpacked from cifar-100-python.tar.gz)",
}


def read_digits() -> Samples:
    """Scikit-learn's digits, with their 17 grey levels scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    parts = parts_of((Part.UNASSIGNED, len(images)))
    return Samples("digits", tuple("0123456789"), Augmentation(crop=1), images, bunch.target.astype(np.int64), parts)


def read_torchvision(name: str, root: Path) -> Samples:
    """``fashion-mnist``, ``cifar10`` or ``cifar100`` from ``root``, downloaded if missing.

    Raises:
        InputError: The files are missing and the download failed; the message says which files are needed.
    """
    from torchvision import datasets

    kind = {"fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    remedy = f"put {_FILES[name]} into {root}, or set NAS_AGG_DATA to a folder that contains it"
    try:
        # CIFAR's files are pickles: torchvision opens them only if their checksums are correct.
        sets = [_open_existing(kind, root, train) or _download(kind, root, train) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name}: not found in {root}, and the download failed ({text}); {remedy}") from None
    images = np.ascontiguousarray(np.concatenate([_channels_first(np.asarray(s.data)) for s in sets]))
    labels = np.concatenate([np.asarray(s.targets, np.int64) for s in sets])
    augmentation = Augmentation(crop=2 if name == "fashion-mnist" else 4, flip=True)
    parts = parts_of((Part.TRAIN, len(sets[0].targets)), (Part.TEST, len(sets[1].targets)))
    return Samples(name, tuple(str(c) for c in sets[0].classes), augmentation, images, labels, parts)


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    images = images[..., None] if images.ndim == 3 else images
    return images.transpose(0, 3, 1, 2)


def _open_existing(kind: Any, root: Path, train: bool) -> Any:
    try:
        return kind(root, train=train, download=False)
    except RuntimeError:  # files that are missing or have wrong checksums
        return None


def _download(kind: Any, root: Path, train: bool) -> Any:
    root.mkdir(parents=True, exist_ok=True)
    with _socket_timeout(30), contextlib.ExitStack() as quiet:
        silence = quiet.enter_context(open(os.devnull, "w"))
        quiet.enter_context(contextlib.redirect_stdout(silence))
        quiet.enter_context(contextlib.redirect_stderr(silence))
        return kind(root, train=train, download=True)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
