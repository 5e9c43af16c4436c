"""Layouts of image folders, and what is left out of them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from nas_agg.common.errors import InputError
from nas_agg.training.data import load_data
from nas_agg.training.data.samples import Part
from nas_agg.training.data.sources.folders import list_folder

COUNTS = {"cat": 6, "dog": 6}


def refusal(call, *words, **options):
    with pytest.raises(InputError) as error:
        call(*words, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def parts_by_folder(place):
    listing = list_folder(place)
    return listing, {
        part.name: sorted({os.path.relpath(f.path, place).split(os.sep)[0] for f in files})
        for part in Part
        if (files := [f for f, p in zip(listing.files, listing.parts, strict=True) if p == part])
    }


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "valid", "test"), {"TRAIN": ["train"], "VALIDATION": ["valid"], "TEST": ["test"]}),
        (("Train", "Validation", "TEST"), {"TRAIN": ["Train"], "VALIDATION": ["Validation"], "TEST": ["TEST"]}),
        (("training", "testing"), {"TRAIN": ["training"], "TEST": ["testing"]}),
        (("train", "val"), {"TRAIN": ["train"], "TEST": ["val"]}),
        (("train",), {"UNASSIGNED": ["train"]}),
    ],
)
def test_layouts_with_split_folders(make_folder, folders, expected):
    for number, name in enumerate(folders):
        place = make_folder(f"set/{name}", COUNTS, seed=number).parent
    listing, parts = parts_by_folder(place)
    assert listing.class_names == ("cat", "dog") and parts == expected
    assert any("no test folder" in note for note in listing.notes) == ("TEST" not in expected or folders[1] == "val")
    assert len(load_data(f"folder:{place}", image_size=8).test)


def test_a_class_may_be_called_like_a_split(make_folder):
    place = make_folder("vehicles", {"train": 5, "plane": 5})
    assert list_folder(place).class_names == ("plane", "train")
    (place / "test").mkdir()
    assert "no class folders in the folder of a split" in refusal(list_folder, place)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("train/x", "val/x", "valid/x"), "both 'val' and 'valid' could be the validation split"),
        (("test/a", "test/b"), "but no 'train'"),
        (("train/cat", "train/dog", "test/cow"), "class 'cow' is not in train"),
        (("set/cat", "set/dog"), "did you mean folder:"),
    ],
)
def test_layouts_that_are_refused(tmp_path, folders, words):
    for name in folders:
        (tmp_path / "root" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "root" / name / "0.png")
    assert words in refusal(list_folder, tmp_path / "root")


def test_what_is_left_out_is_counted_and_named(make_folder):
    place = make_folder("photos", COUNTS)
    shutil.copytree(place / "dog", place / "cat" / ".ipynb_checkpoints")
    shutil.copytree(place / "dog", place / "dog" / "__MACOSX")
    (place / "cat" / ".hidden.png").write_bytes(b"")
    (place / "cat" / "notes.txt").write_text("x")
    (place / "readme.md").write_text("x")
    (place / "cat" / "gone.png").symlink_to("nowhere.png")
    (place / "cat" / "round").symlink_to(place)
    os.mkfifo(place / "dog" / "pipe.png")
    listing = list_folder(place)
    assert len(listing.files) == 12
    (note,) = listing.notes
    assert "2 hidden folders (first: cat/.ipynb_checkpoints)" in note
    for words in (
        "1 hidden files (cat/.hidden.png)",
        "1 files with other suffixes than images (cat/notes.txt)",
        "1 files outside the class folders (readme.md)",
        "1 dangling links (cat/gone.png)",
        "1 links to a folder that contains them (cat/round)",
        "1 pipes or devices (dog/pipe.png)",
    ):
        assert words in note


def test_links_to_folders_are_followed(make_folder, tmp_path):
    place, other = make_folder("photos", COUNTS), make_folder("elsewhere", {"more": 3}, seed=9)
    (place / "cat" / "linked").symlink_to(other / "more")
    (tmp_path / "link").symlink_to(place)
    (place / "cow").symlink_to(other / "more")
    assert list_folder(tmp_path / "link").class_names == ("cat", "cow", "dog")
    assert len(list_folder(place).files) == 12 + 3 + 3


def test_names_that_are_not_text_are_refused_before_anything_is_read(make_folder, tmp_path):
    place = make_folder("photos", COUNTS)
    os.mkdir(os.fsencode(place) + b"/\xff\xfe")
    assert "not valid UTF-8" in refusal(load_data, f"folder:{place}")
    shutil.rmtree(os.fsencode(place) + b"/\xff\xfe")
    os.rename(place, os.fsencode(tmp_path) + b"/\xfa")
    assert "not valid UTF-8" in refusal(load_data, "folder:" + os.fsdecode(os.fsencode(tmp_path) + b"/\xfa"))
    assert "has a NUL" in refusal(load_data, f"folder:{tmp_path}/a\0b")


def test_all_unreadable_images_are_named_at_once_and_may_be_skipped(make_folder):
    place = make_folder("photos", {"cat": 20, "dog": 20})
    (place / "cat" / "3.png").write_bytes(b"")
    (place / "dog" / "1.png").write_bytes((place / "dog" / "2.png").read_bytes()[:100])
    (place / "dog" / "7.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")  # Pillow alone would start Ghostscript
    message = refusal(load_data, f"folder:{place}", image_size=8)
    assert "3 images are not readable" in message
    for words in ("cat/3.png (an empty file)", "dog/1.png (", "dog/7.jpg (not an image of a known kind)", "--skip"):
        assert words in message
    data = load_data(f"folder:{place}", image_size=8, skip_unreadable=True)
    assert sum(len(split) for split in data.splits.values()) == 38
    assert any("3 images are not readable" in note and "skipped" in note for note in data.notes)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_grey_images_have_one_channel_however_they_are_saved(make_folder, mode):
    place = make_folder("grey", {"cat": 8, "dog": 8}, mode="L")
    for path in place.rglob("*.png"):
        with Image.open(path) as image:
            converted = image.convert(mode)
        converted.save(path)
    assert load_data(f"folder:{place}", image_size=16).input == (1, 16, 16)
    rgba = Image.fromarray(np.full((4, 4, 4), 9, np.uint8))
    rgba.save(place / "cat" / "0.png")
    assert load_data(f"folder:{place}", image_size=16).input[0] == 1
    Image.new("RGB", (4, 4)).save(place / "cat" / "0.png")
    assert load_data(f"folder:{place}", image_size=16).input[0] == 3
