"""How a table of results is made: what a space file specifies under ``table``, beside the table's own file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_agg.common.errors import GenotypeError, did_you_mean, truncate

VALIDATION_SHARE = 0.6  # more images to tell networks apart by, fewer to learn from: the task is harder
SEEDS = 2**32


class TableSettings(BaseModel):
    """How the networks of a table are trained and scored.

    Attributes:
        dataset: As `nas_agg.training.data.load_data` takes it.
        image_size: Side in pixels that images are scaled to; None: as they are.
        train_images: How many images to learn from; None: all that do not validate.
        validation_images: How many validate; None: 60 % of the images that are not the test's.
        split_seed: Draws these images, the same for each training; None: each training draws its own by its seed.
        recipe: The recipe's name.
        batch_size: In place of the recipe's.
        epochs: Of each training.
        seeds: Trainings of each network.
        order_seed: Draws the order in which networks are trained; None: the order of their hashes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dataset: str = Field("digits", min_length=1)
    image_size: int | None = Field(None, ge=1)
    train_images: int | None = Field(None, ge=1)
    validation_images: int | None = Field(None, ge=1)
    split_seed: int | None = Field(None, ge=0, lt=SEEDS)
    recipe: str = Field("bench", min_length=1)
    batch_size: int | None = Field(None, ge=2)
    epochs: int = Field(12, ge=2, le=10**6)
    seeds: int = Field(3, ge=1, le=100)
    order_seed: int | None = Field(None, ge=0, lt=SEEDS)

    @classmethod
    def read(cls, text: Mapping[str, Any]) -> TableSettings:
        """The settings in a space file.

        Raises:
            GenotypeError: A field is unknown or out of its range.
        """
        for name in text:
            if name not in cls.model_fields:
                fields = ("file", "sha256", *cls.model_fields)
                hint = did_you_mean(str(name), fields) or f"; there are {', '.join(fields)}"
                raise GenotypeError(f"no such field here{hint}", f"table.{truncate(str(name))}")
        try:
            return cls(**text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise GenotypeError(f"{said}, not {truncate(repr(text[name]))}", f"table.{name}") from None

    def data_arguments(self, seed: int) -> dict[str, Any]:
        """The arguments of `nas_agg.training.data.load_data` for a training of a seed."""
        return {
            "spec": self.dataset,
            "seed": seed if self.split_seed is None else self.split_seed,
            "image_size": self.image_size,
            "train_images": self.train_images,
            "validation_images": self.validation_images,
            "validation_share": VALIDATION_SHARE,
        }

    def training_settings(self) -> dict[str, Any]:
        """What makes one training what it is; the number of seeds and the order of networks do not."""
        return self.model_dump(mode="json", exclude={"seeds", "order_seed"})
