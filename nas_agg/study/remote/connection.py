"""A remote worker's connection to the storage: its row there, and calls that are repeated while it is unreachable."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.signals import shielded
from nas_agg.study.records.storages import silence_optuna, storage_errors
from nas_agg.study.workers.protocol import (
    ABOUT,
    INSTRUCTIONS,
    STATUS,
    Instructions,
    WorkerStatus,
    workers_study,
)

RETRY_SECONDS = 1.0  # between two calls to a storage that cannot be reached


@dataclass(frozen=True)
class StudyHandle:
    """A study that a worker joins.

    Attributes:
        storage: The storage that holds it.
        id: Its number there.
        name: Its name.
        task: What its coordinator wrote about the task.
        run: The run folder, if the study was located by it.
    """

    storage: BaseStorage
    id: int
    name: str
    task: dict[str, Any]
    run: Path | None = None


class NotRegistered(NasAggError):
    """The coordinator finished the row of this worker, which it took for dead."""


class WorkerConnection:
    """Calls the storage for a worker, again and again if it cannot be reached.

    Args:
        study: The study.
        about: Describes the worker: ``host``, ``slots`` and what else people may want to know.
        print_line: Receives a line when the storage cannot be reached.

    Attributes:
        id: ID of the worker.
        lease_seconds: Time without a heartbeat after which the worker counts as dead.
    """

    def __init__(self, study: StudyHandle, about: Mapping[str, Any], print_line: Callable[[str], None]):
        self._study, self._storage, self._about, self._print_line = study, study.storage, about, print_line
        self.id, self._row = "", -1
        self.lease_seconds = 60.0
        self._outbox: dict[tuple[int, str], Any] = {}
        self._reached, self._is_unreachable = time.monotonic(), False

    def _with_retries(self, call: Callable[[], Any]) -> Any:
        """The result of a call to the storage; None while the storage cannot be reached.

        Raises:
            NasAggError: It has been unreachable for so long that this worker counts as dead.
        """
        try:
            with shielded():
                result = call()
        except (UpdateFinishedTrialError, KeyError):
            raise
        except Exception as error:  # whatever the driver raises
            if time.monotonic() - self._reached > self.lease_seconds:
                with storage_errors(f"cannot be reached for {self.lease_seconds:g} s"):
                    raise
            if not self._is_unreachable:
                self._print_line(f"the storage cannot be reached ({type(error).__name__}); retrying")
            self._is_unreachable = True
            time.sleep(RETRY_SECONDS)
            return None
        self._reached, self._is_unreachable = time.monotonic(), False
        return result

    # ---- the worker's row

    def register(self) -> bool:
        """Create a row for this worker, which has another ID from now on; returns whether the storage was reached."""
        self.id = f"{self._about['host']}-{self._about['pid']}-{secrets.token_hex(3)}"
        status = WorkerStatus(beat=0).model_dump(mode="json")
        row = optuna.trial.FrozenTrial(
            number=-1,
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={ABOUT: {**self._about, "id": self.id}, STATUS: status},
            system_attrs={},
            intermediate_values={},
        )

        def create() -> int:
            with silence_optuna():
                return self._storage.create_new_trial(self._rows_study(), row)

        created = self._with_retries(create)
        self._row = -1 if created is None else created
        return created is not None

    def _rows_study(self) -> int:
        """The study that holds the rows; created by the first worker."""
        name = workers_study(self._study.name)
        try:
            return self._storage.get_study_id_from_name(name)
        except KeyError:
            try:
                return self._storage.create_new_study([StudyDirection.MAXIMIZE], name)
            except DuplicatedStudyError:  # by another worker, just now
                return self._storage.get_study_id_from_name(name)

    def read_instructions(self) -> Instructions | None:
        """What the coordinator told this worker; None if it has not yet, or the storage cannot be reached.

        Raises:
            NasAggError: The study has been deleted.
        """
        try:
            attrs = self._with_retries(lambda: self._storage.get_trial_user_attrs(self._row))
        except KeyError:
            raise self._deleted() from None
        return Instructions.model_validate(attrs[INSTRUCTIONS]) if attrs and INSTRUCTIONS in attrs else None

    def write_status(self, status: WorkerStatus) -> None:
        """Queue the status of this worker."""
        self.write(self._row, STATUS, status.model_dump(mode="json"))

    def sign_off(self, trained: int) -> None:
        """Write what is queued and finish the row.

        Args:
            trained: Number of trials that the worker trained, for whoever looks at its row.
        """
        with silence_optuna():
            try:
                if self.flush() and self._row >= 0:
                    self._with_retries(
                        lambda: self._storage.set_trial_state_values(self._row, TrialState.COMPLETE, [float(trained)])
                    )
            except (NasAggError, UpdateFinishedTrialError, KeyError):
                return  # the storage is gone, and the missing heartbeat tells the others; or the row is finished

    # ---- the study and its trials

    def read_study(self) -> dict[str, Any] | None:
        """The attributes of the study; None while the storage cannot be reached.

        Raises:
            NasAggError: The study has been deleted.
        """
        try:
            return self._with_retries(lambda: self._storage.get_study_user_attrs(self._study.id))
        except KeyError:
            raise self._deleted() from None

    def _deleted(self) -> NasAggError:
        return NasAggError(f"study {self._study.name} no longer exists in the storage")

    def read_trial(self, trial_id: int) -> dict[str, Any] | None:
        """The attributes of a trial; None if it does not exist or the storage cannot be reached."""
        try:
            return self._with_retries(lambda: self._storage.get_trial_user_attrs(trial_id))
        except KeyError:
            return None

    def write(self, trial_id: int, key: str, value: Any) -> None:
        """Queue an attribute of a trial, to be written as soon as the storage can be reached."""
        self._outbox.pop((trial_id, key), None)
        self._outbox[trial_id, key] = value

    def flush(self) -> bool:
        """Write the queued attributes, in order; returns whether the storage was reached.

        Raises:
            NotRegistered: The row of this worker is finished.
        """
        for (trial_id, key), value in list(self._outbox.items()):

            def put(trial_id: int = trial_id, key: str = key, value: Any = value) -> bool:
                self._storage.set_trial_user_attr(trial_id, key, value)
                return True

            try:
                if self._with_retries(put) is None:
                    return False
            except (UpdateFinishedTrialError, KeyError):
                if trial_id == self._row:
                    self._outbox.clear()
                    raise NotRegistered("this worker counts as dead") from None
                # the trial was ended without this worker
            del self._outbox[trial_id, key]
        return True
