"""Whole training steps as CUDA graphs, for small networks, whose kernels take less time than their launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps of each size that run as usual first: they create the optimizer's state, and libraries choose their algorithms.
WARM_UP_STEPS = 3

#: Optimizers whose fused step reads the learning rate and its own state on the device.
OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)

#: A step: from images, targets and weights to the loss and the outputs.
Step = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Capture:
    """A captured step with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor | None, ...]
    results: tuple[Tensor, Tensor]


class GraphedSteps:
    """Runs steps, captured once for each size of batches: an epoch's batches have two sizes at most.

    The first steps run as usual, on a stream of their own, as PyTorch asks for. Where the optimizer cannot be captured
    all steps do.

    Args:
        step: A step without work of the processor that differs between steps. It must not wait for the device.
        optimizer: The optimizer that the step calls.
        device: The CUDA device.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device):
        self._step, self._optimizer, self._device = step, optimizer, device
        self._warmed_up: Counter[int] = Counter()
        self._aside: torch.cuda.Stream | None = None
        self._captures: dict[int, _Capture] = {}
        self._rates: list[Tensor] = []
        self.is_possible = can_capture(optimizer)

    def __call__(self, images: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss and the outputs of one step; they are overwritten by the next one of the same size."""
        if not self.is_possible:
            return self._step(images, targets, weights)
        self._put_rates_on_device()
        if self._warmed_up[len(images)] < WARM_UP_STEPS:
            self._warmed_up[len(images)] += 1
            return self._run_aside(images, targets, weights)
        if len(images) not in self._captures:
            self._captures[len(images)] = self._capture(images, targets, weights)
        capture = self._captures[len(images)]
        for static, given in zip(capture.inputs, (images, targets, weights), strict=True):
            if static is not None and given is not None:
                static.copy_(given, non_blocking=True)
        capture.graph.replay()
        return capture.results

    def _put_rates_on_device(self) -> None:
        """Copy learning rates, which change with every step, to tensors that the graphs read."""
        groups = self._optimizer.param_groups
        if not self._rates:
            self._rates = [torch.zeros((), device=self._device) for _ in groups]
            for group in groups:
                if "capturable" in group:
                    group["capturable"] = True
        for group, rate in zip(groups, self._rates, strict=True):
            rate.fill_(float(group["lr"]))  # a number on the processor, since it was set for this step
            group["lr"] = rate

    def _run_aside(self, images: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        current = torch.cuda.current_stream(self._device)
        aside = self._aside = self._aside or torch.cuda.Stream(self._device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            results = self._step(images, targets, weights)
        current.wait_stream(aside)
        for tensor in (images, targets, weights):
            if tensor is not None:
                tensor.record_stream(aside)  # its memory is not to be used again before the step is done
        for tensor in results:
            tensor.record_stream(current)
        return results

    def _capture(self, images: Tensor, targets: Tensor, weights: Tensor | None) -> _Capture:
        """Capture a step without running it."""
        inputs = tuple([None if tensor is None else tensor.clone() for tensor in (images, targets, weights)])
        self._optimizer.zero_grad(set_to_none=True)  # gradients are to lie in the graph's memory
        graph = torch.cuda.CUDAGraph()
        # Images may be gathered by another thread meanwhile, which is none of the graph's business.
        with torch.cuda.device(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = self._step(*inputs)  # type: ignore[arg-type]
        return _Capture(graph, inputs, results)


def can_capture(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer's step can be captured."""
    return type(optimizer) in OPTIMIZERS and all(group.get("fused") for group in optimizer.param_groups)
