"""A metric of a trained network: its name, unit, direction and tasks, and its value of some images."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np


class TrainedMetric:
    """A metric of a network's outputs on labelled images.

    Attributes:
        name: Name in settings, options and messages.
        attribute: Name wherever values are stored; ``validation_`` and ``test_`` come before it.
        unit: ``fraction`` (0 to 1), or ``""``.
        direction: Whether a smaller or a larger value is better.
        tasks: The tasks that have it.
    """

    name: ClassVar[str]
    attribute: ClassVar[str]
    unit: ClassVar[str] = "fraction"
    direction: ClassVar[Literal["minimize", "maximize"]] = "maximize"
    tasks: ClassVar[tuple[str, ...]]

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        """The value of some images.

        Args:
            scores: Probabilities of the classes, or the outputs of a regression: float64, (N, classes or targets).
            targets: One label per image, int64 (N,); several, zeros and ones (N, classes); or numbers (N, targets).
        """
        raise NotImplementedError

    def is_better(self, value: float, other: float) -> bool:
        """Whether one value is better than another."""
        return value > other if self.direction == "maximize" else value < other


class Loss(TrainedMetric):
    """The mean loss of the task, which the evaluation computes from the network's outputs."""

    name = attribute = "loss"
    unit = ""
    direction = "minimize"
    tasks = ("classification", "multilabel", "regression")
