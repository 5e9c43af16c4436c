"""The fields of the settings of a search, by group of options.

The options of ``nas_agg search`` are generated from them: names, types, defaults, descriptions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.study.definition.notations import (
    SEED_LIMIT,
    Count,
    ImageSize,
    Milliseconds,
    Seconds,
    check_gpus,
    parse_assignments,
    parse_bounds,
    parse_names,
    parse_optional_text,
    parse_recipe,
    parse_recipe_changes,
    parse_tuning_texts,
)
from nas_agg.training.metrics import TRAINED_METRICS

# Groups of options.
SPACE, DATA, BUDGET = "Space and search algorithm", "Data", "Budget"
LIMITS, TRAINING, PLACE = "Objectives and limits", "Training", "Where it runs"

DEFAULT_EPOCHS = 10
PAUSING_PRUNERS = ("halving", "hyperband", "freeze-thaw")  # whose trials pause at rungs
DATA_SETS = "digits, fashion-mnist, cifar10, cifar100, folder:PATH (one folder per class), npz:PATH or csv:FILE"


def _setting(
    group: str, default: Any, description: str, *, notation: str = "", resumable: bool = False, **limits: Any
) -> Any:
    """A field of `Settings`.

    Args:
        group: The heading of its option in the help of the command line.
        default: The value where none is specified; ``...`` if required, None where it depends on the space, the
            machine or other settings.
        description: One or two sentences, the help text of its option.
        notation: The kind of text that the option takes, where its type does not say so: ``COUNT``, ``DURATION``.
        resumable: Whether a resumed run may change it.
        **limits: As for `pydantic.Field`.
    """
    extra: dict[str, Any] = {"group": group, "notation": notation, "resumable": resumable}
    return Field(default, description=description, json_schema_extra=extra, validate_default=True, **limits)


class _Group(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SpaceSettings(_Group):
    """What is searched, and by which algorithm."""

    space: str = _setting(
        SPACE, ..., "Search space: a name (see 'nas_agg spaces') or a file such as ./mine.yaml.", notation="SPACE"
    )
    searcher: str = _setting(SPACE, "predictor", "Search algorithm (see 'nas_agg searchers').", notation="NAME")
    start: tuple[dict[str, Any], ...] | None = _setting(
        SPACE,
        None,
        "Network to evaluate first: a named point or any GENOTYPE of the space; repeatable.",
        notation="POINT",
    )
    learn: tuple[dict[str, Any], ...] | None = _setting(
        SPACE,
        None,
        "Learn from an earlier run of this space, or of one that shares search variables, on any data: its best "
        "networks come first, and 'predictor' uses its results; repeatable.",
        notation="RUN",
    )
    seed: int = _setting(
        SPACE, 0, "Random seed of the validation split, sampling, weights and augmentation.", ge=0, lt=SEED_LIMIT
    )
    proxy: str | None = _setting(
        SPACE,
        None,
        "Zero-cost proxy: train only the best-scored of several candidates (see 'nas_agg proxies').",
        notation="NAME",
    )
    proxy_candidates: int = _setting(SPACE, 20, "Candidates that --proxy scores per trained network.", ge=1, le=10_000)


class DataSettings(_Group):
    """Images."""

    dataset: str | None = _setting(
        DATA,
        "digits",
        f"Data set: {DATA_SETS}. A space with a table of results is searched without one: results are looked up unless "
        "a data set is specified.",
        notation="DATASET",
    )
    image_size: ImageSize | None = _setting(
        DATA, None, "Scale images to squares of this side, or to a height and width such as 64x48.", notation="SIZE"
    )
    resize: Literal["crop", "squash", "pad"] = _setting(
        DATA,
        "crop",
        "How images of another shape are made to fit: crop (scaled to cover the size, centre kept), squash or pad.",
    )
    crop_share: float | None = _setting(
        DATA,
        None,
        "With resize crop: the share of the height and width of scaled images that evaluation keeps (default: 0.875 "
        "from 128 pixels on, 1 below).",
        ge=0.5,
        le=1,
    )
    skip_unreadable: bool = _setting(
        DATA, False, "Leave out images that cannot be read, instead of refusing the data set."
    )


class BudgetSettings(_Group):
    """How much is trained, and how long."""

    budget: int = _setting(BUDGET, 50, "Number of distinct networks to evaluate.", resumable=True, ge=1, le=10**6)
    epochs: int | None = _setting(
        BUDGET,
        None,
        f"Epochs per trial (default: the space's own, else {DEFAULT_EPOCHS}); the final training uses its recipe's.",
        ge=1,
        le=10**6,
    )
    pruner: Literal["median", "halving", "hyperband", "freeze-thaw", "none"] | None = _setting(
        BUDGET,
        None,
        "median: stop trials below the median of their epoch; halving, hyperband: pause trials at rungs and promote "
        "the best; freeze-thaw: pause trials at rungs, and the searcher decides which continue (default: median for "
        "one objective, none for several).",
    )
    reduction_factor: int | None = _setting(
        BUDGET,
        None,
        "With halving or hyperband: one in this many trials is promoted from each rung (default: 3).",
        ge=2,
        le=100,
    )
    min_epochs: int | None = _setting(
        BUDGET,
        None,
        "With halving or hyperband: epochs up to the first rung (default: a third of --epochs). With freeze-thaw: from "
        "each rung to the next (default: a quarter).",
        ge=1,
    )
    timeout: Seconds | None = _setting(
        BUDGET,
        None,
        "Wall time of the search in total, for example 2h or 90s; the final training follows it.",
        notation="DURATION",
        resumable=True,
    )
    trial_timeout: Seconds | None = _setting(
        BUDGET, None, "Time after which a trial is recorded as failed.", notation="DURATION", resumable=True
    )
    final: int = _setting(
        BUDGET,
        1,
        "Networks that are trained in full after the search; of several, which are trained without the validation "
        "images, the best on these is tested. 0: none.",
        ge=0,
        le=100,
    )
    final_epochs: int | None = _setting(
        BUDGET, None, "Epochs of the final training (default: its recipe's).", ge=1, le=10**6
    )


class LimitSettings(_Group):
    """Objectives and limits."""

    objective: Annotated[tuple[str, ...] | None, BeforeValidator(parse_names)] = _setting(
        LIMITS,
        None,
        "One or more of accuracy, loss, params, macs, activations, latency, or another --metric; several are optimized "
        "for their Pareto front (default: accuracy).",
        notation="NAME,...",
    )
    metric: str | None = _setting(
        LIMITS,
        None,
        "Metric of the validation images that is maximized or minimized, and that early stopping watches, for example "
        f"balanced-accuracy (default: accuracy); one of {', '.join(TRAINED_METRICS)}.",
        notation="NAME",
    )
    latency_target: Milliseconds | None = _setting(
        LIMITS,
        None,
        "Maximize accuracy * (latency / target) ** -0.07 in place of accuracy, for example 5ms.",
        notation="LATENCY",
    )
    max_params: Count | None = _setting(
        LIMITS,
        None,
        "Reject networks with more parameters before training, for example 1M; 0: no limit (default: the space's own).",
        notation="COUNT",
    )
    max_macs: Count | None = _setting(
        LIMITS,
        None,
        "Reject networks with more multiply-accumulates per image before training, for example 50M; 0: no limit "
        "(default: the space's own).",
        notation="COUNT",
    )
    max_activations: Count | None = _setting(
        LIMITS,
        None,
        "Reject networks that keep more bytes per image for the backward pass, for example 2M.",
        notation="BYTES",
    )
    max_latency: Milliseconds | None = _setting(
        LIMITS,
        None,
        "Reject networks whose forward pass on one image takes longer on the worker, for example 5ms.",
        notation="LATENCY",
    )
    min_accuracy: float | None = _setting(
        LIMITS,
        None,
        "Exclude networks of lower validation accuracy (0 to 1) from the best result and the Pareto front.",
        ge=0,
        le=1,
    )
    max_loss: float | None = _setting(
        LIMITS,
        None,
        "Exclude networks of higher validation loss from the best result and the Pareto front.",
        gt=0,
        allow_inf_nan=False,
    )
    min_metric: Annotated[dict[str, float] | None, BeforeValidator(parse_bounds)] = _setting(
        LIMITS,
        None,
        "Exclude networks of a lower value of a metric of the validation images from the best result, for example "
        "macro-f1=0.8; repeatable.",
        notation="NAME=VALUE",
    )
    max_metric: Annotated[dict[str, float] | None, BeforeValidator(parse_bounds)] = _setting(
        LIMITS, None, "Likewise of a higher value, for example mae=3.", notation="NAME=VALUE"
    )


class TrainingSettings(_Group):
    """How networks are trained."""

    recipe: Annotated[str | dict[str, Any] | None, BeforeValidator(parse_recipe)] = _setting(
        TRAINING,
        None,
        "Training recipe of the trials and of the final training: a name (see 'nas_agg recipes') or a file such as "
        "./mine.yaml (default: 'search' and 'final').",
        notation="RECIPE",
    )
    batch_size: int | None = _setting(
        TRAINING, None, "Images per training step (default: the recipe's).", ge=2, le=10**6
    )
    lr: float | None = _setting(
        TRAINING, None, "Maximum learning rate (default: the recipe's).", gt=0, allow_inf_nan=False
    )
    optimizer: str | None = _setting(
        TRAINING, None, "Class of torch.optim, for example AdamW (default: the recipe's).", notation="NAME"
    )
    set: Annotated[dict[str, Any] | None, BeforeValidator(parse_recipe_changes)] = _setting(
        TRAINING, None, "Set a field of the recipe, for example weight_decay=1e-4; repeatable.", notation="FIELD=VALUE"
    )
    tune: Annotated[dict[str, Any] | None, BeforeValidator(parse_tuning_texts)] = _setting(
        TRAINING,
        None,
        "Fields of the recipe to search together with the network, for example lr=0.02:0.4:log,weight_decay or "
        "optimizer=SGD|AdamW; repeatable.",
        notation="FIELD,...",
    )
    weights: Annotated[str | None, BeforeValidator(parse_optional_text)] = _setting(
        TRAINING,
        None,
        "Start the final training from a run, a file of weights or a torchvision name such as resnet50, which must be "
        "of the network that is found; the classifier starts anew where the classes differ (none: initial weights).",
        notation="WEIGHTS",
        resumable=True,
    )
    download: bool = _setting(
        TRAINING, False, "Download named weights that are not in torch.hub's folder.", resumable=True
    )
    memory: RequestedMemoryMode = _setting(
        TRAINING,
        "auto",
        "Activations kept for the backward pass: plain: as eager PyTorch; lean: outputs of convolutions only; leanest: "
        "fewer still; auto: the first of these that fits the device.",
        resumable=True,
    )
    sync_bn: bool = _setting(
        TRAINING,
        False,
        "If several GPUs train a network: batch norms use the statistics of the whole batch, so that results do not "
        "depend on the number of GPUs.",
    )
    compile: bool = _setting(
        TRAINING,
        False,
        "Run the final training under torch.compile, which takes minutes to start; trials never use it.",
        resumable=True,
    )


class PlaceSettings(_Group):
    """Where trials run."""

    device: str = _setting(PLACE, "auto", "Device: auto (CUDA if available), cpu, cuda or cuda:N.", notation="DEVICE")
    backend: str | None = _setting(
        PLACE,
        None,
        "Where trials run: local: processes on this machine; storage: workers that join by 'nas_agg worker' as well; "
        "ray: a Ray cluster; slurm: jobs of Slurm (default: storage if --storage is specified or --workers is 0, else "
        "local).",
        notation="NAME",
        resumable=True,
    )
    ray_address: str | None = _setting(
        PLACE,
        None,
        "With --backend ray: auto (the cluster of this machine), ray://HOST:10001, HOST:6379, or local (a cluster of "
        "its own) (default: $RAY_ADDRESS, else local).",
        notation="ADDRESS",
        resumable=True,
        min_length=1,
    )
    slurm: Annotated[dict[str, str] | None, BeforeValidator(parse_assignments)] = _setting(
        PLACE,
        None,
        "With --backend slurm: an option of sbatch, for example partition=gpu, account=me or time=240 (minutes); "
        "repeatable.",
        notation="NAME=VALUE",
        resumable=True,
    )
    cpus_per_trial: float | None = _setting(
        PLACE,
        None,
        "With --backend ray or slurm: CPU cores per trial, and threads of its training (default: 1 per GPU of the "
        "trial, or 1).",
        resumable=True,
        gt=0,
        le=1024,
    )
    gpus_per_trial: Annotated[float | None, AfterValidator(check_gpus)] = _setting(
        PLACE,
        None,
        "GPUs per trial: a fraction such as 0.25 lets trials share one (local, ray); several train a network together, "
        "a process each, as many processes share the CPU with --device cpu (default: 1 if there are GPUs, on Slurm if "
        "--device is cuda).",
        resumable=True,
        ge=0,
        le=1024,
    )
    memory_per_trial: Count | None = _setting(
        PLACE,
        None,
        "With --backend ray or slurm: bytes of main memory to reserve per trial, for example 4G.",
        notation="BYTES",
        resumable=True,
    )
    workers: int | None = _setting(
        PLACE,
        None,
        "Local worker processes (default: one per GPU, else two or the number of cores); 0: only workers that join by "
        "'nas_agg worker'. With --backend ray: trials at once (default: as many as the nodes have room for); with "
        "slurm: jobs at once (default: 8).",
        resumable=True,
        ge=0,
        le=1024,
    )
    storage: str | None = _setting(
        PLACE, None, "Optuna storage URL (default: a journal file in the run folder).", notation="URL", min_length=1
    )
    retries: int = _setting(PLACE, 3, "Retries of a trial whose worker process died.", resumable=True, ge=0)
