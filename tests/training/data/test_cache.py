"""The cache of decoded images: whole or not there, shared, bounded; and the images that come from it."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nas_agg.common.errors import InputError
from nas_agg.training.data import Split, load_data
from nas_agg.training.data.cache import ENTRY, LIMIT_VARIABLE, PIXELS, SAMPLES, ImageCache
from nas_agg.training.data.feed import gather_ahead
from nas_agg.training.data.images import MappedImages

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_AGG_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def decoded(monkeypatch):
    """The files that are decoded."""
    from nas_agg.training.data import building

    paths, decode = [], building.decode_file
    monkeypatch.setattr(building, "decode_file", lambda path, plan: paths.append(path) or decode(path, plan))
    return paths


def test_files_are_decoded_once_until_they_change(make_folder, root, decoded):
    place = make_folder("photos", {"cat": 20, "dog": 20})
    first = load_data(f"folder:{place}", image_size=16)
    assert len(set(decoded)) == 40
    decoded.clear()
    again = load_data(f"folder:{place}", seed=1, image_size=16)
    shutil.move(place, place.with_name("moved"))
    moved = load_data(f"folder:{place.with_name('moved')}", image_size=16)
    assert not decoded and moved.digest == first.digest and torch.equal(again.test.images, first.test.images)
    Image.new("RGB", (5, 5)).save(place.with_name("moved") / "cat" / "0.png")
    assert load_data(f"folder:{place.with_name('moved')}", image_size=16).digest != first.digest and decoded
    decoded.clear()
    load_data(f"folder:{place.with_name('moved')}", image_size=16, resize="pad")
    assert decoded, "other preprocessing is another entry"
    assert len(ImageCache(root).entries()) == 3


@pytest.mark.parametrize(
    "damage", ["no entry", "short pixels", "damaged pixels", "lost pixels", "damaged samples", "damaged entry"]
)
def test_damaged_entries_are_built_again(make_folder, root, decoded, damage):
    place = make_folder("photos", {"cat": 20, "dog": 20})
    before = load_data(f"folder:{place}", image_size=16).train.images
    (entry,) = ImageCache(root).entries()
    folder = root / "cache" / entry.key
    match damage:
        case "no entry":
            (folder / ENTRY).unlink()
        case "short pixels":
            os.truncate(folder / PIXELS, 100)
        case "damaged samples" | "damaged pixels":
            file = folder / (SAMPLES if damage == "damaged samples" else PIXELS)
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "lost pixels":
            (folder / PIXELS).write_bytes(bytes((folder / PIXELS).stat().st_size))
        case "damaged entry":
            (folder / ENTRY).write_text("{")
    decoded.clear()
    after = load_data(f"folder:{place}", image_size=16)
    assert decoded and torch.equal(after.train.images, before)


BUILD = """
import sys
from nas_agg.training.data import building, load_data
decode = building.decode_file
def slow(path, plan):
    print(path, flush=True)
    import time; time.sleep({pause})
    return decode(path, plan)
building.decode_file = slow
print(load_data(sys.argv[1], image_size=16).digest, flush=True)
"""


def test_an_entry_is_whole_or_not_there_after_a_kill(make_folder, root):
    place = make_folder("photos", {"cat": 30, "dog": 30})
    script = BUILD.format(pause=0.05)
    process = subprocess.Popen([sys.executable, "-c", script, f"folder:{place}"], stdout=subprocess.PIPE)
    for _ in range(75):  # 60 to learn the format, and some more
        process.stdout.readline()
    assert list(root.glob("cache/.*.tmp"))
    process.kill()
    process.wait()
    process.stdout.close()
    assert not ImageCache(root).entries()
    load_data(f"folder:{place}", image_size=16)
    assert len(ImageCache(root).entries()) == 1 and not list(root.glob("cache/.*.tmp"))


def test_processes_that_want_the_same_entry_wait_for_one(make_folder, root):
    place = make_folder("photos", {"cat": 30, "dog": 30})
    command = [sys.executable, "-c", BUILD.format(pause=0.01), f"folder:{place}"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [process.communicate()[0].split() for process in processes]
    assert lines[0][-1] == lines[1][-1], "the digest"
    assert sorted(len(words) > 1 for words in lines) == [False, True], "one decodes"


def test_size_is_checked_by_arithmetic_before_anything_is_read(make_folder, root, decoded, monkeypatch):
    place = make_folder("photos", {"cat": 20, "dog": 20})
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**30 + 1000))
    with pytest.raises(InputError, match=r"decoded images take .* its disk has 1\.00 kB for them"):
        load_data(f"folder:{place}", image_size=1024)
    assert not decoded
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**40, total=2**41))
    monkeypatch.setenv(LIMIT_VARIABLE, "0.00001")
    with pytest.raises(InputError, match=r"may hold 10\.74 kB"):
        load_data(f"folder:{place}", image_size=1024)
    assert not decoded
    monkeypatch.setenv(LIMIT_VARIABLE, "much")
    with pytest.raises(InputError, match="'much' is not a number of GiB"):
        load_data(f"folder:{place}", image_size=16)


def test_two_hundred_gigabytes_are_refused_or_accepted_without_reading(root, monkeypatch):
    cache = ImageCache(root)
    usage = shutil.disk_usage("/")
    images = 1_281_167 + 50_000
    for free, fits in ((150 * 2**30, False), (300 * 2**30, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free, total=2**40))
        try:
            cache._check_room("imagenet", images * 3 * 224 * 224)
        except InputError as error:
            assert not fits and "decoded images take 200.38 GB" in str(error)
        else:
            assert fits


def test_least_recently_used_entries_make_room(make_folder, root, monkeypatch):
    place = make_folder("photos", {"cat": 20, "dog": 20})
    for number, size in enumerate((16, 17, 18)):
        load_data(f"folder:{place}", image_size=size)
        newest = max(ImageCache(root).entries(), key=lambda entry: entry.used)
        os.utime(root / "cache" / newest.key / ENTRY, (number, number))
    load_data(f"folder:{place}", image_size=16)  # used again
    total = sum(entry.nbytes for entry in ImageCache(root).entries())
    monkeypatch.setenv(LIMIT_VARIABLE, str((total + 1000) / 2**30))
    held = load_data(f"folder:{place}", image_size=16)
    load_data(f"folder:{place}", image_size=20)
    assert sorted(entry.shape[2] for entry in ImageCache(root).entries()) == [16, 20]
    ImageCache(root).remove(max(ImageCache(root).entries(), key=lambda e: -e.shape[2]).key)
    assert held.train.images.shape[2] == 16, "a removed entry remains readable to those that use it"


def test_the_cache_command(make_folder, root, run):
    place = make_folder("photos", {"cat": 20, "dog": 20})
    for size in (16, 20):
        load_data(f"folder:{place}", image_size=size)
    status, out, _ = run("cache")
    assert status == 0 and "3x16x16" in out and "3x20x20" in out and f"folder:{place}" in out
    key = ImageCache(root).entries()[0].key
    status, out, _ = run("cache", "--remove", key[:8])
    assert status == 0 and len(ImageCache(root).entries()) == 1
    status, _, err = run("cache", "--remove", "zz")
    assert status == 2 and "no images 'zz'" in err
    assert run("cache", "--remove", "all")[0] == 0 and not ImageCache(root).entries()
    assert run("cache", "--format", "json")[1].strip() == "[]"


def test_mapped_images_are_those_in_memory(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (50, 2, 7, 5), dtype=np.uint16)
    for dtype in (np.uint16, np.uint8):
        own = pixels.astype(dtype)
        own.tofile(tmp_path / "pixels.bin")
        mapped = MappedImages(tmp_path / "pixels.bin", own.shape, np.dtype(dtype))
        index, labels = torch.randperm(50)[:40], torch.zeros(40)
        pairs = [Split(images, labels, index, (3, 4)) for images in (mapped, torch.from_numpy(own))]
        groups = list(torch.randperm(40).split(7))
        for whole in (False, True):
            one, other = (list(gather_ahead(split, groups, CPU, whole)) for split in pairs)
            assert all(map(torch.equal, one, other)) and len(one) == len(groups)
        assert torch.equal(pairs[0].images, pairs[1].images)
        assert pairs[0].images.shape == (40, 2, 3, 4) and pairs[0].image_shape == (2, 3, 4)
        copy = pickle.loads(pickle.dumps(mapped))
        assert torch.equal(copy.gather(index), mapped.gather(index))


def test_pages_are_given_back(tmp_path, monkeypatch):
    from nas_agg.training.data import images

    monkeypatch.setattr(images, "_RELEASE_BYTES", 2**22)
    count = 400
    np.zeros((count, 1, 256, 256), np.uint8).tofile(tmp_path / "pixels.bin")
    mapped = MappedImages(tmp_path / "pixels.bin", (count, 1, 256, 256), np.dtype(np.uint8))

    def resident():
        with open("/proc/self/smaps") as file:
            text = file.read()
        part = text[text.index(str(tmp_path)) :]
        return int(part[part.index("Rss:") + 4 :].split()[0])

    releases = []
    release = mapped.release
    monkeypatch.setattr(mapped, "release", lambda: releases.append(release()))
    for rows in torch.randperm(count).split(16):
        mapped.gather(rows)
    assert len(releases) == 6, "25 MiB, 4 MiB at a time"
    release()
    assert resident() == 0
