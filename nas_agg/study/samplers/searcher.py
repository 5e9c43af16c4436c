"""Base class of searchers, which are installed through entry points."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from nas_agg.common.errors import InputError, did_you_mean, one_line
from nas_agg.study.definition.objectives import Objectives

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nas_agg.search_space.parameters import SearchVariables
    from nas_agg.study.samplers.earlier_runs import EarlierRuns

GROUP = "nas_agg.searchers"


class Searcher(ABC):
    """A search algorithm: provides an Optuna sampler for each trial.

    A searcher has no state of its own. It learns from the study alone, so that a resumed search continues exactly as an
    uninterrupted one. `nas_agg.testing.check_searcher` checks this.

    Args:
        space: The search space.
        seed: The seed of the search.

    Attributes:
        space: The search space.
        seed: The seed of the search.
        objectives: The objectives, in the order of a trial's values; set after construction.
        input: Shape of the images (channels, height, width), set when a search begins; None: the space's own.
        classes: The number of classes, set when a search begins; None: the space's own.
        limits: Upper limits of attributes of :class:`~nas_agg.expansion.costs.Cost`, set when a search begins; 0 is no
            limit. Networks that exceed them are rejected, so a searcher may skip them.
        earlier: Earlier runs to learn from, set when a search begins. Their best networks are the first in any case.
        full_epochs: Epochs of a full training, set when a search begins in which the searcher decides which paused
            trials continue: by proposing their points again. 0 in other searches.
        supports_freeze_thaw: Whether the searcher can decide that.
        supports_multi_objective: Whether the searcher can optimize several objectives.
        max_rejections: Rejected or duplicate draws in a row after which other draws are mixed in: random points of the
            space, and neighbours of the best networks.
    """

    max_rejections: int = 20
    supports_freeze_thaw: bool = False
    supports_multi_objective: bool = False
    objectives: Objectives = Objectives()
    input: tuple[int, int, int] | None = None
    classes: int | None = None
    limits: Mapping[str, int] = {}
    earlier: EarlierRuns | None = None
    full_epochs: int = 0

    def __init__(self, space: SearchVariables, seed: int):
        self.space = space
        self.seed = seed

    @abstractmethod
    def sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial.

        Its randomness must depend on the seed of the search and the trial's number alone: use :meth:`seed_of`.

        Args:
            number: The trial's number, from 0.
        """

    def seed_of(self, number: int) -> int:
        """The seed of the sampler of trial ``number``, below 2**32."""
        return derive_seed(self.seed, number, "ask")


def derive_seed(seed: int, number: int, purpose: str) -> int:
    """A seed below 2**32 for one purpose of one trial, as a hash of the arguments."""
    digest = hashlib.sha256(f"{seed}/{number}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def installed_searchers() -> Mapping[str, EntryPoint]:
    """The entry points of all installed searchers, by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def find_searcher(name: str) -> type[Searcher]:
    """The class of an installed searcher.

    Raises:
        InputError: No such searcher is installed, or it cannot be loaded.
    """
    installed = installed_searchers()
    if name not in installed:
        names = ", ".join(installed) or "none"
        raise InputError(f"unknown searcher {name!r}{did_you_mean(name, installed)}; installed searchers: {names}")
    source = installed[name].value
    try:
        kind = installed[name].load()
    except Exception as error:  # a plug-in's module may raise anything
        raise InputError(f"searcher {name!r} ({source}) cannot be loaded: {describe_exception(error)}") from error
    if not (isinstance(kind, type) and issubclass(kind, Searcher)):
        base = f"{Searcher.__module__}.{Searcher.__qualname__}"
        raise InputError(f"searcher {name!r} ({source}) is not a subclass of {base}")
    return kind


def make_searcher(
    kind: type[Searcher], space: SearchVariables, seed: int, objectives: Objectives | None = None
) -> Searcher:
    """Create a searcher of a space.

    Args:
        kind: The searcher's class.
        space: The search space.
        seed: The seed of the search.
        objectives: The objectives of the search; None: the searcher's default.

    Raises:
        InputError: The class cannot be instantiated, or does not support several objectives.
    """
    if objectives is not None and objectives.is_multi_objective and not kind.supports_multi_objective:
        names = ", ".join(objectives.names)
        raise InputError(f"searcher {kind.__name__} supports a single objective only, not {names}")
    try:
        searcher = kind(space, seed)
        if objectives is not None:
            searcher.objectives = objectives
        return searcher
    except InputError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise InputError(f"searcher {kind.__name__} cannot be created: {describe_exception(error)}") from error


def describe_exception(error: Exception) -> str:
    """The type and the first line of the message of an exception, raised by code outside this package, in one line."""
    try:
        message = next(iter(str(error).splitlines()), "")
    except Exception:  # its __str__ fails
        message = ""
    name = type(error).__name__
    return one_line(f"{name}: {message}" if message else name)
