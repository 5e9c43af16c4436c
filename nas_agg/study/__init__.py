"""The search: `api` checks what a caller gives, `engine` assembles a search, `coordinator` runs its loop.

Its rooms, from the top down: workers, scheduling, records, samplers, tables, definition. Imports `training`,
`compiler` and what lies below them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_agg.study.api import resume, search
    from nas_agg.study.definition.result import SearchResult
    from nas_agg.study.standalone_training import evaluate_run

__all__ = ["SearchResult", "evaluate_run", "resume", "search"]

_PLACES = {
    "SearchResult": "definition.result",
    "evaluate_run": "standalone_training",
    "resume": "api",
    "search": "api",
}


def __getattr__(name: str) -> Any:
    # A worker process and a searcher's module pass by here, and need none of it.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
