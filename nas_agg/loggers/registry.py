"""Loggers by name, for ``--log tensorboard,mlflow``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.study.definition.callbacks import Callback

#: By name, the class of a logger as ``module:class``.
LOGGERS = {
    "tensorboard": "nas_agg.loggers.tensorboard_logger:TensorBoardLogger",
    "mlflow": "nas_agg.loggers.mlflow_logger:MlflowLogger",
    "wandb": "nas_agg.loggers.wandb_logger:WandbLogger",
}


def make_loggers(names: str | Sequence[str]) -> list[Callback]:
    """Make the loggers of some names.

    Args:
        names: Names, or a text of names separated by commas.

    Raises:
        InputError: A logger is unknown, or its package is not installed.
    """
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    loggers: list[Callback] = []
    for name in dict.fromkeys(listed):
        if name not in LOGGERS:
            raise InputError(
                f"log: unknown logger '{name}'{did_you_mean(name, LOGGERS)}; choose from {', '.join(LOGGERS)}"
            )
        if find_spec(name) is None:
            raise InputError(f"log: {name} is not installed: pip install 'nas-agg[{name}]'")
        module, _, class_name = LOGGERS[name].partition(":")
        loggers.append(getattr(import_module(module), class_name)())
    return loggers
