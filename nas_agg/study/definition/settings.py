"""Settings of a search: one declaration each, for Python and for the command line."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.common.urls import without_password
from nas_agg.study.definition.notations import short_repr
from nas_agg.study.definition.setting_groups import (
    DEFAULT_EPOCHS,
    BudgetSettings,
    DataSettings,
    LimitSettings,
    PlaceSettings,
    SpaceSettings,
    TrainingSettings,
)
from nas_agg.training.metrics import TRAINED_METRICS
from nas_agg.training.recipes import Recipe, open_recipe
from nas_agg.training.recipes.tuning import parse_tuning

if TYPE_CHECKING:
    from nas_agg.search_space.space import Space


class Settings(  # fields are in the order of the bases from the last to the first
    PlaceSettings, TrainingSettings, LimitSettings, BudgetSettings, DataSettings, SpaceSettings
):
    """The settings of a search; `parse` creates them with errors of one line.

    Counts, durations and latencies may be texts such as ``"1.5M"``, ``"2h"`` and ``"5ms"``; as numbers, durations are
    seconds and latencies milliseconds. ``start`` holds the values of the first trials.
    """

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
        """The recipe of trials; what it freezes or trains at a lower rate is for the weights of the final training."""
        recipe = open_recipe(self.recipe or "search", self.recipe_changes)
        return recipe if self.weights is None else recipe.model_copy(update={"freeze": (), "lr_backbone": None})

    @property
    def final_recipe(self) -> Recipe:
        """The recipe of the final training."""
        return open_recipe(self.recipe or "final", self.recipe_changes)

    @property
    def backend_name(self) -> str:
        """The backend that runs the trials, if networks are trained."""
        return self.backend or ("storage" if self.storage is not None or self.workers == 0 else "local")

    @property
    def processes_per_trial(self) -> int:
        """Number of processes that train a network together."""
        return int(max(1.0, self.gpus_per_trial or 0.0))

    @property
    def runs_here(self) -> bool:
        """Whether trials run in processes of this machine, or some of them do."""
        return self.backend_name in ("local", "storage")

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
    """The group and notation of a setting, and whether it is resumable."""
    extra = Settings.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


#: Settings that may change when a run is resumed.
RESUMABLE_SETTINGS = {name for name in Settings.model_fields if setting_metadata(name).get("resumable")}


def _limit(limit: int | None, default: int | None) -> int | None:
    """The limit that holds: the specified one, else the default; 0 is no limit."""
    return (default if limit is None else limit) or 0
