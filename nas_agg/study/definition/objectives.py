"""What a search aims at: one figure of networks, or several that it trades off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nas_agg.common.console import bytes_text
from nas_agg.common.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nas_agg.study.definition.settings import Settings


@dataclass(frozen=True)
class Objective:
    """A figure that a search aims at.

    Attributes:
        name: As people write it.
        maximised: Whether more is better.
        known: Whether arithmetic knows it before a training.
        figure: What a trial, a cost or a worker's result calls it.
    """

    name: str
    maximised: bool = False
    known: bool = False
    figure: str = ""

    @property
    def learnt(self) -> bool:
        """Whether training changes it."""
        return not self.known and self.figure != "latency_ms"

    def score(self, value: float) -> float:
        """The value so turned that more is better."""
        return value if self.maximised else -value

    def shown(self, value: float) -> str:
        """A value as people read it."""
        if self.name == "accuracy":
            return f"{100 * value:.2f} %"
        if self.name == "activations":
            return bytes_text(int(value))
        if self.name == "latency":
            return f"{value:.4g} ms"
        if self.name == "score":
            return f"score {value:.4f}"
        if self.known:
            return f"{int(value):,} {'MACs' if self.name == 'macs' else self.name}"
        return f"{self.name} {value:.6g}" if self.figure != "value" else f"{value:.6g}"


#: What networks that are trained can be judged by.
OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("accuracy", maximised=True, figure="accuracy"),
        Objective("loss", figure="loss"),
        Objective("latency", figure="latency_ms"),
        Objective("params", known=True, figure="params"),
        Objective("macs", known=True, figure="macs"),
        Objective("activations", known=True, figure="activation_bytes"),
    )
}
TRAINED = ("accuracy", "loss")
VALUE = Objective("value", maximised=True, figure="value")  # what a function gives
SCORE = Objective("score", maximised=True, figure="value")  # of accuracy and latency


class Objectives(Sequence[Objective]):
    """The objectives of a search, in the order of a trial's values.

    Args:
        items: One or more.
    """

    def __init__(self, items: Sequence[Objective] = (VALUE,)):
        self._items = tuple(items)

    def __getitem__(self, place: Any) -> Any:
        return self._items[place]

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Objectives({', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""
        return tuple(objective.name for objective in self)

    @property
    def several(self) -> bool:
        """Whether they are traded off: then there is no best network but a front of them."""
        return len(self) > 1

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """As Optuna takes them."""
        return ["maximize" if objective.maximised else "minimize" for objective in self]

    def scores(self, values: Sequence[float]) -> tuple[float, ...]:
        """A trial's values, each so turned that more is better."""
        return tuple(objective.score(value) for objective, value in zip(self, values, strict=True))


def objectives_of(settings: Settings, evaluated: bool) -> Objectives:
    """The objectives that settings name.

    Args:
        settings: Of a search.
        evaluated: Whether a user's function gives the values: those that arithmetic does not know, in their order.

    Raises:
        InputError: One is unknown or comes twice, or nothing is left to train or to evaluate for.
    """
    said = settings.objective
    if said is not None and len(said) > 1 and settings.pruner == "median":
        raise InputError("pruner: of several objectives there is no median; take halving, hyperband or none")
    if said is None:
        own = OBJECTIVES["accuracy"] if settings.latency_target is None else SCORE
        return Objectives((VALUE if evaluated else own,))
    if settings.latency_target is not None:
        raise InputError("latency_target: a score of accuracy and latency; leave it out, or the objective")
    if not said:
        raise InputError(f"objective: none is named; there are {', '.join(OBJECTIVES)}")
    found = [_named(name, evaluated) for name in said]
    names = [objective.name for objective in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"objective: {name} comes twice")
    if all(objective.known for objective in found):
        raise InputError("objective: arithmetic knows all of them; name accuracy or loss too")
    if not evaluated and not set(names) & set(TRAINED):
        raise InputError("objective: networks are trained for accuracy or loss; name one of them too")
    return Objectives(found)


def _named(name: str, evaluated: bool) -> Objective:
    """``accuracy``, or a user's own: ``error:min`` or ``speed:max``."""
    if not evaluated:
        if name not in OBJECTIVES:
            raise InputError(
                f"objective: no {name!r}{did_you_mean(name, OBJECTIVES)}; there are {', '.join(OBJECTIVES)}"
            )
        return OBJECTIVES[name]
    own, colon, direction = name.partition(":")
    if colon and direction not in ("min", "max"):
        raise InputError(f"objective: {name!r}: write {own}:min or {own}:max")
    if not own or not own.isidentifier():
        raise InputError(f"objective: {name!r} is no name; write one such as error:min")
    if colon or own not in OBJECTIVES:
        return Objective(own, maximised=direction != "min", figure=own)
    return OBJECTIVES[own]


def values_of(objectives: Objectives, found: Mapping[str, Any]) -> tuple[float, ...]:
    """A trial's values.

    Args:
        objectives: Of the search.
        found: What is known of a network, by the names of figures; ``value`` is that of a single objective.
    """
    if not objectives.several and "value" in found:
        return (float(found["value"]),)
    return tuple(float(found[objective.figure]) for objective in objectives)
