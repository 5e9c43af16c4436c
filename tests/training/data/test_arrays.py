"""Arrays in .npz files: scales, labels, layouts, and files that are not what they say."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.training.data import load_data
from nas_agg.training.data.sources.targets import read_targets

DRAW = np.random.default_rng(0)
IMAGES = DRAW.random((60, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(60) % 3


def load(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return load_data(f"npz:{path / 'a.npz'}")


def refusal(call, *words, **options):
    with pytest.raises(InputError) as error:
        call(*words, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (1.0, ""),
        (1.0000001, "clipped to 0 to 1"),
        (1.04, "clipped to 0 to 1"),
        (1.1, "unclear whether"),
        (2.0, "unclear whether"),
        (19.0, "unclear whether"),
        (300.0, "floats must be within"),
        (np.inf, "floats must be within"),
    ],
)
def test_a_hair_above_one_is_clipped_and_unclear_scales_are_refused(tmp_path, top, words):
    images = IMAGES.copy()
    images[0, 0, 0, 0] = top
    arrays = {"x_train": images, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    if top > 1.05:
        assert words in refusal(load, tmp_path, **arrays)
        return
    data = load(tmp_path, **arrays)
    assert len(np.unique(data.train.images.numpy())) > 200
    assert any(words in note for note in data.notes) if words else not data.notes


def test_a_slightly_negative_value_is_clipped(tmp_path):
    data = load(tmp_path, x_train=np.where(IMAGES < 0.01, -0.01, IMAGES), y_train=LABELS)
    assert int(data.train.images.min()) == 0 and "clipped" in data.notes[0]
    assert "floats must be within" in refusal(load, tmp_path, x_train=IMAGES - 0.5, y_train=LABELS)


def test_integers_above_255_are_16_bit_images(tmp_path):
    deep = DRAW.integers(0, 65536, (60, 8, 8), dtype=np.uint16)
    deep[0, 0, :2] = 0, 65535
    data = load(tmp_path, x_train=deep, y_train=LABELS, x_test=deep, y_test=LABELS)
    assert data.test.images.dtype.is_floating_point and float(data.test.images.max()) == 255.0
    np.testing.assert_allclose(data.test.images[:, 0].numpy(), deep / 257, rtol=1e-6)
    known = np.sort(np.concatenate([data.train.index, data.validation.index]))
    assert data.mean[0] == pytest.approx(deep[known].mean() / 65535, rel=1e-9)
    assert "found 0 to 70000" in refusal(
        load, tmp_path, x_train=deep.astype(np.int64) * 0 + 70000 * np.eye(8, dtype=int), y_train=LABELS
    )


LABEL_FORMS = {
    "from 1": (LABELS + 1, ("1", "2", "3")),
    "strings": (np.array(["ant", "bee", "cow"])[LABELS], ("ant", "bee", "cow")),
    "bytes": (np.array([b"ant", b"bee", b"cow"])[LABELS], ("ant", "bee", "cow")),
    "one-hot": (np.eye(3, dtype=np.float32)[LABELS], ("0", "1", "2")),
    "a column": (LABELS[:, None].astype(np.uint8), ("0", "1", "2")),
    "booleans": ((LABELS > 0), ("0", "1")),
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_labels_in_every_usual_form(form):
    labels, names = LABEL_FORMS[form]
    targets = read_targets(["y"], [labels])
    assert (targets.task, targets.class_names) == ("classification", names)
    assert np.array_equal(targets.values[0], LABELS if len(names) == 3 else LABELS > 0)


def test_several_labels_and_numbers():
    several = DRAW.integers(0, 2, (60, 4))
    targets = read_targets(["y"], [several])
    assert targets.task == "multilabel" and np.array_equal(targets.values[0], several)
    numbers = read_targets(["y"], [DRAW.random(60)])
    assert numbers.task == "regression" and numbers.values[0].shape == (60, 1)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(60.0) % 3, "use integers for classes"),
        (np.where(LABELS == 2, 5, LABELS), "has label 5 but not 2"),
        (LABELS - 1, "label -1"),
        (np.where(LABELS == 0, np.nan, 0.5), "NaN or infinite"),
        (np.array([None, 1] * 30), "Python objects"),
        (LABELS.astype(complex), "labels of type complex128"),
        (np.zeros((60, 3)), "all zeros"),
        (np.full((60, 3), 7), "integers other than 0 and 1"),
        (np.array(["\ud800", "b"] * 30), "not valid UTF-8"),
    ],
)
def test_labels_that_are_refused(tmp_path, labels, words):
    assert words in refusal(load, tmp_path, x_train=IMAGES, y_train=labels)


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y"), ("images", "labels")],
)
def test_archives_without_a_test_part_are_split_as_folders_are(tmp_path, names):
    images = DRAW.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    data = load(tmp_path, **dict(zip(names, (images, LABELS), strict=True)))
    tests = {image.tobytes() for image in data.test.images.numpy()}
    assert len(data.train) + len(data.validation) + len(data.test) == 60 and 3 < len(tests) < 30
    fewer = load(tmp_path, **dict(zip(names, (images[::2], LABELS[::2]), strict=True)))
    kept = {image.tobytes() for image in images[::2].transpose(0, 3, 1, 2)}
    assert {image.tobytes() for image in fewer.test.images.numpy()} == tests & kept


def test_a_validation_part_and_names_of_classes_are_read(tmp_path):
    data = load(
        tmp_path,
        x_train=IMAGES,
        y_train=LABELS,
        x_val=IMAGES[:9],
        y_val=LABELS[:9],
        x_test=IMAGES[:6],
        y_test=LABELS[:6],
        class_names=np.array(["a", "b", "c"]),
    )
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 9, 6) and data.class_names == ("a", "b", "c")


def member(header, body=b""):
    """An .npz whose x_train has a header of its own."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (member("{'descr': '|u1', 'fortran_order': False, 'shape': (10**12, 8, 8)}"), "not a readable .npz file"),
        (member("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8)}"), "its data differ"),
        (member("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}"), "damaged"),
        (member("{'descr': '|O', 'fortran_order': False, 'shape': (60,)}", b"0" * 60), "Python objects"),
        (member("(" * 100), "not a readable .npz file"),
        (b"nothing", "is not an array"),
    ],
)
def test_headers_are_not_believed(tmp_path, content, words):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", content)
        labels = io.BytesIO()
        np.save(labels, LABELS)
        archive.writestr("y_train.npy", labels.getvalue())
    assert words in refusal(load_data, f"npz:{tmp_path / 'a.npz'}")


def test_archives_that_expand_out_of_proportion_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x_train=np.zeros((1500, 224, 224), np.uint8), y_train=np.arange(1500) % 2)
    assert "more than 200 times is refused" in refusal(load_data, f"npz:{tmp_path / 'a.npz'}")
