"""Recipes: their learning rates, and how they are found."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from nas_agg.errors import InputError
from nas_agg.training.recipes import RECIPES, Augmentation, get_recipe


def test_learning_rate_is_the_formula():
    recipe = get_recipe("microdense-cifar")
    steps, warmup = 300 * 391, 5 * 391
    for i in (1, 100, warmup, warmup + 1, steps // 2, steps):
        top = 0.1 * i / warmup if i <= warmup else 0.1
        assert recipe.learning_rate(i, steps) == pytest.approx(top * (1 + math.cos(math.pi * i / steps)) / 2, rel=1e-12)
    assert recipe.learning_rate(steps, steps) == pytest.approx(0, abs=1e-12)
    assert max(recipe.learning_rate(i, steps) for i in range(1, steps + 1)) == recipe.learning_rate(warmup, steps)


def test_warmup_shrinks_with_the_training():
    recipe = get_recipe("microdense-cifar")
    assert recipe.warmup_steps(300 * 10) == 50 and recipe.warmup_steps(3 * 100) == 5
    assert recipe.model_copy(update={"warmup_epochs": 0.0}).learning_rate(1, 10**9) == pytest.approx(0.1)


def test_the_papers_numbers():
    cifar, imagenet = RECIPES["microdense-cifar"], RECIPES["microdense-imagenet"]
    assert (cifar.epochs, cifar.batch_size, cifar.lr, cifar.weight_decay) == (300, 128, 0.1, 1e-4)
    assert (imagenet.epochs, imagenet.batch_size, imagenet.lr, imagenet.weight_decay) == (300, 400, 0.2, 1e-5)
    assert all(
        r.momentum == 0.9 and r.nesterov and r.decay_vectors and not r.label_smoothing for r in (cifar, imagenet)
    )


def test_a_recipe_changes_only_what_it_says_of_the_augmentation():
    default = Augmentation(crop=4, flip=True)
    assert RECIPES["search"].augmentation(default) == default
    assert RECIPES["microdense-cifar"].augmentation(default) == Augmentation(crop=4, flip=True, autoaugment="cifar10")
    plain = RECIPES["search"].model_copy(update={"flip": False, "crop": 0})
    assert plain.augmentation(default) == Augmentation()


def test_names_and_near_matches():
    assert all(get_recipe(name).name == name for name in RECIPES)
    with pytest.raises(InputError, match="did you mean 'search'"):
        get_recipe("serch")
    with pytest.raises(InputError, match="there are search, final"):
        get_recipe("zzz")


def test_recipes_are_checked_and_frozen():
    fields = RECIPES["search"].model_dump()
    for wrong in ({"lr": math.nan}, {"batch_size": 1}, {"epochs": 0}, {"speed": 1}):
        with pytest.raises(ValidationError):
            type(RECIPES["search"])(**{**fields, **wrong})
    with pytest.raises(ValidationError):
        RECIPES["search"].lr = 1.0


def test_listing_needs_no_torch():
    code = "import sys, nas_agg.training.recipes, nas_agg.training.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
