"""The training loop: updates, failures, and that a resumed training equals an uninterrupted one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.training.augment import normalise
from nas_agg.training.checkpoints import CHECKPOINT
from nas_agg.training.data import Split, load_data
from nas_agg.training.loop import METRICS, TrainingFailed, evaluate, pick_device, train
from nas_agg.training.recipes import Augmentation, open_recipe

torch.set_num_threads(1)
SEARCH = open_recipe("search")


def network(seed=0, dropout=0.1):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(dropout)]
    layers += [nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(288, 10))


def first(split, count):
    return Split(split.images[:count], split.labels[:count])


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def few(digits):
    return replace(digits, train=first(digits.train, 200), validation=first(digits.validation, 50))


def timeless(lines):
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def lines(out):
    written = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    assert all(line.pop("digest") for line in written)
    return written


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_small_network_learns_digits(digits):
    model = network()
    result = train(model, digits, SEARCH, seed=0, epochs=6)
    assert result.epochs == 6 and result.stopped is None and len(result.history) == 6
    assert evaluate(model, digits.test, digits)["accuracy"] > 0.95
    assert result.metrics["validation_accuracy"] > 0.93


def test_equal_seeds_give_equal_weights_and_others_do_not(few):
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, few, SEARCH, seed=seed, epochs=2)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_metrics_of_every_epoch(few, tmp_path):
    result = train(network(), few, SEARCH, seed=0, epochs=3, out=tmp_path)
    assert lines(tmp_path) == list(result.history)
    assert [line["epoch"] for line in result.history] == [1, 2, 3]
    steps = 3 * math.ceil(200 / 64)
    assert result.history[0]["lr"] == SEARCH.learning_rate(steps // 3, steps)
    keys = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds", "images_per_second"}
    assert keys <= result.metrics.keys()
    assert [file.name for file in tmp_path.iterdir()] == [METRICS]  # too short a training for a checkpoint


def test_training_on_both_parts_sees_all_their_images_and_scores_on_none(few, tmp_path):
    result = train(network(), few, SEARCH, seed=0, epochs=1, on="train+validation", out=tmp_path)
    assert "validation_accuracy" not in result.metrics
    assert result.metrics["train_accuracy"] * 250 == pytest.approx(round(result.metrics["train_accuracy"] * 250))


class Recorder(nn.Module):
    """Keeps every batch that it is trained on."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(64, 10)
        self.observed = []

    def forward(self, x):
        if self.training:
            self.observed.append(x.detach().clone())
        return self.line(x.flatten(1))


@pytest.mark.parametrize(
    "count, batch_size, sizes",
    [(129, 64, [43] * 3), (128, 64, [64] * 2), (65, 64, [33, 32]), (200, 64, [50] * 4), (3, 2, [3]), (5, 2, [3, 2])],
)
def test_an_epoch_is_every_image_once_in_batches_of_nearly_one_size(digits, count, batch_size, sizes):
    data = replace(digits, train=first(digits.train, count), augmentation=Augmentation())
    model = Recorder()
    train(model, data, SEARCH.model_copy(update={"batch_size": batch_size}), seed=0, epochs=1)
    assert [len(batch) for batch in model.observed] == sizes
    observed = torch.cat(model.observed).flatten(1)
    want = normalise(data.train.images, data.mean, data.std).flatten(1)
    assert sorted(observed.tolist()) == sorted(want.tolist())


def test_the_first_step_is_sgd_by_hand(few):
    recipe = SEARCH.model_copy(update={"label_smoothing": 0.1, "decay_vectors": False})
    model = Recorder()
    weight, bias = model.line.weight.detach().clone(), model.line.bias.detach().clone()
    data = replace(few, train=first(few.train, 40), augmentation=Augmentation())
    train(model, data, recipe, seed=0, epochs=1)
    images = model.observed[0].flatten(1)
    normal = normalise(data.train.images, data.mean, data.std).flatten(1)
    labels = data.train.labels[[int((normal == image).all(1).nonzero()[0, 0]) for image in images]]
    target = torch.full((40, 10), 0.01).scatter_(1, labels[:, None], 0.91)
    error = (torch.softmax(images @ weight.T + bias, 1) - target) / 40
    lr = recipe.learning_rate(1, 1)
    step = 1.9  # Nesterov's first step, momentum 0.9
    want = weight - lr * step * (error.T @ images + recipe.weight_decay * weight)
    torch.testing.assert_close(model.line.weight.detach(), want)
    torch.testing.assert_close(model.line.bias.detach(), bias - lr * step * error.sum(0))


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("aggregation", [True, False])
def test_each_setting_of_decay_spares_its_own_parameters(few, vectors, aggregation):
    """One step that no gradient moves: what decays shrinks by the rate, the rest stays where it is."""
    gather = {"pattern": "dense", "operator": "weighted", "start": 1}
    text = {
        "input": [1, 8, 8],
        "classes": 10,
        "let": {"weights": ["scale"], "stage": {"nodes": 2, "growth": 4, "reads": gather, "unit": ["bn", {"conv": 3}]}},
        "net": [{"conv": 3, "out": 4}, "weights", "stage", {"like": "stage", "reads": {}, "unit": [{"conv": 3}, "join"],
                "shortcut": gather}, "gap", {"linear": "classes"}],
    }  # fmt: skip
    model = nas_agg.compile(text, seed=0)
    gathered = {name for name, _ in model.named_parameters() if name.rpartition(".")[2].isdigit()}
    assert len(gathered) == 3 + 3 and "weights.scale" in dict(model.named_parameters())
    flat = {name for name, p in model.named_parameters() if p.ndim == 1}
    spared = (set() if vectors else flat) | (set() if aggregation else gathered)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    model.forward = lambda x: 0 * sum(p.sum() for p in model.parameters()) + x.new_zeros(len(x), 10)
    fields = {
        "decay_vectors": vectors,
        "decay_aggregation": aggregation,
        "momentum": 0.0,
        "warmup_epochs": 0,
        "schedule": "step",
        "milestones": (9,),
    }
    recipe = SEARCH.model_copy(update=fields | {"batch_size": 1000})
    train(model, few, recipe, seed=0, epochs=1)
    shrunk = {name for name, p in model.named_parameters() if not (p == 1).all()}
    assert shrunk == {name for name, _ in model.named_parameters()} - spared
    rate = torch.tensor(1 - recipe.learning_rate(1, 1) * recipe.weight_decay)
    assert all(torch.allclose(p, rate) for name, p in model.named_parameters() if name in shrunk)


def test_evaluate_counts_exactly_and_leaves_the_mode_alone(digits):
    model = network().train()
    scored = evaluate(model, digits.test, digits)
    assert model.training
    with torch.no_grad():
        logits = torch.cat([model.eval()(normalise(i[None], digits.mean, digits.std)) for i in digits.test.images])
    assert scored["correct"] == int((logits.argmax(1) == digits.test.labels).sum())
    assert scored["images"] == 359 and scored["accuracy"] == scored["correct"] / 359
    assert scored["loss"] == pytest.approx(nn.functional.cross_entropy(logits, digits.test.labels).item(), rel=1e-5)


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_top5_accuracy_is_the_share_of_labels_among_the_five_highest_logits(digits):
    model = network()
    scored = evaluate(model, digits.test, digits)
    with torch.no_grad():
        logits = model.eval()(normalise(digits.test.images, digits.mean, digits.std))
    ranks = [int((row > row[label]).sum()) for row, label in zip(logits, digits.test.labels, strict=True)]
    assert scored["top5_accuracy"] == sum(rank < 5 for rank in ranks) / 359
    assert scored["accuracy"] < scored["top5_accuracy"] < 1
    fixed = evaluate(Constant([0.0, 9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]), digits.test, digits)
    assert fixed["top5_accuracy"] == sum(int(label) in (1, 3, 5, 7, 9) for label in digits.test.labels) / 359


def test_of_equal_logits_the_lower_classes_count(digits):
    scored = evaluate(Constant([0.0] * 10), digits.test, digits)
    assert scored["top5_accuracy"] == (digits.test.labels < 5).sum().item() / 359
    assert scored["accuracy"] == (digits.test.labels == 0).sum().item() / 359


@pytest.mark.parametrize("classes", [5, 6])
def test_top5_accuracy_needs_more_than_five_classes(digits, classes):
    kept = digits.test.labels < classes
    part = replace(digits, classes=classes)
    scored = evaluate(Constant([0.0] * classes), Split(digits.test.images[kept], digits.test.labels[kept]), part)
    assert ("top5_accuracy" in scored) == (classes > 5)


def test_evaluate_refuses_a_network_of_other_classes(digits):
    with pytest.raises(InputError, match="10 classes"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), digits.test, digits)


def test_report_prunes(few, tmp_path):
    observed = []

    def report(epoch, metrics):
        observed.append((epoch, metrics["epoch"]))
        return epoch == 2

    result = train(network(), few, SEARCH, seed=0, out=tmp_path, report=report, checkpoint_seconds=0)
    assert (
        result.stopped == "pruned" and result.epochs == 2 and observed == [(1, 1), (2, 2)] and len(lines(tmp_path)) == 2
    )


def test_the_rate_falls_at_milestones_in_a_training_that_resumes(few, tmp_path):
    recipe = SEARCH.model_copy(update={"schedule": "step", "milestones": (5.0, 8.0), "warmup_epochs": 0.0})
    whole, broken = network(), network()
    unbroken = train(whole, few, recipe, seed=0, epochs=4)
    assert [line["lr"] for line in unbroken.history] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert [recipe.learning_rate(i, 16) for i in (8, 9)] == pytest.approx([0.1, 0.01])  # 5 of 10 epochs
    assert [recipe.learning_rate(i, 16) for i in (13, 14)] == pytest.approx([0.01, 0.001])  # 8 of 10: 12.8 of 16

    def killed(epoch, metrics):
        if epoch == 3:
            raise Killed
        return False

    with pytest.raises(Killed):
        train(broken, few, recipe, seed=0, epochs=4, out=tmp_path, report=killed, checkpoint_seconds=0)
    reworded = recipe.model_copy(update={"about": "other words", "choices": "none"})
    resumed = network()
    train(resumed, few, reworded, seed=0, epochs=4, out=tmp_path, resume=True)
    assert same(resumed, whole)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_broken_training_resumes_to_the_bit(few, tmp_path, seconds):
    recipe = SEARCH.model_copy(update={"cutout": 2, "flip": True})
    whole = network()
    unbroken = train(whole, few, recipe, seed=3, epochs=5, out=tmp_path / "whole")
    out = tmp_path / "broken"
    reported = []

    def kill_at(epoch_of_death):
        def report(epoch, metrics):
            reported.append(epoch)
            if epoch == epoch_of_death:
                raise Killed
            return False

        return report

    for death in (1, 3, 4):
        with pytest.raises(Killed):
            train(network(), few, recipe, seed=3, epochs=5, out=out, resume=True, report=kill_at(death),
                  checkpoint_seconds=seconds)  # fmt: skip
        with (out / METRICS).open("a") as file:
            file.write('{"epoch": 9, "lr')
        torch.rand(7)  # a new process has another global state
    resumed = network()
    result = train(resumed, few, recipe, seed=3, epochs=5, out=out, resume=True, checkpoint_seconds=seconds)
    assert same(resumed, whole)
    assert timeless(result.history) == timeless(unbroken.history)
    assert timeless(lines(out)) == timeless(lines(tmp_path / "whole"))
    # With checkpoints an epoch is done again only if it was cut off; without them everything is.
    assert reported == ([1, 1, 2, 3, 3, 4] if seconds == 0 else [1, 1, 2, 3, 1, 2, 3, 4])


def test_a_finished_training_resumes_without_an_epoch(few, tmp_path):
    model, again = network(), network(seed=1)
    result = train(model, few, SEARCH, seed=0, epochs=2, out=tmp_path, checkpoint_seconds=0)
    resumed = train(again, few, SEARCH, seed=0, epochs=2, out=tmp_path, resume=True, report=lambda *_: pytest.fail())
    assert resumed == result and same(model, again)


def test_a_new_training_removes_files_of_an_earlier_one(few, tmp_path):
    train(network(), few, SEARCH, seed=0, epochs=2, out=tmp_path, checkpoint_seconds=0)
    assert (tmp_path / CHECKPOINT).exists()
    train(network(), few, SEARCH, seed=1, epochs=1, out=tmp_path)
    assert len(lines(tmp_path)) == 1 and not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(
    "change, word",
    [({"seed": 1}, "seed"), ({"epochs": 3}, "number of epochs"), ({"on": "train+validation"}, "part of the data"),
     ({"recipe": SEARCH.model_copy(update={"lr": 0.5})}, "recipe"), ({"model": Recorder()}, "network"),
     ({"recipe": SEARCH.model_copy(update={"zero_branches": True})}, "recipe"),
     ({"data": None}, "data set")],
)  # fmt: skip
def test_the_checkpoint_of_another_training_is_refused(few, digits, tmp_path, change, word):
    call = {"model": network(), "data": few, "recipe": SEARCH, "seed": 0, "epochs": 2, "out": tmp_path}
    train(**call, checkpoint_seconds=0)
    before = (tmp_path / METRICS).read_bytes()
    change = {"data": digits} if "data" in change else change
    with pytest.raises(InputError, match=f"checkpoint of another {word} "):
        train(**{**call, **change}, resume=True)
    assert (tmp_path / METRICS).read_bytes() == before


def test_divergence_ends_with_a_reason(few):
    wild = SEARCH.model_copy(update={"lr": 1e6, "clip": None})
    with pytest.raises(TrainingFailed, match="diverged") as error:
        train(network(), few, wild, seed=0)
    assert error.value.reason == str(error.value) and error.value.status == 1


class Broken(Recorder):
    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def forward(self, x):
        result = super().forward(x)
        if isinstance(self.failure, BaseException):
            raise self.failure
        return result * self.failure if self.training else result


@pytest.mark.parametrize(
    "failure, reason",
    [
        (math.nan, "diverged: the loss became NaN or infinite in epoch 1"),
        (1e5, "diverged: mean loss"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "out of memory: at batch size 64"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "out of memory"),
    ],
)
def test_failures_have_reasons(few, failure, reason):
    with pytest.raises(TrainingFailed, match=reason) as error:
        train(Broken(failure), few, SEARCH.model_copy(update={"warmup_epochs": 0.0, "lr": 1e-9}), seed=0)
    assert "\n" not in str(error.value)


def test_weights_spoilt_by_the_last_step_are_detected(few):
    model = Recorder()
    model.line.weight.register_hook(lambda grad: grad * math.inf)
    data = replace(few, train=first(few.train, 40))  # one step
    with pytest.raises(TrainingFailed, match="weights became NaN or infinite after epoch 1"):
        train(model, data, SEARCH, seed=0, epochs=1, on="train")


def test_calls_that_cannot_be_met(few):
    for options, word in (({"epochs": 0}, "epochs 0"), ({"seed": -1}, "seed -1")):
        with pytest.raises(InputError, match=word):
            train(network(), few, SEARCH, **{"seed": 0, **options})
    with pytest.raises(InputError, match="no parameters"):
        train(nn.Flatten(), few, SEARCH, seed=0)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="has 0 CUDA devices"):
        pick_device("cuda")
    with pytest.raises(InputError, match="did you mean 'cuda'"):
        pick_device("cude")
    for name in ("cuda:", "cuda:x", "cpu:0", "mps"):
        with pytest.raises(InputError, match="unknown device"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device() == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="'cuda:2'"):
        pick_device("cuda:2")
