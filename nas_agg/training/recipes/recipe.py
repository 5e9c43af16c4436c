"""A training recipe: optimizer, learning-rate schedule, initialisation and augmentation; without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas_agg.training.recipes.augmentation import Augmentation, Policy
from nas_agg.training.recipes.schedules import SCHEDULES

ClassifierInit = Literal["he", "glorot"]
ConvInit = Literal["fan_in", "fan_out", "fan_out_uniform"]
Schedule = Literal["cosine", "step", "linear", "constant", "one-cycle"]
Option = bool | int | float | str | tuple[float, ...]

#: Fields that describe a recipe and do not affect trainings.
DESCRIPTION = ("name", "about", "choices")


class Recipe(BaseModel):
    """A training recipe.

    Attributes:
        name: Its name.
        about: A one-line description.
        choices: Details that its source leaves open, and what is used here.
        epochs: Passes over the training images.
        batch_size: Maximum number of images per step; an epoch is split into equal batches and drops none.
        lr: Maximum learning rate.
        schedule: How the learning rate falls from ``lr``: along a ``cosine``, by ``step`` at ``milestones``, along a
            ``linear`` line, not at all (``constant``), or after a rise along a cosine (``one-cycle``).
        milestones: Epochs after which schedule ``step`` multiplies the learning rate by ``decay`` (scaled if the
            number of epochs is overridden).
        decay: See ``milestones``.
        warmup_epochs: Epochs of linear warm-up (scaled down if fewer epochs than ``epochs`` are run).
        optimizer: Class of ``torch.optim``, for example SGD or AdamW.
        optimizer_options: Further arguments of that class, for example ``betas`` or ``eps``.
        momentum: Momentum of optimizers with such an argument (SGD's has no dampening).
        nesterov: Whether SGD's momentum is Nesterov's.
        weight_decay: The optimizer's weight decay; SGD's is an L2 penalty of the weights.
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

    name: str = "custom"
    about: str = ""
    choices: str = ""
    epochs: int = Field(ge=1, le=10**6)
    batch_size: int = Field(ge=2, le=10**6)
    lr: float = Field(gt=0)
    schedule: Schedule = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = ()
    decay: float = Field(0.1, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)
    optimizer: str = "SGD"
    optimizer_options: dict[str, Option] = {}
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

    @model_validator(mode="after")
    def _check_milestones(self) -> Self:
        if self.milestones and self.schedule != "step":
            raise ValueError("milestones: require schedule: step")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule: step requires milestones, such as [30, 60]")
        return self

    @property
    def init_options(self) -> dict[str, Any]:
        """Options of weight initialisation, as arguments of :func:`nas_agg.compiler.compile`."""
        return {name: getattr(self, name) for name in ("zero_branches", "classifier_init", "conv_init")}

    @property
    def fingerprint(self) -> str:
        """The fields that affect a training and have no default value, as JSON."""
        return self.model_dump_json(exclude=set(DESCRIPTION), exclude_defaults=True)

    def augmentation(self, default: Augmentation) -> Augmentation:
        """A data set's augmentation with this recipe's overrides."""
        overrides = {name: getattr(self, name) for name in Augmentation.model_fields}
        return default.model_copy(update={name: value for name, value in overrides.items() if value is not None})

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of a step.

        Args:
            step: Number of the step, from 1.
            steps: Steps of the whole training.
        """
        return SCHEDULES[self.schedule](self, step, steps)

    def warmup_steps(self, steps: int) -> int:
        """Warm-up steps of a training of ``steps``."""
        return round(steps * min(1.0, self.warmup_epochs / self.epochs))
