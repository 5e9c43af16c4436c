"""Messages between a coordinator, its worker processes and remote workers: jobs, outcomes and progress."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nas_agg.graph.rematerialization import MemoryMode
from nas_agg.study.definition.metrics import METRICS
from nas_agg.training.recipes import Recipe, open_recipe

RecipeField = Annotated[Recipe, BeforeValidator(lambda source: open_recipe(source))]  # a second argument is pydantic's


class Message(BaseModel):
    """A message; sent as JSON, checked when it is received."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class TrialJob(Message):
    """Train the network of a trial.

    Attributes:
        genotype: The network, as JSON.
        seed: Seed of weights, order of images and augmentation.
        recipe: The recipe; its name alone is read as well.
        epochs: Epochs of the whole training.
        out: Folder of the trial.
        memory: Memory mode.
        reported: Metric that is reported after each epoch, weighed by latency if there is a target.
        metrics: Further metrics of the validation images to compute.
        measure_latency: Whether the latency is measured before the training.
        max_latency: Milliseconds; a slower network is not trained.
        latency_target: Milliseconds.
        pause_at: Epoch at which the training pauses, if earlier than the last.
        processes: Number of processes that train it together, each on a GPU of its own: this device and the next ones.
        sync_batch_norm: Whether batch norms use the statistics of the parts of all processes.
        device: Device to train on; set by the backend.
    """

    kind: Literal["trial"] = "trial"
    genotype: dict[str, Any]
    seed: int
    recipe: RecipeField
    epochs: int
    out: str
    memory: MemoryMode = "plain"
    reported: str = "accuracy"
    metrics: tuple[str, ...] = ()
    measure_latency: bool = False
    max_latency: float | None = None
    latency_target: float | None = None
    pause_at: int | None = None
    processes: int = 1
    sync_batch_norm: bool = False
    device: str = "cpu"


class FinalJob(Message):
    """Train a network with the full recipe on all images but the test split, then test it.

    Attributes:
        genotype: The network, as JSON.
        seed: Seed of weights, order of images and augmentation.
        recipe: The recipe; its name alone is read as well.
        epochs: Overrides the recipe's epochs.
        out: Folder of the unfinished training.
        best: Folder that ``out`` is renamed to once it is complete.
        trial: Number of the trial; None without a search.
        validation_accuracy: Validation accuracy of the trial.
        validation: Other validation metrics of the trial by their attributes.
        metrics: Further metrics of the test images to compute; the first is the one that early stopping watches.
        cost: Cost and further metrics, for metrics.json.
        memory: Memory mode.
        compile: Whether training steps run under ``torch.compile``.
        processes: Number of processes that a worker starts to train it together, as for a trial.
        sync_batch_norm: Whether batch norms use the statistics of the parts of all processes.
        rivals: Other networks to train; only the best of all on the validation images is tested.
        weights: What to start from: a run folder, a file, or the name of torchvision's weights; None: initial weights.
        title: Title of the emitted code.
        about: Provenance, for the emitted code.
        device: Device to train on; set by the backend.
    """

    kind: Literal["final"] = "final"
    genotype: dict[str, Any]
    seed: int
    recipe: RecipeField
    epochs: int | None = None
    out: str
    best: str
    trial: int | None = None
    validation_accuracy: float | None = None
    validation: dict[str, float] = {}
    metrics: tuple[str, ...] = ()
    cost: dict[str, Any] = {}
    memory: MemoryMode = "plain"
    compile: bool = False
    processes: int = 1
    sync_batch_norm: bool = False
    rivals: tuple[FinalJob, ...] = ()
    weights: str | None = None
    title: str = ""
    about: str = ""
    device: str = "cpu"


class FunctionJob(Message):
    """Evaluate the network of a trial by a function of the caller.

    Attributes:
        number: Number of the trial.
        genotype: The network, as JSON; None if search variables alone are searched.
        values: Their values in this case.
        params: Parameters of the trial, as Optuna knows them.
        attributes: Attributes of the metrics that the function's values are.
        device: Not used; set by the worker pool.
    """

    kind: Literal["function"] = "function"
    number: int
    genotype: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    params: dict[str, Any] = {}
    attributes: tuple[str, ...] = ("value",)
    device: str = "cpu"


AnyJob = TrialJob | FinalJob | FunctionJob
Job = Annotated[AnyJob, Field(discriminator="kind")]


class TrialOutcome(Message):
    """Result of a trial's evaluation.

    Attributes:
        metrics: Metrics by their attributes; ``value`` is that of a single objective.
        seconds: Training time, including parts before an interruption; None if unknown.
        batch_size: Batch size, if the recipe's did not fit the memory.
        paused_at: Epoch at which the training paused.
        infeasible: Why the network was not trained, else empty.
        pruned: Whether a function ended the trial early; None of a training, which ends early if it is told to.
        user_attrs: What a function stored with the trial.
    """

    kind: Literal["trial"] = "trial"
    metrics: dict[str, float] = {}
    seconds: float | None = None
    batch_size: int | None = None
    paused_at: int | None = None
    infeasible: str = ""
    pruned: bool | None = None
    user_attrs: dict[str, Any] = {}

    def measured(self) -> dict[str, Any]:
        """What is recorded of the network beside the objectives' values."""
        attributes = [metric.attribute for metric in METRICS.values() if not metric.known_a_priori]
        measured: dict[str, Any] = {name: self.metrics[name] for name in attributes if name in self.metrics}
        return measured if self.batch_size is None else {**measured, "batch_size": self.batch_size}

    def event_kind(self, stopped: bool = False) -> EventKind:
        """Kind of the event that delivers it.

        Args:
            stopped: Whether the training was told to stop early.
        """
        if self.infeasible:
            return EventKind.INFEASIBLE
        if stopped if self.pruned is None else self.pruned:
            return EventKind.PRUNED
        return EventKind.COMPLETED if self.paused_at is None else EventKind.PAUSED


class FinalOutcome(Message):
    """Result of a final training, whose metrics are in its folder.

    Attributes:
        uncompiled: Why it was trained without ``torch.compile`` though that was requested, else empty.
    """

    kind: Literal["final"] = "final"
    uncompiled: str = ""

    def event_kind(self, stopped: bool = False) -> EventKind:
        """Kind of the event that delivers it."""
        return EventKind.COMPLETED


Outcome = Annotated[TrialOutcome | FinalOutcome, Field(discriminator="kind")]


class EventKind(StrEnum):
    """What happened to a trial."""

    #: A value was reported; the job may wait until it is told to proceed or to stop.
    REPORT = "report"
    COMPLETED = "completed"
    #: It reached the epoch at which it pauses.
    PAUSED = "paused"
    #: It was stopped early as requested.
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    #: Its worker died, through no known fault of the trial.
    WORKER_DIED = "worker_died"
    #: Its worker left and handed it back.
    RELEASED = "released"


class Progress(StrEnum):
    """Kinds of messages from a worker process to its pool."""

    #: The worker cannot work at all, for a reason that another would share.
    UNUSABLE = "unusable"
    STARTED = "started"
    REPORT = "report"
    FAILED = "failed"
    #: One of the processes that did the job together has died, through no known fault of the job.
    LOST = "lost"
    FINISHED = "finished"


class WorkerMessage(Message):
    """A message from a worker process to its pool.

    Attributes:
        kind: What it says.
        step, value: A report.
        reason: Why the job failed or the worker is unusable.
        exits: Whether the process ends after this message.
        stopped: Whether the job was stopped early as requested.
        outcome: The result of a finished job.
    """

    kind: Progress
    step: int = 0
    value: float = 0.0
    reason: str = ""
    exits: bool = False
    stopped: bool = False
    outcome: Outcome | None = None

    @property
    def event_kind(self) -> EventKind:
        """Kind of the event that delivers the end of a job."""
        if self.kind == Progress.LOST:
            return EventKind.WORKER_DIED
        return EventKind.FAILED if self.outcome is None else self.outcome.event_kind(self.stopped)


class Reply(Message):
    """A pool's answer to a report.

    Attributes:
        stop: Whether the training is to stop.
    """

    stop: bool


class Envelope(Message):
    """A job on its way to a worker process."""

    job: Job
