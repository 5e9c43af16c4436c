"""Training recipes: optimiser, learning-rate schedule and augmentation, as numbers; without torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nas_agg.common.errors import InputError, did_you_mean

Policy = Literal["none", "cifar10", "imagenet"]
ClassifierInit = Literal["he", "glorot"]
ConvInit = Literal["fan_in", "fan_out", "fan_out_uniform"]


class Augmentation(BaseModel):
    """Augmentation of training images, in this order.

    Attributes:
        crop: Random crop of the image's size, after black padding of this many pixels on each side.
        flip: Random horizontal flip with probability 1/2.
        resized_crop: Random crop of 8 to 100 % of the image's area with an aspect ratio from 3:4 to 4:3, scaled to the
            image's size.
        color_jitter: Brightness, contrast and saturation are multiplied by factors from 1 - ``color_jitter`` to
            1 + ``color_jitter``, in random order; 0 disables it. RGB images only.
        autoaugment: AutoAugment policy (Cubuk et al., 2019); one of its 25 sub-policies is drawn per image.
        lighting: PCA colour noise (Krizhevsky et al., 2012, section 4.1): standard deviation of the weights with which
            the principal components of ImageNet's colours are added; 0 disables it. RGB images only.
        cutout: Side in pixels of a square, centred anywhere in the image, that is set to the mean colour; 0 disables
            it.
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
    """A training recipe.

    Attributes:
        name: Its name.
        about: A one-line description.
        choices: Details that its source leaves open, and what is used here.
        epochs: Passes over the training images.
        batch_size: Maximum number of images per step; an epoch is split into equal batches and drops none.
        lr: Maximum learning rate.
        milestones: Epochs after which the learning rate is multiplied by ``decay`` (scaled if the number of epochs is
            overridden); if empty, the learning rate follows a cosine.
        decay: See ``milestones``.
        warmup_epochs: Epochs of linear warm-up (scaled down if fewer epochs than ``epochs`` are run).
        momentum: Momentum of SGD, without dampening.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: L2 penalty of the weights.
        decay_vectors: Whether weight decay applies to biases and norms (one-dimensional parameters).
        decay_aggregation: Whether weight decay applies to the weights of gathers (``weight: true``, DSNet's weighted
            sums), one per edge and channel, of shape (C, 1, 1). It always applies to ``scale`` layers.
        label_smoothing: Share of the target that is spread evenly over all classes.
        clip: Maximum global norm of the gradients; None disables clipping.
        zero_branches: Whether the last weighted layer of each residual branch is initialised at zero.
        classifier_init: Initialisation of linear layers: He's normal or Glorot's uniform distribution.
        conv_init: Initialisation of convolutions (He et al., 2015): normal with the variance that preserves that of
            activations (``fan_in``) or of gradients (``fan_out``), or uniform with the latter (``fan_out_uniform``).
        crop, flip, resized_crop, color_jitter, autoaugment, lighting, cutout: Override the data set's augmentation
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
    def init_options(self) -> dict[str, Any]:
        """Options of weight initialisation, as arguments of :func:`nas_agg.compiler.compile`."""
        return {name: getattr(self, name) for name in ("zero_branches", "classifier_init", "conv_init")}

    def augmentation(self, default: Augmentation) -> Augmentation:
        """A data set's augmentation with this recipe's overrides."""
        overrides = {name: getattr(self, name) for name in Augmentation.model_fields}
        return default.model_copy(update={name: value for name, value in overrides.items() if value is not None})

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: ``lr_top`` times the schedule's factor.

        The factor is ``(1 + cos(pi * step / steps)) / 2``, or ``decay`` to the power of the number of milestones
        passed. ``lr_top`` grows linearly during warm-up and is ``lr`` afterwards (with the cosine, Eq. 15 and 16 of the
        Micro-Dense Nets paper).

        Args:
            step: Number of the step, from 1.
            steps: Steps of the whole training.
        """
        warmup = self.warmup_steps(steps)
        top = self.lr * step / warmup if step <= warmup else self.lr
        if self.milestones:
            return top * self.decay ** sum((step - 1) * self.epochs >= m * steps for m in self.milestones)
        return top * (1 + math.cos(math.pi * step / steps)) / 2

    def warmup_steps(self, steps: int) -> int:
        """Warm-up steps of a training of ``steps``."""
        return round(steps * min(1.0, self.warmup_epochs / self.epochs))


# Dynamic regularisation (Wang, Bian, Hou and Chau, "Convolutional Neural Networks with Dynamic Regularization", 2019)
# multiplies a branch by A + d r, with r uniform and wider in deeper blocks, and moves d by a fixed step as the smoothed
# training loss rises or falls. A, the step and the first d could not be determined reliably.
_MICRODENSE = (
    "5 epochs of warm-up; the paper gives no number. The only augmentation the paper names is AutoAugment: {rest}. "
    "Convolutions are initialised with He's fan-in variance; the paper cites He et al. 2015, who allow either fan. "
)
_DYNAMIC = (
    "The '+' rows are not covered: they add dynamic regularisation (Wang et al. 2019), whose constants are unknown."
)
_DSNET = (
    "The weights of dense shortcuts are initialised at 1/k where k features are added to the main path (inside the "
    "blocks of DS2Net k is 1); the paper gives no value. Convolutions are initialised with He's fan-in variance."
)
_SPARSENET = (
    "The SparseNet slides give no recipe; DenseNet's is used. Convolutions are initialised with He's fan-in variance; "
    "the authors' code uses fan_out."
)
_IMAGENET = (
    "Resized crops are taken from images that were scaled to the training size, and the whole scaled image is tested; "
    "standard ImageNet training crops the original image and tests a centre crop."
)

_ALL = (
    Recipe(
        name="search",
        about="short training to rank networks: 10 epochs, SGD with warm-up and cosine",
        epochs=10,
        batch_size=64,
        lr=0.1,
        warmup_epochs=1,
        weight_decay=5e-4,
        decay_vectors=False,
    ),
    Recipe(
        name="bench",
        about="training of the networks in the table of agg-bench: 12 epochs, batch 32",
        epochs=12,
        batch_size=32,
        lr=0.1,
        warmup_epochs=1,
        weight_decay=5e-4,
        decay_vectors=False,
    ),
    Recipe(
        name="final",
        about="full training of the best network on small data: 40 epochs, SGD with warm-up and cosine",
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
        choices=_MICRODENSE.format(rest="crop with 4 pixels of padding and flip are added, but not cutout") + _DYNAMIC,
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
        choices="64,000 steps are run as 164 epochs of 50,000 images, 64,124 steps. Batch 128 and momentum 0.9 are "
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
        about="the SeqConv paper on CIFAR: 300 epochs, batch 64, rate / 10 at 150 and 225, zero-initialised branches",
        choices="Epochs, batch and milestones are those of DenseNet and of the authors' code. Channel dropout is "
        "part of the network. Convolutions are initialised with He's fan-in variance; the authors' code has "
        "fan_out_uniform.",
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
        about="the SeqConv paper on ImageNet: 100 epochs, batch 256, rate / 10 every 30, color jitter",
        choices="Epochs, batch, milestones, colour augmentation and initialisation of convolutions are those of the "
        "authors' code; the paper gives none of them for ImageNet. The classifier is initialised with Glorot's bound, "
        f"which the paper names; the code's is sqrt(3 / outputs). {_IMAGENET}",
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
    """The recipe of a name.

    Raises:
        InputError: There is no such recipe; the message suggests the closest name or lists all.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES) or f"; choose from {', '.join(RECIPES)}"
        raise InputError(f"unknown recipe '{name}'{hint}")
    return RECIPES[name]
