"""Fields of recipes as search variables."""

from __future__ import annotations

import pytest

from nas_agg.common.errors import InputError
from nas_agg.training.recipes import open_recipe
from nas_agg.training.recipes.tuning import LEVELS, parse_tuning

RECIPE = open_recipe("search")


def test_ranges_choices_and_defaults():
    tuned = parse_tuning(["lr=0.02:0.4:log,weight_decay", "optimizer=SGD|AdamW", "warmup-epochs=0:3", "flip"], RECIPE)
    assert list(tuned) == ["lr", "weight_decay", "optimizer", "warmup_epochs", "flip"]
    assert (tuned["lr"][0], tuned["lr"][-1], len(tuned["lr"])) == (0.02, 0.4, LEVELS)
    ratios = [high / low for low, high in zip(tuned["lr"], tuned["lr"][1:], strict=False)]
    assert max(ratios) / min(ratios) < 1.02
    assert tuned["weight_decay"][0] == 1e-6 and tuned["optimizer"] == ["SGD", "AdamW"]
    assert tuned["warmup_epochs"][:3] == [0.0, 0.25, 0.5] and tuned["flip"] == [False, True]
    assert parse_tuning({"batch_size": "16:64:log", "clip": [0.5, None]}, RECIPE)["clip"] == [0.5, None]
    assert all(isinstance(size, int) for size in parse_tuning(["batch_size"], RECIPE)["batch_size"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rate", "no field of recipes that can be tuned"),
        ("epochs=1:9", "'epochs' is no field of recipes that can be tuned"),
        ("lr=0:1:log", "write LOW:HIGH, or LOW:HIGH:log with LOW above 0"),
        ("lr=1:0.1", "is no range"),
        ("lr=a:b", "is no range"),
        ("lr=0.1", "lr: specify at least two values"),
        ("momentum=0.5:1.5", "momentum: should be less than 1"),
        ("optimizer=SGD|3", "optimizer: should be a valid string"),
        ("milestones", "milestones: specify its values"),
    ],
)
def test_a_mistake_is_one_line(text, message):
    with pytest.raises(InputError, match=message):
        parse_tuning([text], RECIPE)
