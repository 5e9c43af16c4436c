"""How a network is trained: recipes, their learning rates, and how images are varied. Numbers only, no torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nas_agg.common.errors import InputError, did_you_mean

Policy = Literal["none", "cifar10", "imagenet"]
ClassifierInit = Literal["he", "glorot"]
ConvInit = Literal["fan_in", "fan_out", "fan_out_uniform"]


class Augmentation(BaseModel):
    """How training images are varied, in this order.

    Attributes:
        crop: Pixels of black padding on each side, out of which a window of the image's size is cut at random.
        flip: Whether every second image, at random, is mirrored left to right.
        resized_crop: Whether a window of 8 to 100 % of the image's area, its sides from 3:4 to 4:3, is cut at random
            and scaled to the image's size.
        color_jitter: By how much at most brightness, contrast and saturation are multiplied, each by a factor from
            1 - ``color_jitter`` to 1 + ``color_jitter``, in random order; 0: not at all. RGB images only.
        autoaugment: The AutoAugment policy (Cubuk et al. 2019), one of its 25 sub-policies drawn for each image.
        lighting: Standard deviation of the three draws by which the principal components of ImageNet's colours are
            added to an image (Krizhevsky et al. 2012, section 4.1); 0: none. RGB images only.
        cutout: Side in pixels of the square, centred anywhere in the image, that is set to the mean colour; 0: none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(0, ge=0, le=1024)
    flip: bool = False
    resized_crop: bool = False
    color_jitter: float = Field(0.0, ge=0, le=1)
    autoaugment: Policy = "none"
    lighting: float = Field(0.0, ge=0, le=1)
    cutout: int = Field(0, ge=0, le=1024)


class Recipe(BaseModel):
    """How to train a network.

    Attributes:
        name: What it is called.
        about: One line for people.
        choices: What its source leaves unsaid, and what is done.
        epochs: Passes over the training images.
        batch_size: Images a step, at most: an epoch is cut into equal batches, none dropped.
        lr: Highest learning rate.
        milestones: After so many of ``epochs`` the learning rate is multiplied by ``decay``, each time (in proportion
            when another number of epochs is run); none: it falls along a cosine.
        decay: See ``milestones``.
        warmup_epochs: Epochs of linear warm-up (shortened in proportion when fewer epochs than ``epochs`` are run).
        momentum: Of SGD, without dampening.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: L2 penalty of the weights.
        decay_vectors: Whether biases and normalisation weights (parameters of one dimension) decay too.
        decay_aggregation: Whether the weights of gathers (``weight: true``, DSNet's weighted sums) decay too: a number
            per edge and channel, of shape (C, 1, 1). What ``scale`` layers multiply by always decays.
        label_smoothing: Share of the target spread evenly over all classes.
        clip: Largest norm of all gradients together; none: as they come.
        zero_branches: Whether the last layer with weights of each branch that a shortcut joins by a sum starts at zero.
        classifier_init: How linear layers start: He's normal or Glorot's uniform distribution.
        conv_init: How convolutions start, by He et al. 2015: normal with the variance that keeps that of activations
            (``fan_in``) or of gradients (``fan_out``), or uniform with the latter (``fan_out_uniform``).
        crop, flip, resized_crop, color_jitter, autoaugment, lighting, cutout: Replace the data set's own augmentation
            where set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    about: str
    choices: str = ""
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = ()
    decay: float = Field(0.1, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(0.0, ge=0)
    decay_vectors: bool = True
    decay_aggregation: bool = True
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip: float | None = Field(None, gt=0)
    zero_branches: bool = False
    classifier_init: ClassifierInit = "he"
    conv_init: ConvInit = "fan_in"
    crop: int | None = Field(None, ge=0, le=1024)
    flip: bool | None = None
    resized_crop: bool | None = None
    color_jitter: float | None = Field(None, ge=0, le=1)
    autoaugment: Policy | None = None
    lighting: float | None = Field(None, ge=0, le=1)
    cutout: int | None = Field(None, ge=0, le=1024)

    @property
    def start(self) -> dict[str, Any]:
        """How the weights start, as arguments of :func:`nas_agg.compiler.compile`."""
        return {name: getattr(self, name) for name in ("zero_branches", "classifier_init", "conv_init")}

    def augmentation(self, default: Augmentation) -> Augmentation:
        """The augmentation of a data set with this recipe's own wishes in it."""
        wishes = {name: getattr(self, name) for name in Augmentation.model_fields}
        return default.model_copy(update={name: wish for name, wish in wishes.items() if wish is not None})

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: ``lr_top`` times what the schedule leaves of it.

        That is ``(1 + cos(pi * step / steps)) / 2``, or ``decay`` to the power of the milestones passed. ``lr_top``
        grows in proportion to the step during warm-up and is ``lr`` after it (with the cosine, Eq. 15 and 16 of the
        Micro-Dense Nets paper).

        Args:
            step: Number of the step, 1 for the first.
            steps: Steps of the whole training.
        """
        warmup = self.warmup_steps(steps)
        top = self.lr * step / warmup if step <= warmup else self.lr
        if self.milestones:
            return top * self.decay ** sum((step - 1) * self.epochs >= m * steps for m in self.milestones)
        return top * (1 + math.cos(math.pi * step / steps)) / 2

    def warmup_steps(self, steps: int) -> int:
        """Steps of warm-up in a training of ``steps``."""
        return round(steps * min(1.0, self.warmup_epochs / self.epochs))


# What is public of dynamic regularisation (Wang, Bian, Hou and Chau, "Convolutional Neural Networks with Dynamic
# Regularization", 2019) is its idea: a branch times A + d r, r uniform and wider in deeper blocks, d up or down by a
# fixed step as the smoothed training loss rises or falls. A, the step and the first d were not to be had for certain.
_MICRODENSE = (
    "5 epochs of warm-up; the paper gives no number. Of augmentation the paper names AutoAugment alone: {rest}. "
    "Convolutions start with He's fan-in variance; the paper names He et al. 2015, who allow either fan. "
)
_DYNAMIC = (
    "The '+' rows are not here: they add dynamic regularisation (Wang et al. 2019), whose constants could not be had."
)
_DSNET = (
    "The weights of dense shortcuts start at 1/k where k features are joined to the main path (inside the blocks of "
    "DS2Net k is 1); the paper gives no start. Convolutions start with He's fan-in variance."
)
_SPARSENET = (
    "The SparseNet slides give no recipe: it is DenseNet's. Convolutions start with He's fan-in variance; the authors' "
    "code has fan_out."
)
_IMAGENET = (
    "Resized crops are cut from images already scaled to the training size, and the whole scaled image is tested; "
    "usual trainings on ImageNet cut from the original and test a centre crop."
)

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
        name="bench",
        about="the training behind the table of the space agg-bench: 12 epochs of small batches",
        epochs=12,
        batch_size=32,
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
        choices=_MICRODENSE.format(rest="crop with 4 pixels of padding and flip are added, cutout is not") + _DYNAMIC,
        epochs=300,
        batch_size=128,
        lr=0.1,
        warmup_epochs=5,
        weight_decay=1e-4,
        crop=4,
        flip=True,
        autoaugment="cifar10",
    ),
    Recipe(
        name="microdense-imagenet",
        about="the Micro-Dense Nets paper on ImageNet: 300 epochs, batch 400, AutoAugment",
        choices=_MICRODENSE.format(rest="resized crops and flip are added") + _IMAGENET,
        epochs=300,
        batch_size=400,
        lr=0.2,
        warmup_epochs=5,
        weight_decay=1e-5,
        crop=0,
        flip=True,
        resized_crop=True,
        autoaugment="imagenet",
    ),
    Recipe(
        name="dsnet-cifar",
        about="the DSNet paper on CIFAR: 64,000 steps of batch 128, rate / 10 at half and at three quarters",
        choices="64,000 steps are written as 164 epochs of 50,000 images, 64,124 steps. Batch 128 and momentum 0.9 are "
        f"those of He et al. 2016. {_DSNET}",
        epochs=164,
        batch_size=128,
        lr=0.1,
        milestones=(82, 123),
        nesterov=False,
        weight_decay=5e-4,
        crop=4,
        flip=True,
    ),
    Recipe(
        name="dsnet-imagenet",
        about="the DSNet paper on ImageNet: 100 epochs, batch 128, rate / 10 every 30, resized crops",
        choices="The paper gives no weight decay, momentum or flip for ImageNet: 1e-4, 0.9 and flip as in He et al. "
        f"2016. {_DSNET} {_IMAGENET}",
        epochs=100,
        batch_size=128,
        lr=0.05,
        milestones=(30, 60, 90),
        nesterov=False,
        weight_decay=1e-4,
        crop=0,
        flip=True,
        resized_crop=True,
    ),
    Recipe(
        name="seqconv-cifar",
        about="the SeqConv paper on CIFAR: 300 epochs, batch 64, rate / 10 at 150 and 225, branches start at zero",
        choices="Epochs, batch and milestones are those of DenseNet and of the authors' code. Channel dropout is the "
        "network's own. Convolutions start with He's fan-in variance; the authors' code has fan_out_uniform.",
        epochs=300,
        batch_size=64,
        lr=0.1,
        milestones=(150, 225),
        weight_decay=1e-4,
        zero_branches=True,
        classifier_init="glorot",
        crop=4,
        flip=True,
    ),
    Recipe(
        name="seqconv-imagenet",
        about="the SeqConv paper on ImageNet: 100 epochs, batch 256, rate / 10 every 30, colours varied",
        choices="Epochs, batch, milestones, colours and the start of convolutions are those of the authors' code; the "
        "paper gives none of them for ImageNet. The classifier starts with Glorot's bound, which the paper names; the "
        f"code's is sqrt(3 / outputs). {_IMAGENET}",
        epochs=100,
        batch_size=256,
        lr=0.1,
        milestones=(30, 60, 90),
        weight_decay=1e-4,
        zero_branches=True,
        classifier_init="glorot",
        conv_init="fan_out_uniform",
        crop=0,
        flip=True,
        resized_crop=True,
        color_jitter=0.4,
        lighting=0.1,
    ),
    Recipe(
        name="sparsenet-cifar",
        about="SparseNet and DenseNet on CIFAR: 300 epochs, batch 64, rate / 10 at 150 and 225",
        choices=_SPARSENET,
        epochs=300,
        batch_size=64,
        lr=0.1,
        milestones=(150, 225),
        weight_decay=1e-4,
        crop=4,
        flip=True,
    ),
    Recipe(
        name="sparsenet-imagenet",
        about="SparseNet and DenseNet on ImageNet: 90 epochs, batch 256, rate / 10 at 30 and 60, resized crops",
        choices=f"{_SPARSENET} {_IMAGENET}",
        epochs=90,
        batch_size=256,
        lr=0.1,
        milestones=(30, 60),
        weight_decay=1e-4,
        crop=0,
        flip=True,
        resized_crop=True,
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
