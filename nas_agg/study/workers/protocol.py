"""How a coordinator and remote workers communicate: attributes of the study, of its trials, and of a row per worker.

A worker registers as a trial, its *row*, of a second study, ``NAME:workers``, which the first of them creates. What a
worker reads between two epochs is its own row alone, so its cost does not depend on the number of workers; the
coordinator reads the rows of those present, and a trial only when its worker's row shows something new. The row of a
worker that has left or died is finished: it is not read again.

Each attribute has one writer, so neither side can overwrite what the other wrote, whatever the storage:

======================  ===========  =====================================================================
of the study            writer       content
======================  ===========  =====================================================================
``task``                coordinator  data set, its digest, versions, run folder, trial timeout
``coordinator``         coordinator  session, and whether the search has finished
======================  ===========  =====================================================================

======================  ===========  =====================================================================
of a worker's row       writer       content
======================  ===========  =====================================================================
``about``               worker       ID, host, device and number of slots; written once
``status``              worker       heartbeat, and how far its trials are: :class:`WorkerStatus`
``instructions``        coordinator  the trials that it is to train, and timing: :class:`Instructions`
======================  ===========  =====================================================================

======================  ===========  =====================================================================
of a trial, `remote:`   writer       content
======================  ===========  =====================================================================
``job:PIECE``           coordinator  the job, as JSON in pieces
``lease``               coordinator  the worker that the trial is leased to, and the attempt
``report:ATTEMPT:N``    worker       a block of twenty reports, each a step and a value
``outcome:ATTEMPT``     worker       how the attempt ended
======================  ===========  =====================================================================

Whoever writes an attribute of a trial writes it before the attribute of the row that refers to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from nas_agg.study.definition.trial import OWN, REMOTE
from nas_agg.study.workers.messages import AnyJob, EventKind, Message, TrialJob, TrialOutcome

TASK, COORDINATOR = (f"{OWN}{name}" for name in ("task", "coordinator"))
ABOUT, STATUS, INSTRUCTIONS = (f"{OWN}{name}" for name in ("about", "status", "instructions"))
LEASE, JOB, REPORT, OUTCOME = (f"{REMOTE}{name}" for name in ("lease", "job:", "report:", "outcome:"))
WORKERS_SUFFIX = ":workers"  # of the name of the study that holds the rows of a search's workers
PIECE_LENGTH = 20_000  # characters: MySQL's texts end at 65,535 bytes, and a quotation mark within a text takes two
BLOCK_LENGTH = 20  # reports per attribute
HERE, AWAY, FINISHED = "here", "away", "finished"  # states of the coordinator

Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class LeaseSettings:
    """Timing of leases.

    Attributes:
        seconds: Time without a heartbeat after which a worker counts as dead and its trials go to others.
        beats: Heartbeats in that time.
        poll_interval: Seconds between two reads of the storage by the coordinator; longer if a read takes long.
        adoption_seconds: Time that the workers of a killed coordinator have to answer its successor.
        full_pace: Number of workers beyond which each reads the storage less often, in proportion.
        full_beat: Number of workers beyond which each sends heartbeats less often, in proportion.
    """

    seconds: float = 60.0
    beats: int = 6
    poll_interval: float = 0.1
    adoption_seconds: float = 3.0
    full_pace: int = 100
    full_beat: int = 300

    def pace(self, workers: int) -> float:
        """Factor on the time between two reads of a worker, one of so many."""
        return max(1.0, workers / self.full_pace)

    def lease_seconds(self, workers: int) -> float:
        """Time without a heartbeat after which a worker, one of so many, counts as dead."""
        return self.seconds * max(1.0, workers / self.full_beat)


class LeasedTrial(Message):
    """A trial that a worker is to train.

    Attributes:
        number: Its number.
        trial_id: Its ID in the storage.
        attempt: The attempt at it.
        stop: Whether it is to stop early.
    """

    number: int
    trial_id: int
    attempt: int
    stop: bool = False


class Instructions(Message):
    """What a coordinator tells a worker.

    Attributes:
        session: ID of the coordinator.
        beat: Its heartbeat: a number that grows while the worker has no trial.
        finished: Why the search has finished; None as long as it has not.
        lease_seconds: Time without a heartbeat after which the worker counts as dead.
        pace: Factor on the time between two reads of the storage.
        trials: All trials that it is to train.
    """

    session: str
    beat: int = 0
    finished: str | None = None
    lease_seconds: float
    pace: float = 1.0
    trials: tuple[LeasedTrial, ...] = ()


class TrialStatus(Message):
    """How far a worker's trial is.

    Attributes:
        number: Its number.
        attempt: The attempt at it.
        reports: Number of reports written.
        ended: Whether its outcome is written.
    """

    number: int
    attempt: int
    reports: int = 0
    ended: bool = False


class WorkerStatus(Message):
    """What a worker tells the coordinator.

    Attributes:
        beat: Its heartbeat: a number that grows.
        trials: Its trials, including those that ended as long as its instructions list them.
    """

    beat: int
    trials: tuple[TrialStatus, ...] = ()


class RemoteOutcome(Message):
    """How an attempt at a trial ended, as its worker writes it.

    Attributes:
        kind: How it ended.
        seconds: Seconds of the attempt.
        reason: Why it failed, or its worker died or left.
        outcome: The result, if it has one.
    """

    kind: EventKind
    seconds: float
    reason: str = ""
    outcome: TrialOutcome | None = None

    @property
    def is_final(self) -> bool:
        """Whether the trial has ended and needs no other attempt."""
        return self.kind in (EventKind.COMPLETED, EventKind.PRUNED, EventKind.INFEASIBLE, EventKind.FAILED)


def workers_study(study_name: str) -> str:
    """Name of the study that holds the rows of a search's workers."""
    return f"{study_name}{WORKERS_SUFFIX}"


def job_attrs(job: AnyJob) -> dict[str, str]:
    """A job as attributes."""
    text = json.dumps(job.model_dump(mode="json"), separators=(",", ":"))
    return {f"{JOB}{i}": text[at : at + PIECE_LENGTH] for i, at in enumerate(range(0, len(text), PIECE_LENGTH))}


def read_job(attrs: Attrs) -> TrialJob:
    """The job in a trial's attributes."""
    return TrialJob.model_validate(json.loads("".join(attrs[f"{JOB}{i}"] for i in range(attrs[LEASE]["pieces"]))))


def read_outcome(attrs: Attrs, attempt: int) -> RemoteOutcome | None:
    """How an attempt ended; None if it has not."""
    outcome = attrs.get(f"{OUTCOME}{attempt}")
    return None if outcome is None else RemoteOutcome.model_validate(outcome)


def report_attrs(attempt: int, reports: Sequence[tuple[int, float]], sent: int) -> dict[str, list]:
    """The attributes with all reports of an attempt, except full blocks among the first ``sent``."""
    first = sent // BLOCK_LENGTH
    starts = range(first * BLOCK_LENGTH, len(reports), BLOCK_LENGTH)
    return {
        f"{REPORT}{attempt}:{first + i}": [list(report) for report in reports[start : start + BLOCK_LENGTH]]
        for i, start in enumerate(starts)
    }


def read_reports(attrs: Attrs, attempt: int, read: int) -> list[tuple[int, float]]:
    """The reports of an attempt after the first ``read``, in order."""
    reports: list[tuple[int, float]] = []
    number = read // BLOCK_LENGTH
    while (block := attrs.get(f"{REPORT}{attempt}:{number}")) is not None:
        reports += [(int(step), float(value)) for step, value in block]
        number += 1
    return reports[read % BLOCK_LENGTH :]


def versions() -> dict[str, str]:
    """Versions that must be the same on both sides."""
    return {"nas_agg": version("nas-agg"), "torch": _minor(version("torch"))}


def version_difference(required: Mapping[str, str]) -> str:
    """The first version that is another here than a search requires, in words; empty if there is none."""
    installed = versions()
    for name, version_there in required.items():
        if installed.get(name) != version_there:
            here = f"the search uses {name} {version_there}, this machine has {installed.get(name)}"
            return f"{here}; install {name} {version_there} here"
    return ""


def _minor(full: str) -> str:
    match = re.match(r"\d+\.\d+", full)
    return match[0] if match else full
