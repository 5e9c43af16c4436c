"""Images from CSV files, from Python and from torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.training.data import Data, load_data

DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(90) % 3


def refusal(call, *words, **options):
    with pytest.raises(InputError) as error:
        call(*words, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "images").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")

    def write(header, row, count=90):
        lines = [header] + [row(number) for number in range(count)]
        (tmp_path / "set.csv").write_text("\n".join(lines) + "\n")
        return f"csv:{tmp_path / 'set.csv'}"

    return write


def test_csv_with_labels_splits_and_weights(table):
    names = ("ant", "bee", "cow")
    split = ("train", "train", "val", "test")
    spec = table("path,label,split,weight", lambda i: f"images/{i}.png,{names[i % 3]},{split[i % 4]},{1 + i % 2}")
    data = load_data(spec, image_size=8)
    assert data.class_names == names and (len(data.train), len(data.validation), len(data.test)) == (46, 22, 22)
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), IMAGES[3::4])
    assert data.test.labels.tolist() == LABELS[3::4].tolist()
    assert data.train.weights.tolist() == [1.0 + i % 2 for i in range(90) if i % 4 < 2]
    drawn = load_data(table("file,class", lambda i: f"images/{i}.png,{i % 3 + 9}"), image_size=8)
    assert drawn.class_names == ("9", "10", "11") and 8 < len(drawn.test) < 30


def test_csv_with_several_labels_or_numbers(table):
    several = load_data(table("path,labels", lambda i: f"images/{i}.png,{'a|b' if i % 2 else 'c'}"), image_size=8)
    assert several.task == "multilabel" and several.class_names == ("a", "b", "c")
    assert set(map(tuple, several.train.labels.tolist())) == {(1, 1, 0), (0, 0, 1)}
    columns = load_data(table("filename,cat,dog", lambda i: f"images/{i}.png,{i % 2},{i % 3 == 0:d}"), image_size=8)
    assert columns.task == "multilabel" and columns.class_names == ("cat", "dog")
    numbers = load_data(table("path,target_x,target_y", lambda i: f"images/{i}.png,{i / 7},{-i}"), image_size=8)
    assert numbers.task == "regression" and numbers.train.labels.shape[1] == 2 and numbers.classes == 2


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("path,label", lambda i: f"images/{i}.png", "line 2: 1 cells; the header has 2"),
        ("path,label", lambda i: f"images/{i}.png,{'a' if i else ''}", "line 2: no label"),
        ("path,label", lambda i: "images/0.png,a", "is on line 2 already"),
        ("path,label", lambda i: f"images/{i}.png,a", "a single class"),
        ("path,lable", lambda i: f"images/{i}.png,a{i}", "'a0' is not a finite number"),
        ("path,target", lambda i: f"images/{i}.png,nan", "'nan' is not a finite number"),
        ("path,label,split", lambda i: f"images/{i}.png,{i % 2},tset", "line 2: split 'tset'"),
        ("path,label,weight", lambda i: f"images/{i}.png,{i % 2},-1", "weights must be 0 or more"),
        ("path,label,target", lambda i: f"images/{i}.png,1,1", "columns label and target"),
        ("pth,label", lambda i: f"images/{i}.png,1", "no column 'path'"),
        ("path,label", lambda i: f"nowhere/{i}.png,{i % 2}", "90 images are not readable: nowhere/0.png"),
        ("path,label", lambda i: f'"images/{i}.png,{i % 2}', "not a CSV file"),
        ("path;label", lambda i: f"images/{i}.png;{i % 2}", "separate columns by commas"),
        ("path,labels", lambda i: f"images/{i}.png,", "no row has a label"),
        ("path,target", lambda i: f"images/{i}.png,{i}e300", "target: 8.9e+301 is too large for single precision"),
        ("path,label,weight", lambda i: f"images/{i}.png,{i % 2},1e39", "weight: 1e+39 is too large"),
        (
            "path,label",
            lambda i: f"images/{i}.png,{'x' * 5000}{i % 2}",
            "name of a class has more than 1,000 characters",
        ),
        ("path,label,split", lambda i: f"images/{i}.png,{i % 2},train", "every row's split is train"),
    ],
)
def test_malformed_csv(table, header, row, words):
    assert words in refusal(load_data, table(header, row), image_size=8)


def test_arrays_and_tensors_are_the_data_of_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS)
    file = load_data(f"npz:{tmp_path / 'a.npz'}", seed=4)
    tensor = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    for images, labels in ((IMAGES, LABELS), (tensor, torch.from_numpy(LABELS)), (tensor.float() / 255, LABELS)):
        data = Data.from_arrays(images, labels, seed=4)
        for name, split in data.splits.items():
            assert torch.equal(split.images, file.splits[name].images), name
            assert torch.equal(split.labels, file.splits[name].labels)
        assert (data.mean, data.std, data.input) == (file.mean, file.std, file.input)
        again = load_data(data.spec, seed=4)
        assert again.digest == data.digest and torch.equal(again.train.images, data.train.images)
    given = Data.from_arrays(IMAGES, LABELS, test=(IMAGES[:6], LABELS[:6]), weights=np.arange(90), image_size=4)
    assert (len(given.train) + len(given.validation), len(given.test)) == (90, 6) and given.input == (3, 4, 4)
    assert given.train.weights.max() > 80


class Photos(torch.utils.data.Dataset):
    """Items as torchvision's data sets have them."""

    classes = ["ant", "bee", "cow"]

    def __init__(self, kind="pil", targets=LABELS):
        self.kind, self.targets = kind, targets

    def __len__(self):
        return 90

    def __getitem__(self, index):
        image = IMAGES[index]
        if self.kind == "pil":
            return Image.fromarray(image), self.targets[index]
        if self.kind == "tensor":
            return torch.from_numpy(image).permute(2, 0, 1).float() / 255, torch.tensor(self.targets[index])
        return image, self.targets[index]


@pytest.mark.parametrize("kind", ["pil", "tensor", "array"])
def test_map_style_datasets(kind):
    data = Data.from_dataset(Photos(kind), test=Photos(kind), seed=2)
    assert data.class_names == ("ant", "bee", "cow") and data.input == (3, 8, 8)
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), IMAGES)
    assert torch.equal(load_data(data.spec, seed=2).validation.images, data.validation.images)
    assert Data.from_dataset(Photos(kind), seed=2, image_size="6x4").input == (3, 6, 4)


def test_what_is_no_dataset_is_refused(monkeypatch):
    assert "needs __getitem__ and __len__" in refusal(Data.from_dataset, iter([]))
    assert "items must be an image and its target" in refusal(Data.from_dataset, [1, 2, 3])
    assert "targets of different shapes" in refusal(
        Data.from_dataset, Photos(targets=[[0] * (i % 2 + 1) for i in range(90)])
    )
    assert "90 images, 3 targets" in refusal(Data.from_arrays, IMAGES, [0, 1, 2])
    assert "weights must be" in refusal(Data.from_arrays, IMAGES, LABELS, weights=[1.0])
    arrays = (
        ({"class_names": "aab"}, "two classes of the same name"),
        ({"class_names": [1, 2, 3]}, "1: the name of a class is not a text"),
        ({"validation": (IMAGES,)}, "validation: must be a pair of images and targets"),
        ({"test": IMAGES}, "test: must be a pair of images and targets"),
        ({"seed": -1}, "seed: must be a whole number of at least 0, not -1"),
        ({"seed": "1"}, "not '1'"),
        ({"name": "a\0b"}, "the name of a data set has a NUL"),
    )
    for options, words in arrays:
        assert words in refusal(Data.from_arrays, IMAGES, LABELS, **options)
    assert "too large for single precision" in refusal(Data.from_arrays, IMAGES, np.where(LABELS, 1e300, 0.5))
    assert "no training images" in refusal(Data.from_dataset, None)
    half = torch.from_numpy(IMAGES / 255).to(torch.bfloat16)
    assert Data.from_arrays(half, LABELS).train.images.float().std() > 50
    assert "no such images" in refusal(load_data, "cache:/nowhere/cache/0123")
    assert "specify 'digits' by its name" in refusal(nas_agg.search, "microdense", dataset=load_data("digits"))


def test_sets_of_torchvision_by_name(tmp_path, monkeypatch):
    opened = []

    class Small(Photos):
        def __init__(self, root, split, download=False):
            super().__init__()
            opened.append((split, download))

    class Svhn(Small):
        data, labels = IMAGES.transpose(0, 3, 1, 2), LABELS

    monkeypatch.setattr(datasets, "DTD", Small)
    monkeypatch.setattr(datasets, "SVHN", Svhn)
    data = load_data("dtd", root=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 90, 90) and data.input == (3, 64, 64)
    assert [split for split, _ in opened] == ["train", "val", "test"]
    assert load_data("dtd", root=tmp_path).digest == data.digest and len(opened) == 3, "decoded once"
    house = load_data("svhn", root=tmp_path)
    assert np.array_equal(house.test.images.permute(0, 2, 3, 1).numpy(), IMAGES)
