"""Damaged data folders and archives: one line or a data set, no traceback, no hang, bounded memory."""

from __future__ import annotations

import os
import resource
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from nas_agg.common.errors import NasAggError
from nas_agg.training.data import load_data

FORMATS = ("png", "jpg", "bmp", "gif", "ppm", "tif", "webp", "npy")
SECONDS, BYTES = 5, 2**30
RESERVED = b"\x00\xff\x01\x7f\x80PK{}()','"


def flip(data, draw):
    """Bytes with some bits flipped, ranges removed, repeated or replaced."""
    data = bytearray(data)
    for _ in range(draw.integers(1, 5)):
        at = int(draw.integers(len(data) + 1))
        length = int(min(draw.integers(1, 40), len(data) - at))
        match draw.integers(6):
            case 0 if at < len(data):
                data[at] ^= 1 << int(draw.integers(8))
            case 1:
                del data[at:]
            case 2:
                data[at : at + length] = draw.bytes(length)
            case 3:
                data[at:at] = data[at : at + length] * int(draw.integers(1, 4))
            case 4:
                data[at : at + 4] = b"\xff\xff\xff\x7f"
            case 5:
                data[at : at + 1] = bytes([RESERVED[int(draw.integers(len(RESERVED)))]])
    return bytes(data)


def images_of(place, draw):
    """A folder with images of every format."""
    for label in ("cat", "dog"):
        (place / label).mkdir(parents=True)
        for number, suffix in enumerate(FORMATS):
            pixels = draw.integers(0, 256, (8, 9, 3), dtype=np.uint8)
            path = place / label / f"{number}.{suffix}"
            if suffix == "npy":
                np.save(path, pixels)
            else:
                Image.fromarray(pixels).save(path)


def mutate_folder(place, draw):
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    for _ in range(draw.integers(1, 4)):
        path = files[int(draw.integers(len(files)))]
        if not path.is_file() or path.is_symlink():
            continue
        match draw.integers(10):
            case 0:
                path.unlink()
                path.mkdir()
            case 1:
                path.unlink()
                path.symlink_to(("nowhere", "..", "/dev/zero", "/")[int(draw.integers(4))])
            case 2:
                path.unlink()
                os.mkfifo(path)
            case 3:
                os.rename(
                    path, os.fsencode(path.parent) + b"/" + draw.bytes(5).replace(b"/", b"_").replace(b"\0", b"_")
                )
            case 4:
                os.rename(path.parent, path.parent.with_name(("train", "test", "val", ".cat")[int(draw.integers(4))]))
                return
            case 5:
                path.write_bytes(b"")
            case _:
                path.write_bytes(flip(path.read_bytes(), draw))


def attempt(spec, **options):
    """Load a mutated data set; returns whether it was read."""
    start, cpu = time.monotonic(), time.process_time()
    try:
        load_data(spec, image_size=8, **options)
        read = True
    except NasAggError as error:
        assert str(error) and "\n" not in str(error)
        read = False
    # Time of the processor, since a busy machine makes everything slow; what waits for ever exceeds the other bound.
    assert time.process_time() - cpu < SECONDS and time.monotonic() - start < 20 * SECONDS
    return read


def check_folders(count, seed, tmp_path, monkeypatch):
    draw = np.random.default_rng(seed)
    images_of(tmp_path / "clean", draw)
    monkeypatch.setenv("NAS_AGG_DATA", str(tmp_path / "root"))
    outcomes = set()
    for _ in range(count):
        shutil.copytree(tmp_path / "clean", tmp_path / "mutated")
        mutate_folder(tmp_path / "mutated", draw)
        outcomes.add(attempt(f"folder:{tmp_path / 'mutated'}", skip_unreadable=bool(draw.integers(2))))
        shutil.rmtree(tmp_path / "mutated")
        shutil.rmtree(tmp_path / "root", ignore_errors=True)
    return outcomes


def check_archives(count, seed, tmp_path):
    draw = np.random.default_rng(seed)
    path, outcomes = tmp_path / "a.npz", set()
    for number in range(count):
        images = draw.integers(0, 256, (30, 5, 4, 3)[: 3 + number % 2], dtype=np.uint8)
        kinds = (images, images / 255, images.astype(np.uint16) * 9, images.astype(np.float16))
        save = np.savez if number % 3 else np.savez_compressed
        save(path, x_train=kinds[number % 4], y_train=np.arange(30) % 3 + number % 2)
        path.write_bytes(flip(path.read_bytes(), draw))
        outcomes.add(attempt(f"npz:{path}"))
    return outcomes


@pytest.mark.parametrize("count", [25, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_folders_and_archives(count, tmp_path, monkeypatch):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert check_folders(count, 1, tmp_path, monkeypatch) == {True, False}
    assert False in check_archives(count, 2, tmp_path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
