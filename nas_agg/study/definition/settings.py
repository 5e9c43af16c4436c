"""Settings of a search: one declaration each, for Python and for the command line.

The options of ``nas_agg search`` are generated from the fields of `Settings`: names, types, defaults, descriptions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nas_agg.common.errors import InputError, did_you_mean, truncate
from nas_agg.common.urls import without_password
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.training.metrics import TRAINED_METRICS
from nas_agg.training.recipes import Recipe, open_recipe
from nas_agg.training.recipes.files import parse_changes, reference
from nas_agg.training.recipes.tuning import parse_tuning

if TYPE_CHECKING:
    from nas_agg.search_space.space import Space

DEFAULT_EPOCHS = 10
DATA_SETS = "digits, fashion-mnist, cifar10, cifar100, folder:PATH (one folder per class), npz:PATH or csv:FILE"

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SEED_LIMIT = 2**63  # of PyTorch and of Optuna's storages
MAX_COUNT = 10**18
MAX_TEXT = 100  # characters of a count, a duration or a latency
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)")
_LATENCY = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_count(text: str | int) -> int:
    """Parse a whole number: ``1000``, ``200k``, ``1.5M``, ``2G`` (powers of 1000).

    Raises:
        ValueError: The text is not a whole number in this notation.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    characters = str(text)
    match = _COUNT.fullmatch(characters.strip().replace("_", "")) if len(characters) <= MAX_TEXT else None
    if match is None:
        raise ValueError(f"invalid count {short_repr(text)}; use for example 200000, 200k, 1.5M or 2G")
    unit = match[2].lower()
    count = Decimal(match[1]) * _UNITS["k" if unit == "k" else unit.upper()]
    if count != int(count):
        raise ValueError(f"invalid count {text!r}: not a whole number; use for example 200000, 200k, 1.5M or 2G")
    return int(count)


def parse_duration(text: str | float) -> float:
    """Parse a duration into seconds: ``90``, ``90s``, ``30m``, ``2h``, ``1h30m``.

    Raises:
        ValueError: The text is not a duration.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        try:
            return float(text)
        except OverflowError:
            return math.inf
    characters = str(text)
    match = _DURATION.fullmatch(characters.strip().lower()) if len(characters) <= MAX_TEXT else None
    if match is None or not any(match.groups()):
        raise ValueError(f"invalid duration {short_repr(text)}; use for example 90s, 30m, 2h or 1h30m")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def parse_latency(text: str | float) -> float:
    """Parse a latency into milliseconds: ``5ms``, ``800us``, ``0.2s``; a number is milliseconds.

    Raises:
        ValueError: The text is not a latency.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return min(float(text), math.inf) if abs(text) < MAX_COUNT else math.inf
    characters = str(text)
    match = _LATENCY.fullmatch(characters.strip().lower()) if len(characters) <= MAX_TEXT else None
    if match is None:
        raise ValueError(f"invalid latency {short_repr(text)}; use for example 5ms, 800us or 0.2s")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def parse_image_size(text: str | int) -> int | str:
    """Parse the size of images: a side such as ``32``, or height and width such as ``64x48``.

    Raises:
        ValueError: The text is no size.
    """
    sides = [int(side) for side in str(text).lower().split("x") if side.isdecimal() and len(side) <= 5]
    if isinstance(text, bool) or len(sides) != str(text).lower().count("x") + 1 or len(sides) > 2 or min(sides) < 1:
        raise ValueError(f"invalid image size {short_repr(text)}; use for example 32 or 64x48")
    return sides[0] if len(set(sides)) == 1 else f"{sides[0]}x{sides[1]}"


def parse_names(names: object) -> object:
    """Split a text such as ``accuracy,macs``; other values are returned unchanged."""
    return tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names


def short_repr(value: object) -> str:
    """An invalid value as an error message shows it, abbreviated."""
    try:
        return truncate(repr(value))
    except Exception:  # an integer of thousands of digits, or a user's own class
        return f"a {type(value).__name__}"


def _recipe_reference(source: Any) -> Any:
    """The name of a shipped recipe, or the content of another, which its file may lose before the run is resumed."""
    return None if source is None else reference(open_recipe(source))


def _changes(texts: Any) -> Any:
    """Fields of a recipe from texts such as ``weight_decay=1e-4``."""
    return None if texts is None else parse_changes([texts] if isinstance(texts, str) else texts)


def _tuning(texts: Any) -> Any:
    """Fields of a recipe with the texts of their values."""
    if texts is None or isinstance(texts, Mapping):
        return texts if texts is None else dict(texts)
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in str(text).split(",")]
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in (part.partition("=") for part in parts)}


def _bounds(texts: Any) -> Any:
    """Limits from texts such as ``macro-f1=0.8``."""
    if texts is None or isinstance(texts, dict):
        return texts
    bounds = {}
    for text in [texts] if isinstance(texts, str) else texts:
        name, _, value = str(text).partition("=")
        if name not in TRAINED_METRICS:
            raise ValueError(f"invalid metric {name!r}{did_you_mean(name, TRAINED_METRICS)}")
        try:
            bounds[name] = float(value)
        except ValueError:
            raise ValueError(f"invalid limit {text!r}; write NAME=VALUE, for example macro-f1=0.8") from None
    return bounds


def _positive(value: float) -> float:
    if not math.isfinite(value) or value <= 0:
        raise ValueError("must be positive")
    return value


ImageSize = Annotated[int | str, BeforeValidator(parse_image_size)]
Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0, le=MAX_COUNT)]
Milliseconds = Annotated[float, BeforeValidator(lambda text: _positive(parse_latency(text)))]
Seconds = Annotated[float, BeforeValidator(lambda text: _positive(parse_duration(text)))]


def _setting(default: Any, description: str, *, notation: str = "", resumable: bool = False, **limits: Any) -> Any:
    """A field of `Settings`.

    Args:
        default: The value where none is specified; ``...`` if required, None where it depends on the space, the
            machine or other settings.
        description: One or two sentences, the help text of its option.
        notation: The kind of text that the option takes, where its type does not say so: ``COUNT``, ``DURATION``.
        resumable: Whether a resumed run may change it.
        **limits: As for `pydantic.Field`.
    """
    extra: dict[str, Any] = {"notation": notation, "resumable": resumable}
    return Field(default, description=description, json_schema_extra=extra, validate_default=True, **limits)


class Settings(BaseModel):
    """The settings of a search; `parse` creates them with errors of one line.

    Counts, durations and latencies may be texts such as ``"1.5M"``, ``"2h"`` and ``"5ms"``; as numbers, durations are
    seconds and latencies milliseconds. ``start`` holds the values of the first trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: str = _setting(
        ..., "Search space: a name (see 'nas_agg spaces') or a file such as ./mine.yaml.", notation="SPACE"
    )
    dataset: str | None = _setting(
        "digits",
        f"Data set: {DATA_SETS}. A space with a table of results is searched without one: results are looked up unless "
        "a data set is specified.",
        notation="DATASET",
    )
    searcher: str = _setting("predictor", "Search algorithm (see 'nas_agg searchers').", notation="NAME")
    start: tuple[dict[str, Any], ...] | None = _setting(
        None, "Network to evaluate first: a named point or any GENOTYPE of the space; repeatable.", notation="POINT"
    )
    budget: int = _setting(50, "Number of distinct networks to evaluate.", resumable=True, ge=1, le=10**6)
    seed: int = _setting(
        0, "Random seed of the validation split, sampling, weights and augmentation.", ge=0, lt=SEED_LIMIT
    )
    epochs: int | None = _setting(
        None,
        f"Epochs per trial (default: the space's own, else {DEFAULT_EPOCHS}); the final training uses its recipe's.",
        ge=1,
        le=10**6,
    )
    final: int = _setting(
        1,
        "Networks that are trained in full after the search; of several, which are trained without the validation "
        "images, the best on these is tested. 0: none.",
        ge=0,
        le=100,
    )
    final_epochs: int | None = _setting(None, "Epochs of the final training (default: its recipe's).", ge=1, le=10**6)
    recipe: Annotated[str | dict[str, Any] | None, BeforeValidator(_recipe_reference)] = _setting(
        None,
        "Training recipe of the trials and of the final training: a name (see 'nas_agg recipes') or a file such as "
        "./mine.yaml (default: 'search' and 'final').",
        notation="RECIPE",
    )
    batch_size: int | None = _setting(None, "Images per training step (default: the recipe's).", ge=2, le=10**6)
    lr: float | None = _setting(None, "Maximum learning rate (default: the recipe's).", gt=0, allow_inf_nan=False)
    optimizer: str | None = _setting(
        None, "Class of torch.optim, for example AdamW (default: the recipe's).", notation="NAME"
    )
    set: Annotated[dict[str, Any] | None, BeforeValidator(_changes)] = _setting(
        None, "Set a field of the recipe, for example weight_decay=1e-4; repeatable.", notation="FIELD=VALUE"
    )
    tune: Annotated[dict[str, Any] | None, BeforeValidator(_tuning)] = _setting(
        None,
        "Fields of the recipe to search together with the network, for example lr=0.02:0.4:log,weight_decay or "
        "optimizer=SGD|AdamW; repeatable.",
        notation="FIELD,...",
    )
    objective: Annotated[tuple[str, ...] | None, BeforeValidator(parse_names)] = _setting(
        None,
        "One or more of accuracy, loss, params, macs, activations, latency, or another --metric; several are optimized "
        "for their Pareto front (default: accuracy).",
        notation="NAME,...",
    )
    metric: str | None = _setting(
        None,
        "Metric of the validation images that is maximized or minimized, and that early stopping watches, for example "
        f"balanced-accuracy (default: accuracy); one of {', '.join(TRAINED_METRICS)}.",
        notation="NAME",
    )
    max_params: Count | None = _setting(
        None,
        "Reject networks with more parameters before training, for example 1M; 0: no limit (default: the space's own).",
        notation="COUNT",
    )
    max_macs: Count | None = _setting(
        None,
        "Reject networks with more multiply-accumulates per image before training, for example 50M; 0: no limit "
        "(default: the space's own).",
        notation="COUNT",
    )
    max_activations: Count | None = _setting(
        None, "Reject networks that keep more bytes per image for the backward pass, for example 2M.", notation="BYTES"
    )
    max_latency: Milliseconds | None = _setting(
        None,
        "Reject networks whose forward pass on one image takes longer on the worker, for example 5ms.",
        notation="LATENCY",
    )
    min_accuracy: float | None = _setting(
        None,
        "Exclude networks of lower validation accuracy (0 to 1) from the best result and the Pareto front.",
        ge=0,
        le=1,
    )
    max_loss: float | None = _setting(
        None,
        "Exclude networks of higher validation loss from the best result and the Pareto front.",
        gt=0,
        allow_inf_nan=False,
    )
    min_metric: Annotated[dict[str, float] | None, BeforeValidator(_bounds)] = _setting(
        None,
        "Exclude networks of a lower value of a metric of the validation images from the best result, for example "
        "macro-f1=0.8; repeatable.",
        notation="NAME=VALUE",
    )
    max_metric: Annotated[dict[str, float] | None, BeforeValidator(_bounds)] = _setting(
        None, "Likewise of a higher value, for example mae=3.", notation="NAME=VALUE"
    )
    latency_target: Milliseconds | None = _setting(
        None,
        "Maximize accuracy * (latency / target) ** -0.07 in place of accuracy, for example 5ms.",
        notation="LATENCY",
    )
    proxy: str | None = _setting(
        None,
        "Zero-cost proxy: train only the best-scored of several candidates (see 'nas_agg proxies').",
        notation="NAME",
    )
    proxy_candidates: int = _setting(20, "Candidates that --proxy scores per trained network.", ge=1, le=10_000)
    pruner: Literal["median", "halving", "hyperband", "none"] | None = _setting(
        None,
        "median: stop trials below the median of their epoch; halving, hyperband: pause trials at rungs and promote "
        "the best (default: median for one objective, none for several).",
    )
    reduction_factor: int | None = _setting(
        None,
        "With halving or hyperband: one in this many trials is promoted from each rung (default: 3).",
        ge=2,
        le=100,
    )
    min_epochs: int | None = _setting(
        None, "With halving or hyperband: epochs up to the first rung (default: a third of --epochs).", ge=1
    )
    image_size: ImageSize | None = _setting(
        None, "Scale images to squares of this side, or to a height and width such as 64x48.", notation="SIZE"
    )
    resize: Literal["crop", "squash", "pad"] = _setting(
        "crop",
        "How images of another shape are made to fit: crop (scaled to cover the size, centre kept), squash or pad.",
    )
    skip_unreadable: bool = _setting(False, "Leave out images that cannot be read, instead of refusing the data set.")
    device: str = _setting("auto", "Device: auto (CUDA if available), cpu, cuda or cuda:N.", notation="DEVICE")
    storage: str | None = _setting(
        None, "Optuna storage URL (default: a journal file in the run folder).", notation="URL", min_length=1
    )
    workers: int | None = _setting(
        None,
        "Local worker processes (default: one per GPU, else two or the number of cores); 0: only workers that join by "
        "'nas_agg worker'.",
        resumable=True,
        ge=0,
        le=1024,
    )
    timeout: Seconds | None = _setting(
        None,
        "Wall time of the search in total, for example 2h or 90s; the final training follows it.",
        notation="DURATION",
        resumable=True,
    )
    trial_timeout: Seconds | None = _setting(
        None, "Time after which a trial is recorded as failed.", notation="DURATION", resumable=True
    )
    retries: int = _setting(3, "Retries of a trial whose worker process died.", resumable=True, ge=0)
    memory: RequestedMemoryMode = _setting(
        "auto",
        "Activations kept for the backward pass: plain: as eager PyTorch; lean: outputs of convolutions only; leanest: "
        "fewer still; auto: the first of these that fits the device.",
        resumable=True,
    )
    compile: bool = _setting(
        False,
        "Run the final training under torch.compile, which takes minutes to start; trials never use it.",
        resumable=True,
    )

    @classmethod
    def parse(cls, **values: Any) -> Settings:
        """Create settings from keyword arguments.

        Raises:
            InputError: A setting is unknown or out of its range.
        """
        for name in values.keys() - cls.model_fields.keys():
            raise InputError(f"{name}: unknown setting{did_you_mean(name, cls.model_fields)}")
        try:
            settings = cls(**values)
            settings.trial_recipe, settings.final_recipe, settings.tuned  # noqa: B018 (errors are reported now)
            return settings
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            if isinstance(cause := first.get("ctx", {}).get("error"), InputError):
                raise InputError(f"{name}: {cause}") from None
            message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            value = "" if message.startswith("invalid ") else f", not {short_repr(values.get(name))}"
            raise InputError(f"{name}: {message[0].lower()}{message[1:]}{value}") from None

    @property
    def recipe_changes(self) -> dict[str, Any]:
        """Fields that replace those of the recipes."""
        named = {name: getattr(self, name) for name in ("batch_size", "lr", "optimizer")}
        return {name: value for name, value in named.items() if value is not None} | (self.set or {})

    @property
    def trial_recipe(self) -> Recipe:
        """The recipe of trials."""
        return open_recipe(self.recipe or "search", self.recipe_changes)

    @property
    def final_recipe(self) -> Recipe:
        """The recipe of the final training."""
        return open_recipe(self.recipe or "final", self.recipe_changes)

    @property
    def main_metric(self) -> str:
        """The trained metric that trials report after each epoch."""
        trained = [name for name in self.objective or () if name in TRAINED_METRICS]
        if self.metric is not None:
            return self.metric
        return "accuracy" if not trained or "accuracy" in trained else trained[0]

    def trained_metrics(self, objectives: Iterable[str]) -> tuple[str, ...]:
        """Names of the trained metrics that objectives and limits need."""
        names = [*objectives, *(self.min_metric or ()), *(self.max_metric or ())]
        return tuple(dict.fromkeys(name for name in names if name in TRAINED_METRICS))

    @cached_property
    def tuned(self) -> dict[str, list[Any]]:
        """The values of each field of the recipe that is searched together with the network."""
        recipe = self.trial_recipe
        return parse_tuning({**(recipe.open or {}), **(self.tune or {})}, recipe)

    def with_space_defaults(self, space: Space, input: tuple[int, int, int]) -> Settings:
        """These settings, completed by the space's own defaults for images of a shape.

        Args:
            space: The space that is searched.
            input: Channels, height and width of the images.
        """
        search = space.search_defaults(input)
        return self.model_copy(
            update={
                "epochs": self.epochs or search.epochs or DEFAULT_EPOCHS,
                "max_params": _limit(self.max_params, search.max_params),
                "max_macs": _limit(self.max_macs, search.max_macs),
            }
        )

    def stored(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """The settings as JSON values that are kept with a run: the storage's password is not.

        Args:
            exclude: Settings to leave out.
        """
        values = self.model_dump(mode="json", exclude=set(exclude))
        if values.get("storage"):
            values["storage"] = without_password(values["storage"])
        return values

    def difference(self, other: dict[str, Any]) -> str:
        """Describe the first setting that makes another search a different one; empty if there is none.

        `RESUMABLE_SETTINGS` are ignored: they change how fast and how long a search runs, not its trials.

        Args:
            other: The settings of a run folder.
        """
        for name, mine in self.stored(exclude=RESUMABLE_SETTINGS).items():
            if mine != other.get(name):
                return f"{name} is {short_repr(other.get(name))} there and {short_repr(mine)} here"
        return ""


def setting_metadata(name: str) -> dict[str, Any]:
    """The notation of a setting, and whether it is resumable."""
    extra = Settings.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


#: Settings that may change when a run is resumed.
RESUMABLE_SETTINGS = {name for name in Settings.model_fields if setting_metadata(name).get("resumable")}


def _limit(limit: int | None, default: int | None) -> int | None:
    """The limit that holds: the specified one, else the default; 0 is no limit."""
    return (default if limit is None else limit) or 0
