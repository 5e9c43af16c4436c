"""Reading and splitting data sets; malformed data are refused with a one-line error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nas_agg.common.errors import InputError
from nas_agg.training.data import DATASETS, Data, load_data

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def arrays(count=40, test=20, classes=4, shape=(9, 7)):
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (count, *shape), dtype=np.uint8),
        "y_train": np.arange(count) % classes,
        "x_test": draw.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % classes,
    }


def npz(path, **changes):
    file = path / "set.npz"
    np.savez(file, **{k: v for k, v in {**arrays(), **changes}.items() if v is not None})
    return f"npz:{file}"


def folder(place, names=("ant", "bee"), count=6, mode="RGB", size=(10, 12)):
    draw = np.random.default_rng(0)
    for name in names:
        (place / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(place / name / f"{number}.png")
    return place


def refusal(spec, **options):
    with pytest.raises(InputError) as error:
        load_data(spec, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows(split):
    return {bytes(image) for image in split.images.numpy().reshape(len(split), -1)}


def test_digits_are_all_there_once_and_stratified(digits):
    assert digits.input == (1, 8, 8) and digits.classes == 10
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert digits.train.images.dtype == torch.uint8 and digits.train.labels.dtype == torch.int64
    assert len(rows(digits.train) | rows(digits.validation) | rows(digits.test)) == 1797
    whole = torch.bincount(torch.cat([s.labels for s in (digits.train, digits.validation, digits.test)]))
    for split, share in ((digits.test, 0.2), (digits.validation, 0.16)):
        assert (torch.bincount(split.labels) - share * whole).abs().max() < 1.5


def test_the_seed_moves_the_validation_split_alone(digits):
    other = load_data("digits", seed=1)
    assert torch.equal(other.test.images, digits.test.images) and torch.equal(other.test.labels, digits.test.labels)
    assert rows(other.validation) != rows(digits.validation)
    assert torch.equal(load_data("digits", seed=1).validation.images, other.validation.images)
    assert (other.mean, other.std) == (digits.mean, digits.std)


def test_mean_and_std_are_those_of_all_but_the_test_images(digits):
    known = (digits.train + digits.validation).images.double() / 255
    assert digits.mean[0] == pytest.approx(known.mean().item(), rel=1e-12)
    assert digits.std[0] == pytest.approx(known.std(correction=0).item(), rel=1e-12)


def test_large_sets_validate_on_a_tenth(tmp_path):
    data = load_data(npz(tmp_path, **arrays(count=12_000, shape=(2, 2))))
    assert len(data.validation) == 1200


def test_image_size_scales_to_a_square_and_widens_the_crop(digits):
    data = load_data("digits", image_size=16)
    assert data.input == (1, 16, 16) and data.augmentation.crop == 2 and not data.notes
    reference = torch.nn.functional.interpolate(digits.test.images.float(), (16, 16), mode="bilinear")
    assert (data.test.images - reference).abs().max() <= 0.5
    assert load_data("digits", image_size=4).input == (1, 4, 4)


def test_scaling_to_an_integer_fraction_averages_blocks(tmp_path, digits):
    source = arrays(shape=(12, 12, 3))
    data = load_data(npz(tmp_path, **source), image_size=4)
    squares = source["x_test"].reshape(-1, 4, 3, 4, 3, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.test.images.numpy(), np.rint(squares).astype(np.uint8))
    other = load_data(npz(tmp_path, **source), image_size=5).test.images
    floats = torch.from_numpy(source["x_test"].transpose(0, 3, 1, 2)).float()
    wanted = torch.nn.functional.interpolate(floats, (5, 5), mode="bilinear", antialias=True)
    assert (other - wanted).abs().max() <= 0.5


def test_the_requested_number_of_images_is_drawn_by_seed_and_class(tmp_path, digits):
    data = load_data("digits", train_images=100, validation_images=333)
    assert (len(data.train), len(data.validation)) == (100, 333)
    assert torch.equal(data.test.images, digits.test.images)
    assert not rows(data.train) & rows(data.validation)
    whole = torch.bincount(torch.cat([digits.train.labels, digits.validation.labels])) / 1438
    for split in (data.train, data.validation):
        assert (torch.bincount(split.labels) - len(split) * whole).abs().max() < 1.5
    again, other = (load_data("digits", seed, train_images=100, validation_images=333) for seed in (0, 1))
    assert again.digest == data.digest
    assert rows(other.validation) != rows(data.validation) and rows(other.train) != rows(data.train)
    more = load_data("digits", validation_images=333)
    assert torch.equal(more.validation.images, data.validation.images) and rows(data.train) < rows(more.train)
    place = folder(tmp_path / "own" / "train").parent
    folder(place / "val"), folder(place / "test")
    own = load_data(f"folder:{place}", validation_images=4, train_images=10)
    assert (len(own.train), len(own.validation), len(own.test)) == (10, 4, 12)


def test_more_images_than_there_are_cannot_be_drawn(tmp_path):
    assert "digits: train_images 1,106: must be 1 to 1,105" in refusal(
        "digits", train_images=1106, validation_images=333
    )
    assert "digits: validation_images 0: must be 1 to 1,438" in refusal("digits", validation_images=0)
    assert "no training images would remain" in refusal("digits", validation_images=1438)


def test_min_side_scales_up_in_proportion_and_says_so(tmp_path):
    data = load_data(npz(tmp_path), min_side=14)
    assert data.input == (1, 18, 14) and data.train.images.shape[2:] == (18, 14)
    assert "9x7 to 18x14" in data.notes[0]
    assert load_data(npz(tmp_path), min_side=7).notes == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_layouts_and_number_types_are_the_same_images(tmp_path, channels):
    base = arrays(shape=(9, 7, channels))
    if channels == 1:
        base = {k: v[..., 0] if k[0] == "x" else v for k, v in base.items()}
    reference = load_data(npz(tmp_path, **base))
    assert reference.input == (channels, 9, 7)
    images = {k: v if v.ndim == 4 else v[..., None] for k, v in base.items() if k[0] == "x"}
    variants = [
        images,
        {k: v.transpose(0, 3, 1, 2) for k, v in images.items()},
        {k: (v / 255).astype(np.float32) for k, v in images.items()},
        {k: v.astype(np.float64) for k, v in images.items()},
        {k: v.astype(np.int32) for k, v in images.items()} | {"y_train": base["y_train"][:, None].astype(np.uint8)},
    ]
    for variant in variants:
        data = load_data(npz(tmp_path, **{**base, **variant}))
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(data, part).images, getattr(reference, part).images)
            assert torch.equal(getattr(data, part).labels, getattr(reference, part).labels)


def gap():
    return np.where(arrays()["y_train"] == 2, 3, arrays()["y_train"])


MALFORMED = {
    "missing": ({"y_test": None}, "array y_test is missing"),
    "one shape": ({"x_train": np.zeros(40, np.uint8)}, "x_train: shape"),
    "five axes": ({"x_train": np.zeros((40, 1, 9, 7, 1), np.uint8)}, "x_train: shape"),
    "empty": ({"x_test": np.zeros((0, 9, 7), np.uint8), "y_test": np.zeros(0, int)}, "x_test: shape"),
    "layout": ({"x_train": np.zeros((40, 3, 9, 3), np.uint8)}, "is ambiguous"),
    "lengths": ({"y_train": np.arange(39) % 4}, "40 images, y_train 39 labels"),
    "sizes": ({"x_test": np.zeros((20, 9, 8), np.uint8)}, "differ in size"),
    "float labels": ({"y_train": np.arange(40.0) % 4}, "y_train: labels of type float64"),
    "two labels": (
        {"y_train": np.zeros((40, 2), int), "y_test": np.zeros((20, 2), int)},
        "y_train: shape (40, 2), all zeros",
    ),
    "negative": ({"y_train": np.arange(40) % 4 - 1}, "label -1"),
    "gap": ({"y_train": gap()}, "label 3 but not 2"),
    "huge label": ({"y_train": np.where(np.arange(40) == 0, 2**62, 0)}, f"label {2**62} but not 1"),
    "one class": ({"y_train": np.zeros(40, int)}, "single class"),
    "unseen class": ({"y_test": np.full(20, 4)}, "y_test has label 4"),
    "too bright": ({"x_train": np.full((40, 9, 7), 256.0), "x_test": np.zeros((20, 9, 7))}, "floats must be within"),
    "nan": ({"x_test": np.full((20, 9, 7), np.nan), "x_train": np.zeros((40, 9, 7))}, "floats must be within"),
    "nan first": ({"x_train": np.full((40, 9, 7), np.nan), "x_test": np.zeros((20, 9, 7))}, "floats must be within"),
    "two scales": ({"x_test": np.zeros((20, 9, 7))}, "x_train is uint8 and x_test float64"),
    "dark": ({"x_train": np.full((40, 9, 7), -1)}, "0 to 65535, found -1"),
    "complex": ({"x_train": np.zeros((40, 9, 7), complex)}, "type complex128"),
    "objects": ({"x_train": np.array([{}] * 40, dtype=object)}, "x_train: an array of Python objects"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_npz(tmp_path, case):
    changes, words = MALFORMED[case]
    spec = npz(tmp_path, **changes)
    message = refusal(spec)
    assert words in message and spec[4:] in message


def test_npz_files_that_are_none(tmp_path):
    assert "no such file" in refusal(f"npz:{tmp_path / 'none.npz'}")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 broken")
    assert "bad.npz: not a readable .npz file" in refusal(f"npz:{tmp_path / 'bad.npz'}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "a single array" in refusal(f"npz:{tmp_path / 'one.npy'}")
    assert "not a readable .npz file" in refusal(f"npz:{tmp_path}")
    whole = (tmp_path / "set.npz", npz(tmp_path))[0].read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz: not a readable .npz file" in refusal(f"npz:{tmp_path / 'cut.npz'}")


def test_folder_without_split(tmp_path):
    place = folder(tmp_path / "set", count=10)
    (place / "ant" / "notes.txt").write_text("x")
    (place / ".hidden").mkdir()
    data = load_data(f"folder:{place}", image_size=12)
    assert data.class_names == ("ant", "bee") and data.input == (3, 12, 12)
    assert len(data.train) + len(data.validation) + len(data.test) == 20
    assert torch.equal(load_data(f"folder:{place}", seed=5, image_size=12).test.images, data.test.images)
    left_out = "left out 1 hidden folders (.hidden), 1 files with other suffixes than images (ant/notes.txt)"
    assert data.notes[0] == left_out
    assert load_data(f"folder:{place}").input == (3, 64, 64)


def test_folder_with_split_keeps_every_image_in_its_part(tmp_path):
    folder(tmp_path / "train", count=5, size=(6, 6))
    folder(tmp_path / "test", count=2, size=(6, 6))
    data = load_data(f"folder:{tmp_path}", image_size=6)
    assert len(data.train) + len(data.validation) == 10 and len(data.test) == 4
    with Image.open(tmp_path / "test" / "bee" / "1.png") as image:
        assert np.array_equal(data.test.images[3].permute(1, 2, 0), np.asarray(image))
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    folder(tmp_path / "val", count=1)
    data = load_data(f"folder:{tmp_path}", seed=9)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [10, 2, 4]


def test_grey_folders_have_one_channel(tmp_path):
    place = folder(tmp_path / "set", mode="L")
    assert load_data(f"folder:{place}").input == (1, 64, 64)
    Image.new("RGB", (5, 5)).save(place / "ant" / "colour.png")
    assert load_data(f"folder:{place}").input == (3, 64, 64)


def test_malformed_folders(tmp_path):
    assert "no such folder" in refusal(f"folder:{tmp_path / 'none'}")
    assert "no class folders" in refusal(f"folder:{tmp_path}")
    place = folder(tmp_path / "set")
    assert "not a folder" in refusal(f"folder:{place / 'ant' / '0.png'}")
    (place / "cat").mkdir()
    assert f"{place / 'cat'}: no images" in refusal(f"folder:{place}")
    (place / "cat" / "broken.png").write_bytes(b"\x89PNG no")
    assert "1 image is not readable: cat/broken.png (not an image of a known kind)" in refusal(f"folder:{place}")
    assert "one class folder, 'ant'" in refusal(f"folder:{folder(tmp_path / 'one', names=('ant',))}")
    assert "too few images" in refusal(f"folder:{folder(tmp_path / 'few', count=1)}")
    split = tmp_path / "split"
    folder(split / "train")
    (split / "test").mkdir()
    assert f"{split / 'test'}: no class folders" in refusal(f"folder:{split}")
    folder(split / "test", names=("wasp",))
    assert "class 'wasp' is not in train" in refusal(f"folder:{split}")


def test_unknown_names_get_the_near_match():
    assert refusal("digts").endswith("did you mean 'digits'?")
    assert refusal("fashion_mnist").endswith("did you mean 'fashion-mnist'?")
    assert refusal("foldr:x").endswith("did you mean 'folder'?")
    assert all(name in refusal("zzz") for name in DATASETS)
    assert "missing path" in refusal("npz:")


def test_sizes_and_seeds_out_of_bounds():
    assert "image_size 0" in refusal("digits", image_size=0)
    assert "min_side 5000" in refusal("digits", min_side=5000)
    assert "seed -1" in refusal("digits", seed=-1)


def test_images_that_cannot_fit_are_refused_before_they_are_scaled(monkeypatch):
    monkeypatch.setattr("nas_agg.training.data.memory.os.sysconf", lambda name: 1024)
    assert "smaller image size" in refusal("digits", image_size=1024)


@pytest.mark.parametrize(
    "name, place", [("cifar10", "cifar-10-batches-py/"), ("cifar100", "cifar-100-python/"), ("fashion-mnist", "raw/")]
)
def test_a_failed_download_names_the_required_files(tmp_path, monkeypatch, name, place):
    import torchvision.datasets

    def refuse(self, *args, **options):
        raise OSError("no network")

    for kind in ("CIFAR10", "FashionMNIST", "MNIST"):
        monkeypatch.setattr(getattr(torchvision.datasets, kind), "download", refuse)
    message = refusal(name, root=tmp_path)
    assert "no network" in message and place in message and str(tmp_path) in message and "NAS_AGG_DATA" in message
    monkeypatch.setenv("NAS_AGG_DATA", str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in refusal(name)


def test_idx_files_in_place_are_read_without_a_download(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    tests = draw.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for part, count, images in (("train", 60, draw.integers(0, 256, (60, 28, 28), np.uint8)), ("t10k", 20, tests)):
        head = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], ">i4").tobytes() + labels.tobytes())
    data = load_data("fashion-mnist", root=tmp_path)
    assert isinstance(data, Data) and data.input == (1, 28, 28) and data.class_names[9] == "Ankle boot"
    assert np.array_equal(data.test.images[:, 0].numpy(), tests)
    assert data.augmentation.crop == 2 and data.augmentation.flip
