"""The search: `api` checks arguments, `plan` plans a search, `engine` runs it, `coordinator` is its loop.

Its packages, from the top down: workers, scheduling, records, samplers, tables, definition. Imports `training`,
`compiler` and packages below them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_agg.study.api import reattach, resume, search
    from nas_agg.study.definition.result import SearchResult
    from nas_agg.study.saved_evaluation import evaluate_run

__all__ = ["SearchResult", "evaluate_run", "reattach", "resume", "search"]

_MODULES = {
    "SearchResult": "definition.result",
    "evaluate_run": "saved_evaluation",
    "reattach": "api",
    "resume": "api",
    "search": "api",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: worker processes and the modules of searchers need none of these.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
