"""What a search is told: one set of settings for the command line and for Python."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nas_agg.common.errors import InputError, cut, did_you_mean
from nas_agg.graph.rematerialization import RequestedMemoryMode

if TYPE_CHECKING:
    from nas_agg.search_space.space import Space

DEFAULT_EPOCHS = 10

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SEEDS = 2**63  # as many as PyTorch and Optuna's storages take
MOST = 10**18  # of what is counted
LONGEST = 100  # characters of a number or a duration
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)")
_LATENCY = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_count(text: str | int) -> int:
    """A whole number as people write it: ``1000``, ``200k``, ``1.5M``, ``2G`` (thousands, millions, 10**9).

    Raises:
        ValueError: The text is no such number, or not a whole one.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    said = str(text)
    match = _COUNT.fullmatch(said.strip().replace("_", "")) if len(said) <= LONGEST else None
    if match is None:
        raise ValueError(f"{shown(text)} is no count: write 200000, 200k, 1.5M or 2G")
    unit = match[2].lower()
    count = Decimal(match[1]) * _UNITS["k" if unit == "k" else unit.upper()]
    if count != int(count):
        raise ValueError(f"{text!r} is no whole number: write 200000, 200k, 1.5M or 2G")
    return int(count)


def parse_duration(text: str | float) -> float:
    """Seconds in a duration as people write it: ``90``, ``90s``, ``30m``, ``2h``, ``1h30m``.

    Raises:
        ValueError: The text is no duration.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        try:
            return float(text)
        except OverflowError:
            return math.inf
    said = str(text)
    match = _DURATION.fullmatch(said.strip().lower()) if len(said) <= LONGEST else None
    if match is None or not any(match.groups()):
        raise ValueError(f"{shown(text)} is no duration: write 90s, 30m, 2h or 1h30m")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def parse_latency(text: str | float) -> float:
    """Milliseconds in a latency as people write it: ``5ms``, ``800us``, ``0.2s``; a number is milliseconds.

    Raises:
        ValueError: The text is no latency.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return min(float(text), math.inf) if abs(text) < MOST else math.inf
    said = str(text)
    match = _LATENCY.fullmatch(said.strip().lower()) if len(said) <= LONGEST else None
    if match is None:
        raise ValueError(f"{shown(text)} is no latency: write 5ms, 800us or 0.2s")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def shown(value: object) -> str:
    """A wrong value as an error shows it, cut where it is long."""
    try:
        return cut(repr(value))
    except Exception:  # a whole number of thousands of digits, or somebody's own class
        return f"a {type(value).__name__}"


def _positive(seconds: float) -> float:
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError("it must be more than nothing")
    return seconds


def parse_names(names: object) -> object:
    """Names in a text such as ``accuracy,macs``."""
    return tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names


Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0, le=MOST)]
Milliseconds = Annotated[float, BeforeValidator(lambda text: _positive(parse_latency(text)))]
Seconds = Annotated[float, BeforeValidator(lambda text: _positive(parse_duration(text)))]


class Settings(BaseModel):
    """The settings of a search; make one with :meth:`of`, which says what is wrong in one line.

    ``start`` are the values of the first trials. ``max_params`` and ``max_macs`` of 0 are no limit; unsaid, they and
    ``epochs`` are the space's own. Counts, durations and latencies may be texts such as ``"1.5M"``, ``"2h"`` and
    ``"5ms"``; as numbers, latencies are milliseconds. ``max_activations`` is of bytes an image, ``min_accuracy`` of 0
    to 1. ``compile`` is of the final training alone: a trial is shorter
    than its compilation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    space: str
    dataset: str | None = "digits"
    searcher: str = "predictor"
    start: tuple[dict[str, Any], ...] | None = None
    budget: int = Field(default=50, ge=1, le=10**6)
    seed: int = Field(default=0, ge=0, lt=SEEDS)
    epochs: int | None = Field(default=None, ge=1, le=10**6)
    recipe: str | None = None
    objective: Annotated[tuple[str, ...] | None, BeforeValidator(parse_names)] = None
    max_params: Count | None = None
    max_macs: Count | None = None
    max_activations: Count | None = None
    max_latency: Milliseconds | None = None
    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    max_loss: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    latency_target: Milliseconds | None = None
    proxy: str | None = None
    candidates: int = Field(default=20, ge=1, le=10_000)
    pruner: Literal["median", "halving", "hyperband", "none"] | None = None
    reduction: int | None = Field(default=None, ge=2, le=100)
    first_epochs: int | None = Field(default=None, ge=1)
    image_size: int | None = Field(default=None, ge=1)
    device: str = "auto"
    storage: str | None = Field(default=None, min_length=1)
    workers: int | None = Field(default=None, ge=0, le=1024)
    timeout: Seconds | None = None
    trial_timeout: Seconds | None = None
    retries: int = Field(default=3, ge=0)
    memory: RequestedMemoryMode = "auto"
    compile: bool = False

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings from keyword arguments.

        Raises:
            InputError: A setting is unknown or out of its range.
        """
        for name in values.keys() - cls.model_fields.keys():
            raise InputError(f"{name}: no such setting of a search{did_you_mean(name, cls.model_fields)}")
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            said = first["msg"].removeprefix("Value error, ")
            wrong = shown(values.get(name))
            end = "" if said.startswith(wrong) else f", not {wrong}"
            raise InputError(f"{name}: {said[0].lower()}{said[1:]}{end}") from None

    def of_space(self, space: Space, input: tuple[int, int, int]) -> Settings:
        """These settings, what is unsaid filled in from the space's own for such images."""
        search = space.search_defaults(input)
        return self.model_copy(
            update={
                "epochs": self.epochs or search.epochs or DEFAULT_EPOCHS,
                "max_params": _first(self.max_params, search.max_params),
                "max_macs": _first(self.max_macs, search.max_macs),
            }
        )

    def difference(self, other: dict[str, Any]) -> str:
        """The first setting that would make another search of it, as a text; empty if there is none.

        By what means, how fast and how patiently a search runs is nobody's business but its own: the settings in
        ``FREE`` may change between one part of a run and the next.
        """
        for name, mine in self.model_dump(mode="json", exclude=FREE).items():
            if mine != other.get(name):
                return f"{name} is {shown(other.get(name))} there and {shown(mine)} here"
        return ""


FREE = {"budget", "workers", "timeout", "trial_timeout", "retries", "memory", "compile"}


def _first(said: int | None, default: int | None) -> int | None:
    """The limit to keep: what was said, else the default; 0 is no limit."""
    return (default if said is None else said) or 0
