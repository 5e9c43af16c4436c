"""The weight initialisation of a recipe reaches the network that is trained."""

from __future__ import annotations

import pytest
import torch

import nas_agg
from nas_agg.compiler.residual_branches import branch_ends
from nas_agg.expansion.expansion import expand
from nas_agg.study.standalone_training import train_genotype
from nas_agg.study.workers import jobs as training
from nas_agg.study.workers.messages import TrialJob
from nas_agg.training.data import load_data

torch.set_num_threads(1)
GENOTYPE = nas_agg.load(
    {
        "input": [1, 8, 8],
        "classes": 10,
        "net": [
            {"conv": 3, "out": 8},
            {"nodes": 2, "growth": 8, "unit": ["bn", "relu", {"conv": 3}, "join"], "shortcut": {}},
            "gap",
            {"linear": "classes"},
        ],
    }
)


class Caught(Exception):
    pass


@pytest.fixture
def trained(monkeypatch):
    """The networks that training began with."""
    networks = []

    def train(model, *args, **options):
        networks.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        raise Caught

    monkeypatch.setattr(training.loop, "train", train)
    return networks


@pytest.mark.parametrize("recipe", ["seqconv-cifar", "seqconv-imagenet", "final"])
def test_single_and_search_trainings_start_as_the_recipe_says(trained, recipe, tmp_path):
    job = TrialJob(genotype=GENOTYPE.to_dict(), recipe=recipe, seed=5, epochs=1, out=str(tmp_path))
    with pytest.raises(Caught):
        training.train_trial(job, load_data("digits"), lambda step, value: False)
    with pytest.raises(Caught):
        train_genotype(GENOTYPE, recipe=recipe, epochs=1, seed=5, device="cpu", out=tmp_path / "run")
    plain = nas_agg.compile(GENOTYPE, 5).state_dict()
    zeros = {f"{path}.weight" for path in branch_ends(expand(GENOTYPE))}
    assert len(zeros) == 2 and len(trained) == 2
    for start in trained:
        other = {name for name in plain if not torch.equal(start[name], plain[name])}
        wanted = {
            "final": set(),
            "seqconv-cifar": {"linear.weight"},
            "seqconv-imagenet": {"linear.weight", "conv.weight"},
        }
        assert other == wanted[recipe] | (zeros if recipe != "final" else set())
        assert recipe == "final" or not any(start[name].any() for name in zeros)
