"""What a searcher is: a small class that gives Optuna samplers, found through entry points."""

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

    from nas_agg.search_space.space import Space

GROUP = "nas_agg.searchers"


class Searcher(ABC):
    """Proposes points of a space.

    A searcher keeps no state of its own: what it learns from is the study, so a search that was killed goes on as if
    nothing had been.

    Attributes:
        space: The space that is searched.
        seed: The search's seed.
        objectives: What the search aims at, in the order of a trial's values; set when the searcher is made.
        input: The images' shape (channels, height, width), set when a search begins; None: the space's own.
        classes: The number of classes, set likewise.
        limits: The most that figures of :class:`~nas_agg.expansion.costs.Cost` may be, set likewise; 0 is no limit.
            What is above is refused; a searcher may leave it out at once.
        several: Whether the class can trade objectives off; one that cannot is refused a search of several.
        max_rejections: Rejected draws in a row after which other draws are mixed in: points of the
            whole space and neighbours of the best networks.
    """

    max_rejections: int = 20
    supports_multi_objective: bool = False
    objectives: Objectives = Objectives()
    input: tuple[int, int, int] | None = None
    classes: int | None = None
    limits: Mapping[str, int] = {}

    def __init__(self, space: Space, seed: int):
        self.space = space
        self.seed = seed

    @abstractmethod
    def sampler(self, number: int) -> BaseSampler:
        """A sampler for one trial, seeded by the search's seed and the trial's number alone.

        Take the seed from :meth:`seed_of`.

        Args:
            number: The trial's number, from 0.
        """

    def seed_of(self, number: int) -> int:
        """The seed of the sampler of trial ``number``, below 2**32."""
        return derive_seed(self.seed, number, "ask")


def derive_seed(seed: int, number: int, purpose: str) -> int:
    """A seed below 2**32 for one purpose of one trial: the same wherever and whenever it is asked for."""
    digest = hashlib.sha256(f"{seed}/{number}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def installed_searchers() -> Mapping[str, EntryPoint]:
    """Every searcher that is installed, by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def find_searcher(name: str) -> type[Searcher]:
    """The searcher of a name.

    Raises:
        InputError: No such searcher is installed, or it cannot be loaded.
    """
    known = installed_searchers()
    if name not in known:
        raise InputError(f"no searcher {name!r}{did_you_mean(name, known)}; there are {', '.join(known) or 'none'}")
    try:
        found = known[name].load()
    except Exception as error:  # whatever a plug-in's module may raise
        raise InputError(
            f"searcher {name!r} ({known[name].value}) cannot be loaded: {describe_exception(error)}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Searcher)):
        base = f"{Searcher.__module__}.{Searcher.__qualname__}"
        raise InputError(f"searcher {name!r} ({known[name].value}) is no subclass of {base}")
    return found


def make_searcher(kind: type[Searcher], space: Space, seed: int, objectives: Objectives | None = None) -> Searcher:
    """A searcher of a space.

    Raises:
        InputError: Its class cannot be called so, is not whole, or cannot trade off the objectives.
    """
    if objectives is not None and objectives.is_multi_objective and not kind.supports_multi_objective:
        raise InputError(f"searcher {kind.__name__}: it aims at one objective, not at {', '.join(objectives.names)}")
    try:
        made = kind(space, seed)
        if objectives is not None:
            made.objectives = objectives
        return made
    except InputError:
        raise
    except Exception as error:  # a searcher is a plug-in
        raise InputError(f"searcher {kind.__name__} cannot be made: {describe_exception(error)}") from error


def describe_exception(error: Exception) -> str:
    """What somebody else's code raised, in one line."""
    try:
        said = next(iter(str(error).splitlines()), "")
    except Exception:  # it cannot even be shown
        said = ""
    name = type(error).__name__
    return one_line(f"{name}: {said}" if said else name)
