"""A worker in a study: it takes the trials that are leased to it, and says how they end.

It trains in processes of its own, so whatever becomes of a training, this process lives on to tell.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nas_agg.common.errors import NasAggError
from nas_agg.language.genotype import Genotype
from nas_agg.study.definition.signals import Stopped, shielded
from nas_agg.study.records.run_folder import RUN_FILE
from nas_agg.study.records.storages import silence_optuna, storage_errors
from nas_agg.study.workers.pool import WORKER as COMMAND
from nas_agg.study.workers.pool import Event, Job, WorkerPool
from nas_agg.study.workers.protocol import (
    BEAT,
    COORDINATOR,
    FINISHED,
    LEASE,
    OUTCOME,
    STOP,
    TASK,
    WORKER,
    blocks,
    order_of,
)
from nas_agg.study.workers.remote import BEATS, LEASE_SECONDS

QUICK, SLOW = 0.1, 2.0  # seconds between two looks at the storage: after a trial has ended, and at rest
BUSY = 0.5  # while trials are trained
IDLE = 600.0


@dataclass(frozen=True)
class StudyHandle:
    """A study that a worker has found.

    Attributes:
        storage: Where it is kept.
        id: Its number there.
        name: Its name.
        task: What its coordinator says of it.
        run: The run's folder, if that is how it was found.
    """

    storage: BaseStorage
    id: int
    name: str
    task: dict[str, Any]
    run: Path | None = None


@dataclass
class _Trial:
    """A trial that is being trained here."""

    id: int
    attempt: int
    folder: Path | None  # of this worker's own, if it has not that of the run
    begun: float = field(default_factory=time.monotonic)
    reports: list[tuple[int, float]] = field(default_factory=list)
    sent: int = 0
    stop: bool = False


class WorkerStopped(NasAggError):
    """A signal told a worker to leave, and it did."""

    def __init__(self, status: int, back: int):
        self.status = status
        super().__init__(f"stopped{f'; {back} of its trials handed back' if back else ''}")


class WorkerAgent:
    """A worker in a study.

    Args:
        joined: The study.
        setups: What its processes are told, one each.
        idle: Seconds without a coordinator after which it leaves.
        say: Takes lines about what happens.
        command: Starts a process.
    """

    def __init__(
        self,
        joined: StudyHandle,
        setups: Sequence[dict[str, Any]],
        *,
        idle: float = IDLE,
        say: Callable[[str], None] = print,
        command: Sequence[str] = COMMAND,
    ):
        self._joined, self._storage, self._idle, self._say = joined, joined.storage, idle, say
        self._host = socket.gethostname()
        self.id = f"{self._host}-{os.getpid()}-{secrets.token_hex(3)}"
        self._about = {"host": self._host, "pid": os.getpid(), "slots": len(setups), "device": setups[0]["device"]}
        self._about["since"] = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._pool = WorkerPool(setups, None, joined.task.get("trial_timeout"), command)
        self._trials: dict[int, _Trial] = {}
        self._answered: set[tuple[int, int]] = set()
        self._outbox: dict[tuple[int | None, str], Any] = {}
        self._beat, self._beaten = 0, 0.0
        self._session, self._lease = "", LEASE_SECONDS
        self._mark: tuple[Any, Any] = (None, None)
        self._heard = self._reached = time.monotonic()
        self._failing = False
        self._shared = _shared(joined)

    def run(self) -> None:
        """Work until the search is over."""
        try:
            self._run()
        except Stopped as stopped:
            back = len(self._trials)
            self._hand_back("was stopped")
            raise WorkerStopped(stopped.status, back) from None
        except NasAggError as error:
            self._hand_back(f"failed: {error}")
            raise
        finally:
            self._pool.close()
            for number in list(self._trials):
                self._forget(number)

    def _run(self) -> None:
        self._write(None, f"{WORKER}{self.id}", self._about)
        slots = self._about["slots"]
        kept = "with the run's folder" if self._shared else "without the run's folder"
        self._say(
            f"joined {self._joined.name} as {self.id}: {self._joined.task['about']}, {slots} "
            f"process{'es' * (slots != 1)} on {self._about['device']}, {kept}"
        )
        pause = QUICK
        while True:
            if over := self._look():
                self._say(f"{over}; leaving")
                self._pool.close()
                self._bye()
                return
            wanting = pause if self._pool.free() else BUSY
            end, ended = time.monotonic() + (min(wanting, BUSY) if self._trials else pause), False
            while self._trials and not ended and time.monotonic() < end:
                for event in self._pool.events(max(0.0, end - time.monotonic())):
                    ended = self._hear(event) or ended
            if not self._trials and not ended:
                time.sleep(max(0.0, end - time.monotonic()))
            pause = QUICK if ended else min(SLOW, 1.2 * pause)
            self._send_reports()
            self._flush()

    # ---- the storage

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """What a call to the storage gives; None while it cannot be reached.

        Raises:
            NasAggError: It could not be reached for so long that this worker counts as dead.
        """
        try:
            with shielded():
                found = call()
        except (UpdateFinishedTrialError, KeyError):
            raise
        except Exception as error:  # whatever the driver raises
            if time.monotonic() - self._reached > self._lease:
                with storage_errors(f"cannot be reached for {self._lease:g} s"):
                    raise
            if not self._failing:
                self._say(f"the storage cannot be reached ({type(error).__name__}); trying on")
            self._failing = True
            time.sleep(1.0)
            return None
        self._reached, self._failing = time.monotonic(), False
        return found

    def _write(self, trial: int | None, key: str, value: Any) -> None:
        """Write an attribute of a trial or of the study, now or when the storage is reached again."""
        self._outbox.pop((trial, key), None)
        self._outbox[trial, key] = value

    def _flush(self) -> None:
        """Write what is to be written, in its order."""
        for (trial, key), value in list(self._outbox.items()):
            try:
                if self._patiently(lambda t=trial, k=key, v=value: self._set(t, k, v)) is None:  # type: ignore[misc]
                    return
            except (UpdateFinishedTrialError, KeyError):
                pass  # the trial has ended without this worker
            del self._outbox[trial, key]

    def _set(self, trial: int | None, key: str, value: Any) -> bool:
        if trial is None:
            self._storage.set_study_user_attr(self._joined.id, key, value)
        else:
            self._storage.set_trial_user_attr(trial, key, value)
        return True

    def _read(self) -> tuple[dict[str, Any], list[FrozenTrial]] | None:
        def both() -> tuple[dict[str, Any], list[FrozenTrial]]:
            attrs = self._storage.get_study_user_attrs(self._joined.id)
            running = self._storage.get_all_trials(self._joined.id, deepcopy=False, states=(TrialState.RUNNING,))
            return attrs, running

        try:
            return self._patiently(both)
        except KeyError:
            raise NasAggError(f"study {self._joined.name} is gone from the storage") from None

    # ---- leases

    def _look(self) -> str:
        """Beat, take and drop trials as the coordinator says; gives why it is all over, if it is."""
        if (found := self._read()) is None:
            return ""
        attrs, running = found
        here, now = attrs.get(COORDINATOR, {}), time.monotonic()
        if here.get("state") == FINISHED:
            return "the search has finished"
        mark = (here.get("session"), here.get("beat"))
        if self._trials or (mark != self._mark and here.get("state") != "away"):
            self._heard = now
        self._mark = mark
        if now - self._heard > self._idle:
            raise NasAggError(f"no coordinator for {self._idle:g} s; leaving")
        if here.get("session") != self._session:  # a new coordinator wants to know at once who is there
            self._session, self._lease = here.get("session"), here.get("lease", LEASE_SECONDS)
            self._pool.trial_timeout = attrs[TASK].get("trial_timeout")
            self._beaten = 0.0
        if now - self._beaten >= self._lease / BEATS:
            self._beat, self._beaten = self._beat + 1, now
            self._write(None, f"{BEAT}{self.id}", self._beat)
        mine = {t.number: t for t in running if t.user_attrs.get(LEASE, {}).get("worker") == self.id}
        for number in [n for n, one in self._trials.items() if not _same(mine.get(n), one.attempt)]:
            self._say(f"trial {number}: taken back")
            self._pool.drop(number)
            self._forget(number)
        for number, trial in mine.items():
            attempt = trial.user_attrs[LEASE]["attempt"]
            if number in self._trials:
                self._trials[number].stop = bool(trial.user_attrs.get(f"{STOP}{attempt}"))
            elif (number, attempt) not in self._answered and self._pool.free():
                self._start(trial, attempt)
        self._flush()
        return ""

    def _start(self, trial: FrozenTrial, attempt: int) -> None:
        order, folder = order_of(trial.user_attrs), None
        if self._shared is None:
            folder = Path(tempfile.mkdtemp(prefix=f"{trial.number}-", suffix="-nas_agg"))
            order["out"] = str(folder)
        else:
            order["out"] = str(self._shared / str(trial.number))
        self._say(f"trial {trial.number}: training" + (f", attempt {attempt}" if attempt > 1 else ""))
        self._trials[trial.number] = _Trial(trial._trial_id, attempt, folder)
        self._pool.start(Job(trial.number, Genotype.model_validate(order["genotype"]), order))

    def _hear(self, event: Event) -> bool:
        """Note what a process says; gives whether a trial ended."""
        trial = self._trials[event.number]
        if event.kind == "report":
            assert event.value is not None
            trial.reports.append((event.step, event.value))
            self._pool.answer(event.number, trial.stop)
            return False
        self._end(event.number, event.kind, event.seconds, event.reason, event.result)
        self._say(f"trial {event.number}: {event.kind}{f': {event.reason}' if event.reason else ''}")
        return True

    def _end(self, number: int, kind: str, seconds: float, reason: str, result: Mapping[str, Any]) -> None:
        trial = self._trials[number]
        self._send_reports()
        told = {"kind": kind, "seconds": round(seconds, 3), "reason": reason[:1000], "result": dict(result)}
        if kind in ("lost", "left"):
            told["reason"] = f"worker {self._host}: {told['reason']}"
        self._write(trial.id, f"{OUTCOME}{trial.attempt}", told)
        self._answered.add((number, trial.attempt))
        self._forget(number)

    def _forget(self, number: int) -> None:
        trial = self._trials.pop(number)
        if trial.folder is not None:
            shutil.rmtree(trial.folder, ignore_errors=True)

    def _send_reports(self) -> None:
        for trial in self._trials.values():
            if trial.sent < len(trial.reports):
                for key, block in blocks(trial.attempt, trial.reports, trial.sent).items():
                    self._write(trial.id, key, block)
                trial.sent = len(trial.reports)

    # ---- leaving

    def _hand_back(self, why: str) -> None:
        """Give back what is not done, so that others need not wait until this worker counts as dead."""
        self._pool.close()
        for number, trial in list(self._trials.items()):
            self._end(number, "left", time.monotonic() - trial.begun, why, {})
        self._bye()

    def _bye(self) -> None:
        self._write(None, f"{WORKER}{self.id}", {**self._about, "left": True})
        with silence_optuna():
            try:
                self._flush()
            except NasAggError:
                return  # the storage is gone; the others will see that no beat comes


def _same(trial: FrozenTrial | None, attempt: int) -> bool:
    return trial is not None and trial.user_attrs[LEASE]["attempt"] == attempt


def _shared(joined: StudyHandle) -> Path | None:
    """The folders of the run's trials, if they are to be had here too and can be written."""
    folder = joined.run or Path(joined.task.get("folder") or "")
    try:
        same = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["study"] == joined.name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder / "trials" if same and os.access(folder, os.W_OK) else None
