"""Recipe files: inheritance, changes by options, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nas_agg.common.errors import InputError
from nas_agg.training.recipes import Recipe, list_recipes, open_recipe
from nas_agg.training.recipes.files import SHIPPED, parse_changes, reference
from nas_agg.training.recipes.recipe import DESCRIPTION


def write(path, **fields):
    path.write_text(yaml.safe_dump(fields))
    return path


def test_a_file_inherits_the_fields_it_does_not_name(tmp_path):
    write(tmp_path / "base.yaml", like="seqconv-cifar", lr=0.2)
    mine = open_recipe(write(tmp_path / "mine.yaml", like="base.yaml", epochs=30, milestones=[15]))
    wanted = {"name": "mine", "about": "", "choices": "", "lr": 0.2, "epochs": 30, "milestones": (15.0,)}
    assert mine == open_recipe("seqconv-cifar").model_copy(update=wanted)


def test_changes_are_the_same_as_a_file(tmp_path):
    changes = parse_changes(["lr=0.2", "weight-decay=1e-4", "schedule=step", "milestones=[5, 8]", "clip=null"])
    changed = open_recipe("final", changes)
    assert changed.name == 'final with lr=0.2, weight_decay=0.0001, schedule="step", milestones=[5, 8], clip=null'
    mine = open_recipe(write(tmp_path / "mine.yaml", like="final", **changes))
    assert mine.fingerprint == changed.fingerprint != open_recipe("final").fingerprint
    assert open_recipe({"like": "final", **changes}).fingerprint == changed.fingerprint


def test_another_optimizer_or_schedule_does_not_inherit_their_fields():
    inherited = open_recipe({"like": "dsnet-cifar", "optimizer": "AdamW", "schedule": "cosine"})
    assert (inherited.momentum, inherited.nesterov, inherited.milestones) == (0.9, True, ())
    same = open_recipe({"like": "dsnet-cifar", "optimizer": "SGD"})
    assert (same.nesterov, same.milestones) == (False, (82.0, 123.0))


def test_a_reference_opens_the_same_recipe_when_its_file_is_gone(tmp_path):
    path = write(tmp_path / "mine.yaml", like="final", optimizer="AdamW", optimizer_options={"betas": [0.9, 0.95]})
    mine = open_recipe(path)
    path.unlink()
    stored = json.loads(json.dumps(reference(mine)))
    assert open_recipe(stored) == mine and stored["name"] == "mine"
    assert reference(open_recipe("final")) == "final"
    assert open_recipe(reference(open_recipe("final", {"lr": 1.0}))).lr == 1.0
    assert open_recipe(write(tmp_path / "final.yaml", like="final", lr=0.7)).lr == 0.7  # a file, not the shipped one


def test_shipped_recipes_have_fields_that_exist_and_a_description():
    for name in list_recipes():
        content = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
        assert content["about"] and content.keys() <= {*Recipe.model_fields, "like"} - {"name"}


@pytest.mark.parametrize(
    "content, message",
    [
        ({"like": "final", "lr": -1}, "mine.yaml: lr: should be greater than 0, not -1"),
        ({"like": "final", "lr": "fast"}, 'mine.yaml: lr: should be a valid number, not "fast"'),
        ({"like": "final", "epochs": 2.5}, "mine.yaml: epochs: should be a valid integer"),
        ({"like": "final", "weight_decy": 0}, "mine.yaml: weight_decy: unknown field; did you mean 'weight_decay'?"),
        ({"like": "final", "milestones": [3]}, "mine.yaml: milestones: require schedule: step"),
        ({"like": "final", "schedule": "step"}, "mine.yaml: schedule: step requires milestones"),
        ({"like": "final", "schedule": "cosinus"}, "mine.yaml: schedule: should be 'cosine', 'step'"),
        ({"like": "finale"}, "mine.yaml: like: unknown recipe 'finale'; did you mean 'final'?"),
        ({"like": 3}, "mine.yaml: like: must be the name of a recipe or a file"),
        ({"like": "mine.yaml"}, "is there a circle?"),
        ({"like": "other.yaml"}, "other.yaml: no such file"),
        ({"lr": 0.1}, "mine.yaml: epochs: is missing; specify it, or inherit it with like"),
        ([1], "mine.yaml: a recipe must be an object"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as raised:
        open_recipe(path)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_every_field_is_documented():
    page = (Path(__file__).parents[3] / "docs/recipes.md").read_text().partition("## Fields")[2]
    assert [name for name in Recipe.model_fields if name not in DESCRIPTION and f"`{name}`" not in page] == []


@pytest.mark.parametrize("text", ["lr", "=1", "lr=", " = "])
def test_a_change_is_a_field_and_a_value(text):
    with pytest.raises(InputError, match="write FIELD=VALUE"):
        parse_changes([text])


def test_a_name_is_not_changed():
    with pytest.raises(InputError, match="about cannot be set"):
        open_recipe("final", {"about": "mine"})
