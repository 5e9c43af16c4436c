"""Imbalanced classes, 100 to 1: the metric decides which network is best, and the report shows what is missed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import nas_agg
from nas_agg.study.definition.metrics import format_evaluation, imbalance_note
from nas_agg.study.workers.jobs import train_trial
from nas_agg.study.workers.messages import TrialJob
from nas_agg.training.data import Split, load_data
from nas_agg.training.recipes import Augmentation


def made_split(seed, count=1212, rare=12):
    """Noise, in which a rare class has a faintly brighter square."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(60, 160, (count, 1, 8, 8), generator=generator)
    labels = torch.zeros(count, dtype=torch.int64)
    labels[:rare] = 1
    pixels[:rare, :, 2:5, 2:5] += 50
    return Split(pixels.clamp(0, 255).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def imbalanced():
    splits = {name: made_split(seed) for seed, name in enumerate(("train", "validation", "test"))}
    made = {"name": "made", "classes": 2, "class_names": ("common", "rare"), "mean": (0.43,), "std": (0.12,)}
    return replace(load_data("digits"), **splits, **made, augmentation=Augmentation())


def network(width, kernel):
    layers = [{"conv": kernel, "out": width}, "bn", "relu", {"conv": 3, "out": width}, "bn", "relu", "gmp"]
    return {"input": [1, 8, 8], "classes": 2, "net": [*layers, {"linear": "classes"}]}


def test_balanced_accuracy_chooses_another_network_than_accuracy(imbalanced, tmp_path):
    candidates = [(network(2, 1), "shuffle"), (network(16, 1), "balanced")]
    best = {}
    for metric in ("accuracy", "balanced-accuracy"):
        values = []
        for number, (genotype, sampling) in enumerate(candidates):
            recipe = {"like": "search", "sampling": sampling}
            (out := tmp_path / f"{metric}-{number}").mkdir()
            job = TrialJob(genotype=genotype, seed=0, recipe=recipe, epochs=4, out=str(out), reported=metric)
            outcome = train_trial(job, imbalanced, lambda step, value: False)
            assert outcome.metrics["value"] == outcome.metrics[metric.replace("-", "_")]
            values.append(outcome.metrics["value"])
        best[metric] = values.index(max(values))
    assert best == {"accuracy": 0, "balanced-accuracy": 1}


def test_the_report_shows_the_class_that_is_missed(imbalanced):
    metrics = nas_agg.train(network(2, 1), imbalanced, "search", epochs=4, device="cpu").metrics
    assert format_evaluation(metrics, "test_") == "accuracy 99.01 % (1,200 of 1,212 images)"
    assert metrics["test_balanced_accuracy"] == 0.5 and metrics["confusion_matrix"] == [[1200, 0], [12, 0]]
    assert imbalance_note(metrics, "test_") == (
        "balanced accuracy 50.00 %: 0 of 12 images of class 'rare' are found; see per_class in best/metrics.json"
    )
