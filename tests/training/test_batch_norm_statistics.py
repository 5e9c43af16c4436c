"""Recomputed batch-norm statistics: their values, when they are used, and that the model is restored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from corpus.small_networks import dense_network
from torch import nn

import nas_agg
from nas_agg.training import batch_norm_statistics, loop
from nas_agg.training import torch_compile as compiling
from nas_agg.training.augment import normalise
from nas_agg.training.batch_norm_statistics import MAX_IMAGES, StatisticsImages, fresh_statistics, running_averages_lag
from nas_agg.training.checkpoints import CHECKPOINT
from nas_agg.training.data import Split, load_data
from nas_agg.training.loop import METRICS, evaluate, train
from nas_agg.training.recipes import Augmentation, open_recipe

torch.set_num_threads(1)
SEARCH = open_recipe("search")
RUNNING = "validation_accuracy_running_statistics"
GENOTYPE = dense_network(dropout=0.2)


@pytest.fixture(scope="module")
def few():
    digits = load_data("digits")
    parts = {"train": Split(digits.train.images[:200], digits.train.labels[:200])}
    return replace(digits, **parts, validation=Split(digits.validation.images[:99], digits.validation.labels[:99]))


def network(seed=0, memory="plain"):
    return nas_agg.compile(nas_agg.load(GENOTYPE), seed=seed, memory=memory)


CPU = torch.device("cpu")


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def equal(one, other):
    assert list(one) == list(other)
    return all(torch.equal(one[name], other[name]) for name in one)


def images_of(data, count=150, **options):
    images = Split(data.train.images[:count], data.train.labels[:count])
    return StatisticsImages(images, CPU, 64, Augmentation(**options), data.mean, data.std, seed=3)


def without_times(history):
    return [{name: value for name, value in line.items() if "second" not in name} for line in history]


def test_they_are_mean_and_variance_of_the_activations():
    first, second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)
    model = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(3))
    model(torch.randn(16, 2, 8, 8))  # running averages of something else
    images = torch.randn(40, 2, 8, 8)
    with torch.no_grad(), fresh_statistics(model, [images]):
        ahead = first(images)
        torch.testing.assert_close(model[1].running_mean, ahead.mean((0, 2, 3)))
        torch.testing.assert_close(model[1].running_var, ahead.var((0, 2, 3)))
        mean, var = (of.view(-1, 1, 1) for of in (ahead.mean((0, 2, 3)), ahead.var((0, 2, 3), correction=0)))
        behind = second(((ahead - mean) / (var + model[1].eps).sqrt()).relu())
        torch.testing.assert_close(model[4].running_mean, behind.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model[4].running_var, behind.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_of_several_batches_they_are_the_means():
    model = nn.Sequential(nn.BatchNorm2d(3))
    batches = [torch.randn(size, 3, 4, 4) * size for size in (5, 6, 7)]
    with fresh_statistics(model, batches):
        torch.testing.assert_close(model[0].running_mean, sum(batch.mean((0, 2, 3)) for batch in batches) / 3)
        torch.testing.assert_close(model[0].running_var, sum(batch.var((0, 2, 3)) for batch in batches) / 3)


def test_the_model_is_left_bit_for_bit_also_after_an_error(few):
    model = network().train()
    model(torch.randn(8, 1, 8, 8))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].momentum, norms[1].training = 0.3, False
    bad = [torch.randn(4, 1, 8, 8), torch.randn(4, 2, 8, 8)]
    before, state = buffers(model), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    with fresh_statistics(model, images_of(few)):
        assert not equal(buffers(model), before)
        assert [module.training for module in model.modules()] == modes
    with pytest.raises(ZeroDivisionError), fresh_statistics(model, images_of(few)):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError), fresh_statistics(model, bad):
        pass
    assert equal(buffers(model), before) and [module.training for module in model.modules()] == modes
    assert [norm.momentum for norm in norms] == [0.3] + [0.1] * (len(norms) - 1)
    assert torch.equal(torch.get_rng_state(), state), "dropout is off, and images have their own generator"


def test_a_model_without_running_averages_asks_for_no_images():
    def none():
        raise AssertionError
        yield

    for norm in (nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False)):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), norm)
        with fresh_statistics(model, none()):
            assert model(torch.zeros(2, 1, 4, 4)).isfinite().all()


@pytest.mark.parametrize("memory", ["lean", "leanest"])
def test_networks_that_keep_less_have_the_same_ones(few, memory):
    result = []
    for model in (network(), network(memory=memory)):
        with fresh_statistics(model.train(), images_of(few)):
            result.append(buffers(model))
    assert equal(*result)


def test_the_images_are_always_the_same(few):
    images = images_of(few, crop=1, flip=True)
    once, again = list(images), list(images)
    assert [len(batch) for batch in once] == [50, 50, 50]
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
    plain = torch.cat(list(images_of(few)))
    assert not torch.equal(torch.cat(once), plain)
    every = normalise(few.train.images[:150], few.mean, few.std).flatten(1)
    assert sorted(plain.flatten(1).tolist()) == sorted(every.tolist())
    many = Split(torch.zeros(3 * MAX_IMAGES, 1, 2, 2, dtype=torch.uint8), torch.zeros(3 * MAX_IMAGES))
    drawn = StatisticsImages(many, CPU, 999, Augmentation(), (0.5,), (0.5,), 0)
    assert sum(len(batch) for batch in drawn) == MAX_IMAGES
    odd = StatisticsImages(Split(many.images[:5], many.labels[:5]), CPU, 2, Augmentation(), (0.5,), (0.5,), 0)
    assert [len(batch) for batch in odd] == [3, 2], "never a single image, which has no variance"


def test_an_epoch_is_scored_with_them_until_running_averages_follow():
    assert running_averages_lag(1.0, 10_000) and running_averages_lag(0.11, 10_000) and running_averages_lag(0.0, 99)
    assert not running_averages_lag(0.1, 100) and not running_averages_lag(0.0, 10_000)


def test_metrics_of_a_training_hold_both(few, tmp_path):
    model, observed = network(), []

    def report(epoch, metrics):
        observed.append(evaluate(model, few.validation, few))
        return False

    history = train(model, few, SEARCH, seed=0, epochs=30, out=tmp_path, report=report).history
    assert [line[RUNNING] for line in history] == [scored["accuracy"] for scored in observed]
    assert [line["validation_loss_running_statistics"] for line in history] == [scored["loss"] for scored in observed]
    fresh = [line["validation_loss"] != line["validation_loss_running_statistics"] for line in history]
    assert fresh == [running_averages_lag(line["lr"] / SEARCH.lr, 4 * line["epoch"]) for line in history]
    assert fresh[0] and not fresh[-1] and history[-1]["validation_accuracy"] == history[-1][RUNNING]
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [{name: line[name] for name in line if name != "digest"} for line in lines] == list(history)


def test_fresh_statistics_that_lead_beyond_numbers_fail_no_training(few, monkeypatch):
    scored = iter([{"loss": 2.0, "accuracy": 0.3}, {"loss": float("nan"), "accuracy": 0.1}] * 2)
    monkeypatch.setattr("nas_agg.training.evaluation.evaluate", lambda *_, **__: next(scored))
    history = train(network(), few, SEARCH, seed=0, epochs=2).history
    assert [(line["validation_loss"], line["validation_accuracy"]) for line in history] == [(2.0, 0.3)] * 2


def test_the_first_epoch_of_a_deep_network_is_no_guessing(few):
    model = nas_agg.compile(nas_agg.load("agg-bench/light"), seed=0)
    data = replace(load_data("digits"), validation=few.validation)
    first = train(model, data, open_recipe("bench"), seed=0, pause_after=1).metrics
    assert first["validation_accuracy"] > first[RUNNING] + 0.2
    assert first["validation_loss"] < first["validation_loss_running_statistics"] / 2


def test_a_training_is_the_same_with_and_without(few, tmp_path, monkeypatch):
    states, saved = [], []
    for always in (True, False):
        monkeypatch.setattr(loop, "running_averages_lag", lambda rate, steps, always=always: always)
        model, out = network(), tmp_path / str(always)
        train(model, few, SEARCH, seed=1, epochs=4, pause_after=3, out=out)
        states.append({**model.state_dict(), "drawn": torch.get_rng_state()})
        saved.append(torch.load(out / CHECKPOINT, weights_only=True)["state"])
    assert equal(*states)
    histories = [without_times(state.pop("history")) for state in saved]
    assert histories[0] != histories[1]
    for name in ("order", "augmentation", "global"):
        assert torch.equal(saved[0][name], saved[1][name])
    assert equal(saved[0]["model"], saved[1]["model"])


def test_a_resumed_training_scores_as_an_unbroken_one(few, tmp_path):
    whole = train(network(), few, SEARCH, seed=2, epochs=4).history
    train(network(), few, SEARCH, seed=2, epochs=4, pause_after=2, out=tmp_path)
    torch.rand(5)
    resumed = train(network(), few, SEARCH, seed=2, epochs=4, out=tmp_path, resume=True).history
    assert without_times(resumed) == without_times(whole)
    assert all(line["validation_loss"] != line["validation_loss_running_statistics"] for line in whole)


def test_a_compiled_training_scores_as_a_plain_one(few, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    plain = nas_agg.load(dense_network())
    results = []
    for compiled in (False, True):
        model = nas_agg.compile(plain, seed=0)
        results.append(train(model, few, SEARCH, seed=0, epochs=2, compile=compiled))
    assert results[1].compile_error == ""
    assert without_times(results[0].history) == without_times(results[1].history)


def test_a_network_without_batch_norm_costs_nothing_more(few, monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    monkeypatch.setattr(batch_norm_statistics.StatisticsImages, "__iter__", lambda self: pytest.fail())
    evaluated, own = [], evaluate
    monkeypatch.setattr(
        "nas_agg.training.evaluation.evaluate",
        lambda *arguments, **more: evaluated.append(1) or own(*arguments, **more),
    )
    result = train(model, few, SEARCH, seed=0, epochs=2)
    assert len(evaluated) == 2 and RUNNING not in result.metrics
    assert result.metrics["validation_accuracy"] == own(model, few.validation, few)["accuracy"]
