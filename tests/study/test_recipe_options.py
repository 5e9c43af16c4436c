"""Recipes of users: a file and the same fields as options train the same network, alone and in a search."""

from __future__ import annotations

import json

import pytest
import yaml
from safetensors.torch import load_file

from nas_agg.common.errors import InputError
from nas_agg.study.api import resume, search

NETWORK = {
    "input": [1, 8, 8],
    "classes": 10,
    "net": [{"conv": 3, "out": 4}, "bn", "relu", "gap", {"linear": "classes"}],
}
FIELDS = {"optimizer": "AdamW", "lr": 0.01, "batch_size": 100, "weight_decay": 1e-3, "schedule": "linear"}
OPTIONS = ["--optimizer", "AdamW", "--lr", "0.01", "--batch-size", "100"]
OPTIONS += ["--set", "weight_decay=1e-3", "--set", "schedule=linear"]


def test_a_file_and_the_same_options_give_the_same_weights(run, tmp_path):
    (tmp_path / "net.json").write_text(json.dumps(NETWORK))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"like": "final", **FIELDS}))
    ways = {"file": ["--recipe", "./mine.yaml"], "options": OPTIONS, "plain": []}
    for name, words in ways.items():
        status, _, err = run("train", "net.json", "--epochs", "1", "--device", "cpu", "--out", name, *words)
        assert status == 0, err
    weights = {name: load_file(tmp_path / name / "best/weights.safetensors") for name in ways}
    assert all(weights["file"][key].equal(weights["options"][key]) for key in weights["file"])
    assert not any(weights["file"][key].equal(weights["plain"][key]) for key in weights["file"] if "weight" in key)
    recipes = {name: json.loads((tmp_path / name / "best/metrics.json").read_text())["recipe"] for name in ways}
    assert recipes["file"] == "mine" and recipes["plain"] == "final"
    assert recipes["options"].startswith("final with batch_size=100, lr=0.01, optimizer=")


def test_a_search_trains_by_the_file_and_is_resumed_without_it(tiny_file, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"like": "search", **FIELDS, "epochs": 1}))
    settings = {"searcher": "random", "epochs": 1, "budget": 1, "workers": 1, "set": ["label_smoothing=0.2"]}
    result = search(tiny_file, recipe=path, out=tmp_path / "run", **settings)
    changed = "mine with label_smoothing=0.2"
    assert result.test is not None and result.test["recipe"] == changed
    path.unlink()
    assert resume(tmp_path / "run").test == result.test
    with pytest.raises(InputError, match="a run with other settings: recipe is"):
        search(tiny_file, recipe="search", out=tmp_path / "run", **settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "./none.yaml"], "none.yaml: no such file"),
        (["--set", "weight_decy=1"], "weight_decy: unknown field; did you mean 'weight_decay'?"),
        (["--set", "lr"], "write FIELD=VALUE"),
        (["--lr", "-1"], "lr"),
        (["--optimizer", "adamw"], "torch.optim has no 'adamw'; did you mean 'AdamW'?"),
        (["--set", "milestones=[1]"], "milestones: require schedule: step"),
        (["--batch-size", "1"], "batch_size"),
    ],
)
@pytest.mark.parametrize("command", [["train", "microdense/30a64"], ["search", "--space", "microdense"]])
def test_a_mistake_is_refused_before_there_is_a_run(refused, tmp_path, command, words, message):
    assert message in refused(*command, *words)
    assert not (tmp_path / "runs").exists()
