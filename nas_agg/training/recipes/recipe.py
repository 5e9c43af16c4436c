"""A training recipe: optimizer, learning-rate schedule, initialisation and augmentation; without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas_agg.training.recipes.augmentation import Augmentation, Policy
from nas_agg.training.recipes.schedules import SCHEDULES

ClassifierInit = Literal["he", "glorot"]
ConvInit = Literal["fan_in", "fan_out", "fan_out_uniform"]
Schedule = Literal["cosine", "step", "linear", "constant", "one-cycle"]
Precision = Literal["auto", "float32", "bf16", "fp16"]
LossName = Literal["auto", "cross-entropy", "binary-cross-entropy", "mse", "mae", "huber"]
Option = bool | int | float | str | tuple[float, ...]

#: Fields that describe a recipe and do not affect trainings.
DESCRIPTION = ("name", "about", "choices", "open")


class Recipe(BaseModel):
    """A training recipe.

    Attributes:
        name: Its name.
        about: A one-line description.
        choices: Details that its source leaves open, and what is used here.
        open: Fields that a search tunes together with the network, with their values: a list, or a text such as
            ``0.02:0.4:log``. A training without a search uses the fields' own values.
        epochs: Passes over the training images.
        batch_size: Maximum number of images per step; an epoch is split into equal batches and drops none.
        lr: Maximum learning rate.
        lr_backbone: Maximum learning rate of all layers but the classifier, for fine-tuning; None: ``lr``.
        freeze: Parts of the network that are not trained, as beginnings of their paths, for example ``stage1``.
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
        micro_batches: Parts that each batch is split into, to need less memory: their gradients are accumulated, so
            that a step is that of the whole batch except for the statistics of batch norms.
        precision: Floating-point format of the forward pass: ``float32``, or automatic mixed precision with ``bf16`` or
            ``fp16`` (with a scaled loss); ``auto``: bf16 on CUDA, float32 on a CPU.
        evaluation_precision: Format of the forward pass when epochs are evaluated: ``float32`` or ``bf16``. The test of
            the final network is in float32.
        tf32: Whether CUDA computes products of float32 in TF32; None: PyTorch's default, in convolutions alone.
        cudnn_benchmark: Whether cuDNN measures which of its algorithms is the fastest for each shape, on CUDA.
        cuda_graphs: Whether whole steps are captured as CUDA graphs, which makes small networks faster. It has no
            effect on a CPU, with several processes, ``torch.compile`` or ``fp16``, nor for optimizers but SGD and Adam.
        clip: Maximum global norm of the gradients; None disables clipping.
        ema: Decay per step of the exponential moving average of weights and buffers, which is evaluated and saved in
            place of the last weights; it rises from 0.1 during the first steps. 0 disables it.
        patience: Stop once this many epochs brought no better validation value of the main metric, with the weights of
            the best epoch; the final training then leaves the validation images out. None disables it.
        loss: The loss; ``auto`` is that of the task: ``cross-entropy`` of one label, ``binary-cross-entropy`` of
            several labels, ``mse`` (or ``mae``, ``huber``) of a regression.
        label_smoothing: Share of the target that is spread evenly over all classes.
        class_weights: Weight of each class in the loss: ``balanced`` is inversely proportional to its images; a list
            has one number per class.
        sampling: ``shuffle``: each epoch has every image once; ``balanced``: as many images, drawn with replacement
            such that classes are equally likely.
        mixup: Parameter of the beta distribution of mixup (Zhang et al., 2018); 0 disables it.
        cutmix: Parameter of the beta distribution of cutmix (Yun et al., 2019); 0 disables it. With both, each batch
            draws one of them.
        dropout: Rate of dropout before the classifier.
        drop_path: Rate of stochastic depth (Huang et al., 2016) of the last residual branch; that of the others grows
            linearly with depth.
        zero_branches: Whether the last weighted layer of each residual branch is initialised at zero.
        classifier_init: Initialisation of linear layers: He's normal or Glorot's uniform distribution.
        conv_init: Initialisation of convolutions (He et al., 2015): normal with the variance that preserves that of
            activations (``fan_in``) or of gradients (``fan_out``), or uniform with the latter (``fan_out_uniform``).
        crop, flip, resized_crop, color_jitter, autoaugment, randaugment, randaugment_magnitude, trivialaugment,
            lighting, cutout, erasing: Override the data set's augmentation where set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "custom"
    about: str = ""
    choices: str = ""
    open: dict[str, str | list[Any]] | None = None
    epochs: int = Field(ge=1, le=10**6)
    batch_size: int = Field(ge=2, le=10**6)
    lr: float = Field(gt=0)
    lr_backbone: float | None = Field(None, ge=0)
    freeze: tuple[str, ...] = ()
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
    micro_batches: int = Field(1, ge=1, le=10**6)
    precision: Precision = "auto"
    evaluation_precision: Literal["float32", "bf16"] = "float32"
    tf32: bool | None = None
    cudnn_benchmark: bool = False
    cuda_graphs: bool = False
    clip: float | None = Field(None, gt=0)
    ema: float = Field(0.0, ge=0, lt=1)
    patience: int | None = Field(None, ge=1, le=10**6)
    loss: LossName = "auto"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(ge=0)], ...] = "none"
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    mixup: float = Field(0.0, ge=0, le=100)
    cutmix: float = Field(0.0, ge=0, le=100)
    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    zero_branches: bool = False
    classifier_init: ClassifierInit = "he"
    conv_init: ConvInit = "fan_in"
    crop: int | None = Field(None, ge=0, le=1024)
    flip: bool | None = None
    resized_crop: bool | None = None
    color_jitter: float | None = Field(None, ge=0, le=1)
    autoaugment: Policy | None = None
    randaugment: int | None = Field(None, ge=0, le=14)
    randaugment_magnitude: int | None = Field(None, ge=0, le=30)
    trivialaugment: bool | None = None
    lighting: float | None = Field(None, ge=0, le=1)
    cutout: int | None = Field(None, ge=0, le=1024)
    erasing: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _check_milestones(self) -> Self:
        if self.milestones and self.schedule != "step":
            raise ValueError("milestones: require schedule: step")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule: step requires milestones, such as [30, 60]")
        return self

    @model_validator(mode="after")
    def _check_policies(self) -> Self:
        policies = {
            "autoaugment": self.autoaugment not in (None, "none"),
            "randaugment": bool(self.randaugment),
            "trivialaugment": bool(self.trivialaugment),
        }
        chosen = [name for name, is_chosen in policies.items() if is_chosen]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[1]}: excludes {chosen[0]}; disable one of them")
        return self

    @property
    def compile_options(self) -> dict[str, Any]:
        """Initialisation and regularization of the network, as arguments of :func:`nas_agg.compiler.compile`."""
        names = ("zero_branches", "classifier_init", "conv_init", "dropout", "drop_path")
        return {name: getattr(self, name) for name in names}

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
