"""The search: asks, limits, workers, the record of trials, the run folder. `run.py` tells it from first to last."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_agg.study.result import SearchResult
    from nas_agg.study.run import resume, search
    from nas_agg.study.single import evaluate_run

__all__ = ["SearchResult", "evaluate_run", "resume", "search"]

_PLACES = {"SearchResult": "result", "evaluate_run": "single", "resume": "run", "search": "run"}


def __getattr__(name: str) -> Any:
    # A worker process and a searcher's module pass by here, and need none of it.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
