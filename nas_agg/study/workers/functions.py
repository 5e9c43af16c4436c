"""Functions of a caller that evaluate networks: how worker processes import them, and what their results are."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.definition.notations import short_repr
from nas_agg.study.samplers.searcher import describe_exception
from nas_agg.study.workers.messages import TrialOutcome

MAIN = "__mp_main__"  # the name of a script where workers import it, as in multiprocessing
_REMEDY = "define it with def at the top level of a module, or use workers=1"

_imported_script = ""  # the script that is being imported in this worker process


class FunctionReference(BaseModel):
    """A function by the name it is imported by.

    Attributes:
        module: The module; empty if it is a script.
        script: Path of the script that defines it; empty if it is in a module.
        name: Name within the module, with dots for what is in a class.
        path: Folders to look for modules in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: str
    script: str
    name: str
    path: tuple[str, ...]


class EvaluationFailed(NasAggError):
    """A function raised an exception, or returned something else than finite numbers."""


def reference_to(function: Callable[..., Any]) -> FunctionReference:
    """The name by which worker processes import a function.

    Raises:
        InputError: It cannot be imported; the message says why.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise InputError(f"evaluate: worker processes cannot import {short_repr(function)}; {_REMEDY}")
    if "<lambda>" in name or "<locals>" in name:
        kind = "a lambda" if name.endswith("<lambda>") else f"{name.rpartition('.')[2]}, defined within a function"
        raise InputError(f"evaluate: worker processes cannot import {kind}; {_REMEDY}")
    script = ""
    if module == "__main__":
        module, script = _main_module(name)
    found: Any = sys.modules.get(module or "__main__")
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        where = script or module
        raise InputError(f"evaluate: {where} has another {name} than the one specified; {_REMEDY}")
    path = tuple(dict.fromkeys(folder or os.getcwd() for folder in sys.path))
    return FunctionReference(module=module, script=script, name=name, path=path)


def _main_module(name: str) -> tuple[str, str]:
    """The name of the program's main module, or the path of its script."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return spec.name, ""
    script = getattr(main, "__file__", None)
    if script is None or not Path(script).is_file():
        raise InputError(
            f"evaluate: worker processes cannot import {name}, which is defined in a notebook or an interactive "
            "session; write it to a file, such as evaluation.py, and import it from there, or use workers=1"
        )
    return "", str(Path(script).resolve())


def import_function(reference: FunctionReference) -> Callable[..., Any]:
    """Import a function in a worker process.

    Raises:
        NasAggError: It cannot be imported.
    """
    global _imported_script
    sys.path.extend(folder for folder in reference.path if folder not in sys.path)
    where = reference.script or reference.module
    try:
        _imported_script = reference.script
        found: Any = _load_script(reference.script) if reference.script else importlib.import_module(reference.module)
        for part in reference.name.split("."):
            found = getattr(found, part)
    except InputError as error:
        raise NasAggError(f"evaluate: {where} cannot be imported in a worker process: {error}") from error
    except (Exception, SystemExit) as error:  # of the caller's module
        reason = "it exits" if isinstance(error, SystemExit) else describe_exception(error)
        raise NasAggError(f"evaluate: {where} cannot be imported in a worker process: {reason}") from error
    finally:
        _imported_script = ""
    function: Callable[..., Any] = found
    return function


def _load_script(path: str) -> ModuleType:
    spec = spec_from_loader(MAIN, SourceFileLoader(MAIN, path))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[MAIN] = module
    spec.loader.exec_module(module)
    return module


def check_not_importing() -> None:
    """Refuse to begin a search while a worker process imports the script that begins it.

    Raises:
        InputError: The message says what the script lacks.
    """
    if _imported_script:
        raise InputError("it begins a search when it is imported; put that below: if __name__ == '__main__':")


def call_function(function: Callable[..., Any], argument: Any, trial: Any, attributes: Sequence[str]) -> TrialOutcome:
    """Evaluate a network by a function.

    Args:
        function: Returns a value, or several; may report to the trial and raise ``optuna.TrialPruned``.
        argument: The genotype, or the values of search variables.
        trial: The trial.
        attributes: Attributes of the metrics that the values are.

    Raises:
        EvaluationFailed: The function failed.
    """
    import optuna

    try:
        result = function(argument, trial)
    except optuna.TrialPruned:
        return TrialOutcome(pruned=True)
    except Exception as error:  # the caller's function: its exceptions are failed trials
        raise EvaluationFailed(_own_reason(error) or describe_exception(error)) from error
    metrics = dict(zip(attributes, _numbers(result, len(attributes)), strict=True))
    return TrialOutcome(metrics=metrics, pruned=False)


def _numbers(result: Any, count: int) -> list[float]:
    """A function's values."""
    expected = "a number" if count == 1 else f"{count} numbers"
    items = [result] if count == 1 else result.tolist() if hasattr(result, "tolist") else result  # of an array
    if not isinstance(items, tuple | list) or len(items) != count:
        raise EvaluationFailed(f"evaluate returned a value of type {type(result).__name__}, not {expected}")
    numbers = []
    for item in items:
        try:
            number = None if isinstance(item, str | bytes | bytearray) else float(item)
        except Exception:  # whatever its type raises
            number = None
        if number is None:
            raise EvaluationFailed(f"evaluate returned a value of type {type(item).__name__}, not {expected}")
        if not math.isfinite(number):
            raise EvaluationFailed(f"diverged: the value is {'NaN' if number != number else 'infinite'}")
        numbers.append(number)
    return numbers


def _own_reason(error: Exception) -> str:
    """The reason that this package's own errors carry."""
    return str(getattr(error, "reason", "")) if isinstance(error, NasAggError) else ""
