"""What the backend `ray` runs on the nodes: a training as a task, and the actor that its reports go through."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from nas_agg.study.clusters.trial_files import ChangedFiles, Files, read_files, write_files
from nas_agg.study.workers.connection import do_job
from nas_agg.study.workers.messages import Envelope, FinalJob, Progress, WorkerMessage
from nas_agg.study.workers.process import Trainer
from nas_agg.study.workers.protocol import version_difference

_data: dict[str, Any] = {}  # the data set that this process has, by its reference


@dataclass(frozen=True)
class Order:
    """What a task is to do.

    Attributes:
        number, attempt: The trial, and which attempt at it this is.
        job: Its job, an `Envelope` as JSON.
        files: The files of its folder.
        trainer: Does the job.
        threads: Threads of the training.
        versions: Versions that the node must have.
    """

    number: int
    attempt: int
    job: str
    files: Files
    trainer: Trainer
    threads: int
    versions: dict[str, str]


@dataclass(frozen=True)
class TaskMessage:
    """A message from a task that runs.

    Attributes:
        number, attempt: Whose it is.
        node: The node that it runs on, if it has just begun.
        step, value: A report, otherwise.
        files: Files of the trial's folder that have changed, if there is a new checkpoint.
    """

    number: int
    attempt: int
    node: str = ""
    step: int = 0
    value: float = 0.0
    files: Files = field(default_factory=dict)


class Mailbox:
    """An actor that passes messages of tasks to the coordinator, and its answers back."""

    def __init__(self) -> None:
        self._messages: list[TaskMessage] = []
        self._arrived = asyncio.Event()
        self._answers: dict[tuple[int, int], asyncio.Future[bool]] = {}

    async def begin(self, message: TaskMessage) -> None:
        """Note that a task has begun."""
        self._put(message)

    async def report(self, message: TaskMessage) -> bool:
        """Deliver a report; returns whether to stop, once the coordinator has answered."""
        answer = asyncio.get_running_loop().create_future()
        self._answers[message.number, message.attempt] = answer
        self._put(message)
        return bool(await answer)

    def _put(self, message: TaskMessage) -> None:
        self._messages.append(message)
        self._arrived.set()

    async def take(self, timeout: float) -> list[TaskMessage]:
        """The messages since the last call; waits up to ``timeout`` seconds for the first."""
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout)
        except TimeoutError:
            return []
        messages, self._messages = self._messages, []
        self._arrived.clear()
        return messages

    async def answer(self, number: int, attempt: int, stop: bool) -> None:
        """Answer the last report of a task."""
        answer = self._answers.pop((number, attempt), None)
        if answer is not None and not answer.done():
            answer.set_result(stop)


def run_trial(order: Order, data: Sequence[ray.ObjectRef], mailbox: ActorHandle) -> tuple[str, Files]:
    """Do a job, as a task.

    Args:
        order: What to do.
        data: A reference to the packed data set; in a list, which Ray does not resolve for each task.
        mailbox: Where reports go.

    Returns:
        A `WorkerMessage` as JSON, and the files of the job's folder, or of that of the final network.
    """
    if reason := version_difference(order.versions):
        return WorkerMessage(kind=Progress.UNUSABLE, reason=reason).model_dump_json(), {}
    order.trainer.limit_threads(order.threads)
    stopped = False
    with tempfile.TemporaryDirectory(prefix=f"nas_agg-trial-{order.number}-") as folder:
        out = Path(folder) / str(order.number)
        write_files(out, order.files)
        job, best = Envelope.model_validate_json(order.job).job, Path(folder) / "best"
        job = job.model_copy(update={"out": str(out)})
        if isinstance(job, FinalJob):
            rivals = [rival.model_copy(update={"best": str(best)}) for rival in job.rivals]
            job = job.model_copy(update={"best": str(best), "rivals": tuple(rivals)})
        changed, loaded = ChangedFiles(out), _load(data[0])
        node = ray.get_runtime_context().get_node_id()
        ray.get(mailbox.begin.remote(TaskMessage(order.number, order.attempt, node)))

        def report(step: int, value: float) -> bool:
            nonlocal stopped
            message = TaskMessage(order.number, order.attempt, "", step, value, changed.take())
            stopped = ray.get(mailbox.report.remote(message))
            return stopped

        message = do_job(lambda: order.trainer.train(job, loaded, report), job.device)
        files = read_files(best if best.exists() else out)
        return message.model_copy(update={"stopped": stopped}).model_dump_json(), files


def _load(reference: ray.ObjectRef) -> Any:
    """The data set behind a reference; a process unpacks it once."""
    key = reference.hex()
    if key not in _data:
        _data.clear()
        packed = ray.get(reference)
        _data[key] = packed.unpack() if hasattr(packed, "unpack") else packed
    return _data[key]
