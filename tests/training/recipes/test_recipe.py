"""Recipes: learning rates, augmentation overrides, lookup by name."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from nas_agg.common.errors import InputError
from nas_agg.training.recipes import Augmentation, Recipe, list_recipes, open_recipe

RECIPES = {name: open_recipe(name) for name in list_recipes()}
PAPERS = {name: recipe for name, recipe in RECIPES.items() if name not in ("bench", "final", "search")}


def test_learning_rate_is_the_formula():
    recipe = open_recipe("microdense-cifar")
    steps, warmup = 300 * 391, 5 * 391
    for i in (1, 100, warmup, warmup + 1, steps // 2, steps):
        top = 0.1 * i / warmup if i <= warmup else 0.1
        assert recipe.learning_rate(i, steps) == pytest.approx(top * (1 + math.cos(math.pi * i / steps)) / 2, rel=1e-12)
    assert recipe.learning_rate(steps, steps) == pytest.approx(0, abs=1e-12)
    assert max(recipe.learning_rate(i, steps) for i in range(1, steps + 1)) == recipe.learning_rate(warmup, steps)


def test_warmup_shrinks_with_the_training():
    recipe = open_recipe("microdense-cifar")
    assert recipe.warmup_steps(300 * 10) == 50 and recipe.warmup_steps(3 * 100) == 5
    assert recipe.model_copy(update={"warmup_epochs": 0.0}).learning_rate(1, 10**9) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name, milestones, at",
    [
        ("dsnet-cifar", 2, (32_062, 48_093)),  # of 64,124 steps; the paper: 32,000 and 48,000 of 64,000
        ("dsnet-imagenet", 3, (30 * 391, 60 * 391, 90 * 391)),
        ("seqconv-cifar", 2, (150 * 391, 225 * 391)),
        ("seqconv-imagenet", 3, (30 * 391, 60 * 391, 90 * 391)),
        ("sparsenet-cifar", 2, (150 * 391, 225 * 391)),
        ("sparsenet-imagenet", 2, (30 * 391, 60 * 391)),
    ],
)
def test_learning_rate_falls_in_steps(name, milestones, at):
    recipe = open_recipe(name)
    assert len(recipe.milestones) == milestones
    steps = recipe.epochs * 391
    rates = [recipe.learning_rate(i, steps) for i in range(1, steps + 1)]
    falls = [i for i in range(1, steps) if rates[i] != rates[i - 1]]  # the number of steps at the rate before
    assert tuple(falls) == at
    assert [rates[0], *[rates[i] for i in falls]] == pytest.approx([recipe.lr / 10**k for k in range(milestones + 1)])


def test_milestones_shrink_with_the_training():
    recipe = open_recipe("seqconv-cifar")
    rates = [recipe.learning_rate(i, 40) for i in range(1, 41)]
    assert rates == pytest.approx([0.1] * 20 + [0.01] * 10 + [0.001] * 10)
    warm = recipe.model_copy(update={"warmup_epochs": 75.0})
    assert [warm.learning_rate(i, 40) for i in (1, 5, 10, 11, 21)] == pytest.approx([0.01, 0.05, 0.1, 0.1, 0.01])


def test_the_papers_numbers():
    cifar, imagenet = RECIPES["microdense-cifar"], RECIPES["microdense-imagenet"]
    assert (cifar.epochs, cifar.batch_size, cifar.lr, cifar.weight_decay) == (300, 128, 0.1, 1e-4)
    assert (imagenet.epochs, imagenet.batch_size, imagenet.lr, imagenet.weight_decay) == (300, 400, 0.2, 1e-5)
    assert all(
        r.momentum == 0.9 and r.nesterov and r.decay_vectors and not r.label_smoothing for r in (cifar, imagenet)
    )


def test_the_other_papers_numbers():
    common = ("epochs", "batch_size", "lr", "weight_decay", "nesterov", "zero_branches", "classifier_init")
    assert {
        name: tuple(getattr(open_recipe(name), field) for field in common)
        for name in PAPERS
        if "microdense" not in name
    } == {
        "densenet-cifar": (300, 64, 0.1, 1e-4, True, False, "he"),
        "densenet-imagenet": (90, 256, 0.1, 1e-4, True, False, "he"),
        "dsnet-cifar": (164, 128, 0.1, 5e-4, False, False, "he"),
        "dsnet-imagenet": (100, 128, 0.05, 1e-4, False, False, "he"),
        "seqconv-cifar": (300, 64, 0.1, 1e-4, True, True, "glorot"),
        "seqconv-imagenet": (100, 256, 0.1, 1e-4, True, True, "glorot"),
        "sparsenet-cifar": (300, 64, 0.1, 1e-4, True, False, "he"),
        "sparsenet-imagenet": (90, 256, 0.1, 1e-4, True, False, "he"),
    }
    assert all(recipe.momentum == 0.9 and recipe.decay_vectors for recipe in PAPERS.values())
    folder = Augmentation(crop=28, flip=True)
    for name in [name for name in PAPERS if "microdense" not in name]:
        wanted = Augmentation(flip=True, resized_crop=True) if "imagenet" in name else Augmentation(crop=4, flip=True)
        if name == "seqconv-imagenet":
            wanted = wanted.model_copy(update={"color_jitter": 0.4, "lighting": 0.1})
        assert open_recipe(name).augmentation(folder) == wanted


def test_only_the_authors_code_on_imagenet_starts_convolutions_otherwise():
    assert {recipe.name: recipe.conv_init for recipe in RECIPES.values() if recipe.conv_init != "fan_in"} == {
        "seqconv-imagenet": "fan_out_uniform"
    }


def test_choices_of_a_recipe_are_documented():
    choices = RECIPES["microdense-cifar"].choices
    assert all(words in choices for words in ("dynamic regularisation", "warm-up", "cutout", "fan-in"))
    assert all("initialised at 1/k" in RECIPES[f"dsnet-{data}"].choices for data in ("cifar", "imagenet"))
    for name, words in (("seqconv-cifar", "fan_out_uniform"), ("sparsenet-cifar", "fan_out")):
        assert words in RECIPES[name].choices
    assert all(
        "images whose shorter side is 256" in recipe.choices for recipe in RECIPES.values() if recipe.resized_crop
    )
    assert all(recipe.choices for recipe in PAPERS.values())


def test_a_recipe_overrides_only_the_fields_it_sets():
    default = Augmentation(crop=4, flip=True)
    assert RECIPES["search"].augmentation(default) == default
    for data_set in (default, Augmentation(), Augmentation(crop=2)):
        varied = {name: RECIPES[f"microdense-{name}"].augmentation(data_set) for name in ("cifar", "imagenet")}
        assert varied["cifar"] == Augmentation(crop=4, flip=True, autoaugment="cifar10")
        assert varied["imagenet"] == Augmentation(flip=True, resized_crop=True, autoaugment="imagenet")
    plain = RECIPES["search"].model_copy(update={"flip": False, "crop": 0})
    assert plain.augmentation(default) == Augmentation()


def test_names_and_near_matches():
    assert all(open_recipe(name).name == name for name in RECIPES)
    with pytest.raises(InputError, match="did you mean 'search'"):
        open_recipe("serch")
    with pytest.raises(InputError, match=r"choose from bench, densenet-cifar, .*, or a file"):
        open_recipe("zzz")


def test_recipes_are_checked_and_frozen():
    fields = RECIPES["search"].model_dump()
    for wrong in ({"lr": math.nan}, {"batch_size": 1}, {"epochs": 0}, {"speed": 1}, {"milestones": [0]}):
        with pytest.raises(ValidationError):
            Recipe(**{**fields, **wrong})
    with pytest.raises(ValidationError):
        RECIPES["search"].lr = 1.0


def test_listing_needs_no_torch():
    code = "import sys, nas_agg.training.recipes, nas_agg.training.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
