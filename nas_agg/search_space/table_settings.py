"""Settings of a table of results: the section ``table`` of a space file, apart from the table's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_agg.common.errors import GenotypeError, did_you_mean, truncate

VALIDATION_SHARE = 0.6  # more images to distinguish networks by, and a harder task with fewer to train on
MAX_SEED = 2**32


class TableSettings(BaseModel):
    """Training and evaluation of the networks of a table.

    Attributes:
        dataset: The data set, as `nas_agg.training.data.load_data` takes it.
        image_size: Side in pixels that images are scaled to; None: not scaled.
        train_images: The number of training images; None: all that are not used for validation.
        validation_images: The number of validation images; None: 60 % of all but the test images.
        split_seed: The seed of the split, equal for all trainings; None: each training's own seed.
        recipe: The name of the recipe.
        batch_size: Replaces the recipe's batch size.
        epochs: Epochs per training.
        seeds: Trainings per network, each with a seed of its own.
        order_seed: The seed of the order in which networks are trained; None: ordered by hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dataset: str = Field("digits", min_length=1)
    image_size: int | None = Field(None, ge=1)
    train_images: int | None = Field(None, ge=1)
    validation_images: int | None = Field(None, ge=1)
    split_seed: int | None = Field(None, ge=0, lt=MAX_SEED)
    recipe: str = Field("bench", min_length=1)
    batch_size: int | None = Field(None, ge=2)
    epochs: int = Field(12, ge=2, le=10**6)
    seeds: int = Field(3, ge=1, le=100)
    order_seed: int | None = Field(None, ge=0, lt=MAX_SEED)

    @classmethod
    def read(cls, text: Mapping[str, Any]) -> TableSettings:
        """Read the settings from a space file.

        Raises:
            GenotypeError: A field is unknown or has an invalid value.
        """
        for name in text:
            if name not in cls.model_fields:
                fields = ("file", "sha256", *cls.model_fields)
                hint = did_you_mean(str(name), fields) or f"; available: {', '.join(fields)}"
                raise GenotypeError(f"unknown field{hint}", f"table.{truncate(str(name))}")
        try:
            return cls(**text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise GenotypeError(f"{message}, not {truncate(repr(text[name]))}", f"table.{name}") from None

    def data_arguments(self, seed: int) -> dict[str, Any]:
        """The arguments of `nas_agg.training.data.load_data` for a training with a seed."""
        return {
            "spec": self.dataset,
            "seed": seed if self.split_seed is None else self.split_seed,
            "image_size": self.image_size,
            "train_images": self.train_images,
            "validation_images": self.validation_images,
            "validation_share": VALIDATION_SHARE,
        }

    def training_settings(self) -> dict[str, Any]:
        """The settings that affect the result of a training: all but the number of seeds and the order."""
        return self.model_dump(mode="json", exclude={"seeds", "order_seed"})
