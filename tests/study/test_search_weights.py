"""The final training of a search that starts from given weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import resume, search

NETWORK = {
    "input": [1, 8, 8],
    "classes": 10,
    "net": [{"conv": 3, "out": 4}, "bn", "relu", "gap", {"linear": "classes"}],
}
#: A space whose only network is that of the weights, and one whose best network is another.
SAME = {**NETWORK, "open": {"width": [4]}, "net": [{"conv": 3, "out": "width"}, *NETWORK["net"][1:]]}
WIDER = {**SAME, "open": {"width": [6]}}
SETTINGS = {"dataset": "digits", "budget": 1, "epochs": 1, "final_epochs": 1, "device": "cpu", "workers": 1}
#: Nothing but the statistics of batch norms changes.
STILL = {"like": "search", "lr_backbone": 0.0, "momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run whose weights others start from."""
    path = tmp_path_factory.mktemp("runs") / "source"
    nas_agg.train(NETWORK, "digits", "search", epochs=1, device="cpu", out=path)
    return path


def space_file(folder, text):
    path = folder / "space.json"
    path.write_text(json.dumps(text))
    return path


def test_the_final_training_starts_from_a_run_and_is_recorded(source, tmp_path):
    out = tmp_path / "run"
    search(SAME, out=out, weights=source, recipe=STILL, **SETTINGS)
    first, last = load_file(source / "best/weights.safetensors"), load_file(out / "best/weights.safetensors")
    assert torch.equal(first["conv.weight"], last["conv.weight"])
    assert not torch.equal(first["linear.weight"], last["linear.weight"])
    assert json.loads((out / "run.json").read_text())["settings"]["weights"] == str(source.resolve())
    assert f"starting from {source.resolve()}" in (out / "log.txt").read_text()
    with pytest.raises(InputError, match=r"weights: the final network is trained, from .*source; choose another"):
        search(SAME, out=out, weights=None, recipe=STILL, **SETTINGS)


def test_weights_that_do_not_fit_are_refused_and_the_search_resumed_without_them(source, tmp_path):
    out, file = tmp_path / "run", source / "best/weights.safetensors"
    space = space_file(tmp_path, WIDER)
    with pytest.raises(NasAggError, match=r"from the weights on trial 0: .*resume with: .*--weights none") as error:
        search(space, out=out, weights=file, **SETTINGS)
    assert "\n" not in str(error.value) and not (out / "best").exists()
    result = resume(out, weights="none")
    assert result.test is not None and json.loads((out / "run.json").read_text())["settings"]["weights"] is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such file"),
        ({"weights": "resnet50.NONE"}, "resnet50 has no weights 'NONE'"),
        ({"final": 0}, "weights: the final training starts from them, and there is none"),
    ],
)
def test_a_mistake_is_noticed_before_the_search(source, tmp_path, change, message):
    arguments = {"space": SAME, "weights": source, **SETTINGS, **change}
    with pytest.raises(InputError, match=message):
        search(arguments.pop("space"), out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
