"""Early stopping: a training ends once its validation metric no longer improves, with the weights of its best epoch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas_agg.training.metrics import TrainedMetric


class EarlyStopping:
    """Watches a metric of the validation images.

    Args:
        patience: Epochs without a better value after which the training ends.
        metric: The metric.

    Attributes:
        best_epoch: The epoch with the best value so far; None before the first.
    """

    def __init__(self, patience: int, metric: TrainedMetric):
        self.patience, self.metric = patience, metric
        self.best_epoch: int | None = None
        self._best_value, self._epoch = 0.0, 0
        self._weights: dict[str, Tensor] = {}

    @property
    def is_due(self) -> bool:
        """Whether the training is to end."""
        return self.best_epoch is not None and self._epoch - self.best_epoch >= self.patience

    def observe(self, metrics: dict[str, Any], model: nn.Module) -> None:
        """Compare an epoch's value with the best; keep a copy of the weights if it is better."""
        self._epoch = int(metrics["epoch"])
        value = float(metrics[f"validation_{self.metric.attribute}"])
        if self.best_epoch is None or self.metric.is_better(value, self._best_value):
            self.best_epoch, self._best_value = self._epoch, value
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def finish(self, model: nn.Module) -> None:
        """Give a model the weights of the best epoch."""
        if self._weights:
            model.load_state_dict(self._weights)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "epoch": self._epoch,
            "best_epoch": self.best_epoch,
            "best_value": self._best_value,
            "weights": self._weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._epoch, self.best_epoch, self._best_value = state["epoch"], state["best_epoch"], state["best_value"]
        self._weights = dict(state["weights"])
