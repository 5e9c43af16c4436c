"""Splits follow from each image's own bytes: no change of a data set moves an image from training to testing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.training.data import load_data
from nas_agg.training.data.decoding import content_key
from nas_agg.training.data.samples import Part, Samples, parts_of
from nas_agg.training.data.splits import TEST_SHARE, mix, split_samples
from nas_agg.training.recipes import Augmentation


def samples_of(identities, labels, **changes):
    """Samples without pixels: an image is known by its number."""
    keys = np.stack([content_key(int(i).to_bytes(8, "little")) for i in identities])
    classes = tuple(str(c) for c in range(int(max(labels)) + 1))
    fields = {
        "parts": parts_of((Part.UNASSIGNED, len(identities))),
        "pixels": np.empty((0, 1, 1, 1), np.uint8),
        "keys": keys,
        "targets": np.asarray(labels, np.int64),
    }
    return Samples("made", classes, Augmentation(), **(fields | changes))


def test_a_thousand_random_changes_move_no_image_from_training_to_testing():
    draw = np.random.default_rng(0)
    present = dict.fromkeys(range(150), 0) | dict.fromkeys(range(150, 300), 1)
    role, new = {}, 300
    for change in range(1000):
        for _ in range(draw.integers(1, 12)):
            if draw.random() < 0.5 and len(present) > 60:
                del present[list(present)[draw.integers(len(present))]]
            else:
                present[new] = int(draw.integers(2))
                new += 1
        order = draw.permutation(list(present))
        split = split_samples(samples_of(order, [present[i] for i in order]), seed=change % 3)
        for name in ("train", "validation", "test"):
            for image in order[getattr(split, name)]:
                now = "test" if name == "test" else "known"
                assert role.setdefault(int(image), now) == now
    assert {"test", "known"} == set(role.values())


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_files_that_come_and_go_move_no_image(kind, make_folder, tmp_path):
    draw = np.random.default_rng(1)
    place = make_folder("photos", {"cat": 40, "dog": 40})
    images, labels = draw.integers(0, 256, (80, 16, 16, 3), dtype=np.uint8), np.arange(80) % 2
    role = {}
    for _ in range(8):
        keep = np.sort(draw.permutation(80)[: draw.integers(60, 80)])
        if kind == "npz":
            np.savez(tmp_path / "set.npz", x_train=images[keep], y_train=labels[keep])
            data = load_data(f"npz:{tmp_path / 'set.npz'}")
        else:
            shutil.rmtree(tmp_path / "some", ignore_errors=True)
            for number in keep:
                name = f"{('cat', 'dog')[number % 2]}/{number // 2}.png"
                (tmp_path / "some" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(place / name, tmp_path / "some" / name)
            data = load_data(f"folder:{tmp_path / 'some'}", image_size=16)
        for split, now in ((data.train, "known"), (data.validation, "known"), (data.test, "test")):
            for image in split.images.numpy():
                assert role.setdefault(image.tobytes(), now) == now
    assert list(role.values()).count("test") > 5


def test_shares_seeds_and_copies():
    labels = np.arange(4000) % 4
    samples = samples_of(np.arange(4000), labels)
    first, other = split_samples(samples, 0), split_samples(samples, 1)
    assert np.array_equal(first.test, other.test) and not np.array_equal(first.validation, other.validation)
    assert abs(len(first.test) / 4000 - TEST_SHARE) < 0.02
    assert sorted([*first.train, *first.validation, *first.test]) == list(range(4000))
    copies = split_samples(samples_of(np.arange(300) % 100, np.zeros(300)), 0)
    for name in ("train", "validation", "test"):
        index = getattr(copies, name)
        assert len(index) == 3 * len(set(index % 100)), "copies of an image are in one split"
    assert len(set(mix(np.arange(1000, dtype=np.uint64)))) == 1000


def test_classes_that_a_split_lacks_are_named():
    labels = [0] * 50 + [1] * 50 + [2]
    split = split_samples(samples_of(np.arange(101), labels), 0)
    assert split.notes[0] == "a single image of class '2'"
    assert any("class '2'" in note and note.startswith("no ") for note in split.notes[1:])
    known = [i for i in range(50) if i not in split_samples(samples_of(range(50), [0, 1] * 25), 0).test]
    few = split_samples(samples_of(known[:6], [0, 0, 0, 1, 1, 1]), 0)
    assert len(few.test) >= 1 and any("may change when others are added" in note for note in few.notes)
    with pytest.raises(InputError, match="too few images to split"):
        split_samples(samples_of([1, 2], [0, 1]), 0)


def test_parts_that_the_source_gives_are_kept():
    parts = parts_of((Part.TRAIN, 6), (Part.VALIDATION, 2), (Part.LEFT_OUT, 1), (Part.TEST, 3))
    split = split_samples(samples_of(np.arange(12), np.arange(12) % 2, parts=parts), 0)
    assert split.train.tolist() == list(range(6))
    assert split.validation.tolist() == [6, 7]
    assert split.test.tolist() == [9, 10, 11]
