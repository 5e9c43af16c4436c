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


def write_set(kind, place, images, present):
    """Write the images that are present, by number; odd ones are dogs. Returns what `load_data` reads."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if kind == "npz":
        np.savez(place / "set.npz", x_train=images[present], y_train=np.array(present) % 2)
        return f"npz:{place / 'set.npz'}"
    rows = ["path,label,split"]
    for number in present:
        name = f"{('cat', 'dog')[number % 2]}/{number}.npy"
        (place / name).parent.mkdir(exist_ok=True)
        np.save(place / name, images[number])
        rows.append(f"{name},{number % 2},{ASSIGNED.get(number, '')}")
    if kind == "folder":
        return f"folder:{place}"
    (place / "set.csv").write_text("\n".join(rows))
    return f"csv:{place / 'set.csv'}"


#: Images whose split a CSV file specifies; others are drawn.
ASSIGNED = dict.fromkeys(range(10), "train") | {10: "test", 11: "val", 12: "val"}


@pytest.mark.parametrize("changes", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["folder", "npz", "csv"])
@pytest.mark.parametrize("most", [14, 80])
def test_files_that_come_and_go_move_no_image(kind, most, changes, tmp_path, monkeypatch):
    """Also of sets so small that some of them have no test image."""
    monkeypatch.setenv("NAS_AGG_DATA", str(tmp_path / "root"))
    draw = np.random.default_rng(most)
    images = draw.integers(0, 256, (2 * most, 6, 6, 3), dtype=np.uint8)
    present, roles, untested = set(range(most)), {}, 0
    for change in range(changes):
        present ^= {int(draw.integers(2 * most))}
        if change % 10 or len({number % 2 for number in present}) < 2:
            continue
        data = load_data(write_set(kind, tmp_path / "set", images, sorted(present)), seed=change % 3)
        untested += not len(data.test)
        assert len(data.test) or data.notes[0].startswith("no test images, so networks are not tested: ")
        for name, split in data.splits.items():
            for image in split.images.numpy():
                role = "test" if name == "test" else "known"
                assert roles.setdefault(image.tobytes(), role) == role
    assert list(roles.values()).count("test") > most / 20
    assert untested <= (changes / 20 if most < 20 else 0)


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


def test_few_images_of_which_none_or_all_are_test_images():
    test = split_samples(samples_of(range(50), [0, 1] * 25), 0).test.tolist()
    known = [i for i in range(50) if i not in test]
    few = split_samples(samples_of(known[:6], [0, 1] * 3), 0)
    assert not len(few.test) and len(few.train) + len(few.validation) == 6
    assert [note for note in few.notes if "none of these 6 is" in note] == list(few.notes)
    with pytest.raises(InputError, match="all 4 images are test images; add images"):
        split_samples(samples_of(test[:4], [0, 1] * 2), 0)
    parts = parts_of((Part.TRAIN, 6), (Part.LEFT_OUT, 3))  # those of the test folder are unreadable
    assert not len(split_samples(samples_of(range(9), np.arange(9) % 2, parts=parts), 0).test)


def test_images_for_training_are_no_test_images_whatever_the_others_are():
    """The last test image of a table may be removed: those for training stay where they are."""
    parts = parts_of((Part.TRAIN, 100), (Part.UNASSIGNED, 100), (Part.TEST, 1))
    for images in (201, 200):
        split = split_samples(samples_of(range(images), np.arange(images) % 2, parts=parts[:images]), 0)
        assert split.test.min() >= 100 and 10 < len(split.test) < 40 and (200 in split.test) == (images == 201)


def test_validation_images_of_a_table_never_become_test_images(tmp_path):
    """Its last test row may be removed, and come back."""
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    rows = {number: ("train", "val", "test")[min(2, number // 5)] for number in range(12)}
    for present in (12, 10, 11):
        write_set("folder", tmp_path / "set", images, range(present))
        lines = [f"{('cat', 'dog')[i % 2]}/{i}.npy,{i % 2},{rows[i]}" for i in range(present)]
        (tmp_path / "set" / "set.csv").write_text("\n".join(["path,label,split", *lines]))
        data = load_data(f"csv:{tmp_path / 'set' / 'set.csv'}", root=tmp_path / "root")
        assert [len(split) for split in data.splits.values()] == [5, 5, present - 10]
        untested = [note for note in data.notes if "images for training or validation never become test images" in note]
        assert len(untested) == (present == 10)


def test_parts_that_the_source_gives_are_kept():
    parts = parts_of((Part.TRAIN, 6), (Part.VALIDATION, 2), (Part.LEFT_OUT, 1), (Part.TEST, 3))
    split = split_samples(samples_of(np.arange(12), np.arange(12) % 2, parts=parts), 0)
    assert split.train.tolist() == list(range(6))
    assert split.validation.tolist() == [6, 7]
    assert split.test.tolist() == [9, 10, 11]
