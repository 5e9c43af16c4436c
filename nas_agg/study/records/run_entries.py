"""The entries of a run's files that are read again, with their types."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_agg.common.errors import InputError


class StrictModel(BaseModel):
    """Values of JSON without conversions; further entries are allowed."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class DatasetArguments(StrictModel):
    """The arguments of :func:`nas_agg.training.data.load_data`, and no others."""

    model_config = ConfigDict(extra="forbid")

    spec: str
    seed: int = Field(default=0, ge=0)
    image_size: int | str | None = None
    min_side: int | None = None
    resize: str = "crop"
    crop_share: float | None = None
    skip_unreadable: bool = False


class RunRecord(StrictModel):
    """The entries of run.json that are read again; those with a default may be missing."""

    format: int
    status: str
    settings: dict[str, Any]
    seconds: float = Field(default=0, ge=0)
    forgiven: int = Field(default=0, ge=0)
    study: str = ""
    space: str = ""
    reason: str = ""
    named: bool = False
    evaluate: bool = False
    origin: dict[str, str] = Field(default={})
    data: dict[str, Any] = Field(default={})
    dataset: dict[str, Any] = Field(default={})
    memory: dict[str, str | int | None] = Field(default={})
    input: list[Annotated[int, Field(ge=1)]] = Field(default=[1, 1, 1], min_length=3, max_length=3)
    classes: int = Field(default=1, ge=1)


class ScoredMetrics(StrictModel):
    """best/metrics.json of a network that a function scored."""


class TestedMetrics(StrictModel):
    """The entries of best/metrics.json of a tested network that are read again."""

    test_loss: float
    test_accuracy: float | None = Field(None, ge=0, le=1)
    correct: int | None = None
    images: int
    test_top5_accuracy: float | None = Field(None, ge=0, le=1)
    epochs: int = 0
    recipe: str = ""
    hash: str = ""


class UntestedMetrics(StrictModel):
    """The entries of best/metrics.json, if the data set has no test images, that are read again."""

    untested: str
    epochs: int = 0
    recipe: str = ""
    hash: str = ""


def validated(model: type[BaseModel], value: Any) -> dict[str, Any]:
    """A value of JSON that conforms to a model.

    Raises:
        InputError: It does not; the message names the first field.
    """
    if not isinstance(value, dict):
        raise InputError("not an object")
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {message[0].lower()}{message[1:]}") from None
    return value
