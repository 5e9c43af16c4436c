"""Steps as CUDA graphs: on a CPU with graphs that run the step again, then on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from parts_of_batches import few, genotype

from nas_agg.compiler import compile
from nas_agg.training.loop import train
from nas_agg.training.recipes import open_recipe
from nas_agg.training.steps import cuda_graphs
from nas_agg.training.steps.cuda_graphs import WARM_UP_STEPS, GraphedSteps

CPU = torch.device("cpu")


class Stream:
    """A stream that does nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def wait_stream(self, other: Any) -> None:
        pass


class Steps:
    """A step whose result depends on all that changes between steps."""

    def __init__(self) -> None:
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9, fused=True)
        self.called: list[int] = []

    def __call__(self, images: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        self.called.append(len(images))
        rate = torch.as_tensor(self.optimizer.param_groups[0]["lr"])
        return (images.sum() * weights.sum() + targets.sum()) * rate, images * rate


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> tuple[Steps, GraphedSteps]:
    """A step, and its graphed form on a CPU."""
    step = Steps()
    graphed = GraphedSteps(step, step.optimizer, CPU)

    class Graph:
        """A graph that runs the step on the tensors that were captured."""

        def replay(self) -> None:
            capture = next(capture for capture in graphed._captures.values() if capture.graph is self)
            for result, value in zip(capture.results, step(*capture.inputs), strict=True):
                result.copy_(value)

    @contextlib.contextmanager
    def context(*arguments: Any, **options: Any) -> Iterator[None]:
        yield

    for name, value in (("Stream", Stream), ("current_stream", Stream), ("CUDAGraph", Graph)):
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("stream", "graph", "device"):
        monkeypatch.setattr(torch.cuda, name, context)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    return step, graphed


def test_every_step_sees_its_own_batch_and_rate(steps: tuple[Steps, GraphedSteps]) -> None:
    step, graphed = steps
    for number in range(12):
        images, size = torch.full((3 if number % 3 else 2, 4), float(number)), 3 if number % 3 else 2
        targets, weights, rate = torch.arange(size) + number, torch.ones(size) * number, 0.1 * (number + 1)
        step.optimizer.param_groups[0]["lr"] = rate
        loss, outputs = graphed(images, targets, weights)
        assert loss.item() == pytest.approx((images.sum() * weights.sum() + targets.sum()).item() * rate, rel=1e-5)
        assert torch.allclose(outputs, images * rate)
    assert graphed._captures.keys() == {2, 3}
    assert len(graphed._captures[3].inputs) == 3 and WARM_UP_STEPS == 3


def test_other_optimizers_are_not_captured() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    graphed = GraphedSteps(lambda *batch: batch[:2], torch.optim.RMSprop([parameter]), CPU)  # type: ignore[arg-type]
    images = torch.ones(2)
    assert not graphed.is_possible and graphed(images, images, None)[0] is images
    assert not cuda_graphs.can_capture(torch.optim.SGD([parameter], fused=False))


def test_a_cpu_captures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphedSteps, "__call__", lambda *_: pytest.fail())
    recipe = open_recipe("search").model_copy(update={"cuda_graphs": True})
    train(compile(genotype(), 0), few(), recipe, seed=0, epochs=1, on="train+validation")


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory", ["plain", "lean", "leanest"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_graphed_training_equals_another(memory: Any, optimizer: str) -> None:
    fields: dict[str, Any] = {"precision": "float32", "batch_size": 20, "clip": 1.0, "ema": 0.9, "crop": 1}
    fields |= {"mixup": 0.2, "class_weights": "balanced"}
    if optimizer == "AdamW":
        fields |= {"optimizer": "AdamW", "momentum": 0.9, "nesterov": True, "lr": 1e-3}
    histories = []
    for graphs in (False, True):
        model = compile(genotype(), 0, memory=memory)
        recipe = open_recipe("search").model_copy(update={**fields, "cuda_graphs": graphs})
        histories.append(train(model, few(), recipe, seed=0, device="cuda", epochs=3).history)
    for one, other in zip(*histories, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_differs_between_replays() -> None:
    parameter = torch.nn.Parameter(torch.ones(1, device="cuda"))
    optimizer = torch.optim.SGD([parameter], 0.0, fused=True)

    def step(images: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        outputs = torch.nn.functional.dropout(images * parameter, 0.5, True)
        loss = outputs.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach(), outputs.detach()

    graphed = GraphedSteps(step, optimizer, torch.device("cuda"))
    images = torch.ones(8, 64, device="cuda")
    masks = []
    for _ in range(WARM_UP_STEPS + 3):
        optimizer.param_groups[0]["lr"] = 0.1
        masks.append(graphed(images, images, None)[1].clone())
    assert not torch.equal(masks[-1], masks[-2]) and not torch.equal(masks[-2], masks[-3])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fields", [{"crop": 1, "erasing": 0.5}, {"mixup": 0.4, "cutmix": 1.0, "clip": 1.0}])
def test_steps_do_not_wait_for_the_gpu(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_agg.training.steps.stepper import Stepper

    step = Stepper.step

    def checked(self: Stepper, *arguments: Any) -> Any:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    monkeypatch.setattr(Stepper, "step", checked)
    recipe = open_recipe("search").model_copy(update={"batch_size": 20, **fields})
    train(compile(genotype(), 0, memory="lean"), few(), recipe, seed=0, device="cuda", epochs=1)
