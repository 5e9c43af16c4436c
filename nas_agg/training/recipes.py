"""How a network is trained: recipes, their learning rates, and how images are varied. Numbers only, no torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from nas_agg.errors import InputError, did_you_mean

Policy = Literal["none", "cifar10", "imagenet"]


class Augmentation(BaseModel):
    """How training images are varied, in this order.

    Attributes:
        crop: Pixels of black padding on each side, out of which a window of the image's size is cut at random.
        flip: Whether every second image, at random, is mirrored left to right.
        autoaugment: The AutoAugment policy (Cubuk et al. 2019), one of its 25 sub-policies drawn for each image.
        cutout: Side in pixels of the square, centred anywhere in the image, that is set to the mean colour; 0: none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(0, ge=0, le=1024)
    flip: bool = False
    autoaugment: Policy = "none"
    cutout: int = Field(0, ge=0, le=1024)


class Recipe(BaseModel):
    """How to train a network.

    Attributes:
        name: What it is called.
        about: One line for people.
        epochs: Passes over the training images.
        batch_size: Images a step, at most: an epoch is cut into equal batches, none dropped.
        lr: Highest learning rate.
        warmup_epochs: Epochs of linear warm-up (shortened in proportion when fewer epochs than ``epochs`` are run).
        momentum: Of SGD, without dampening.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: L2 penalty of the weights.
        decay_vectors: Whether biases and normalisation weights decay too.
        label_smoothing: Share of the target spread evenly over all classes.
        clip: Largest norm of all gradients together; none: as they come.
        crop, flip, autoaugment, cutout: Replace the data set's own augmentation where set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    about: str
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    warmup_epochs: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(0.0, ge=0)
    decay_vectors: bool = True
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip: float | None = Field(None, gt=0)
    crop: int | None = Field(None, ge=0, le=1024)
    flip: bool | None = None
    autoaugment: Policy | None = None
    cutout: int | None = Field(None, ge=0, le=1024)

    def augmentation(self, default: Augmentation) -> Augmentation:
        """The augmentation of a data set with this recipe's own wishes in it."""
        wishes = {name: getattr(self, name) for name in Augmentation.model_fields}
        return default.model_copy(update={name: wish for name, wish in wishes.items() if wish is not None})

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: ``lr_top * (1 + cos(pi * step / steps)) / 2``.

        ``lr_top`` grows in proportion to the step during warm-up and is ``lr`` after it (Eq. 15 and 16 of the
        Micro-Dense Nets paper).

        Args:
            step: Number of the step, 1 for the first.
            steps: Steps of the whole training.
        """
        warmup = self.warmup_steps(steps)
        top = self.lr * step / warmup if step <= warmup else self.lr
        return top * (1 + math.cos(math.pi * step / steps)) / 2

    def warmup_steps(self, steps: int) -> int:
        """Steps of warm-up in a training of ``steps``."""
        return round(steps * min(1.0, self.warmup_epochs / self.epochs))


_ALL = (
    Recipe(
        name="search",
        about="short training that ranks networks: 10 epochs, SGD with warm-up and cosine",
        epochs=10,
        batch_size=64,
        lr=0.1,
        warmup_epochs=1,
        weight_decay=5e-4,
        decay_vectors=False,
    ),
    Recipe(
        name="final",
        about="full training of a search's best on small data: 40 epochs, SGD with warm-up and cosine",
        epochs=40,
        batch_size=64,
        lr=0.1,
        warmup_epochs=3,
        weight_decay=5e-4,
        decay_vectors=False,
        label_smoothing=0.1,
        clip=5.0,
    ),
    Recipe(
        name="microdense-cifar",
        about="the Micro-Dense Nets paper on CIFAR: 300 epochs, batch 128, AutoAugment",
        epochs=300,
        batch_size=128,
        lr=0.1,
        warmup_epochs=5,
        weight_decay=1e-4,
        autoaugment="cifar10",
    ),
    Recipe(
        name="microdense-imagenet",
        about="the Micro-Dense Nets paper on ImageNet: 300 epochs, batch 400, AutoAugment",
        epochs=300,
        batch_size=400,
        lr=0.2,
        warmup_epochs=5,
        weight_decay=1e-5,
        autoaugment="imagenet",
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: There is none; the message names a near one, or all.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES) or f"; there are {', '.join(RECIPES)}"
        raise InputError(f"no recipe is called '{name}'{hint}")
    return RECIPES[name]
