"""Records failure or interruption in the run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.records.run_folder import RunFolder, encodable, resume_instructions
from nas_agg.study.records.storages import StorageFailed


class Interrupted(NasAggError):
    """A search was stopped by a signal; all it has found so far is stored.

    Attributes:
        status: The exit status: 128 and the signal's number.
    """

    def __init__(self, folder: RunFolder, status: int):
        self.status = status
        if folder.run:
            super().__init__(f"stopped; resume {resume_instructions(folder.run, folder.path)}")
        else:
            super().__init__("stopped before the search began")


@contextlib.contextmanager
def record_failure(folder: RunFolder | None) -> Iterator[None]:
    """Record an error in the run folder, and raise it again."""
    try:
        yield
    except NasAggError as error:
        told: NasAggError = error
        if folder is not None and isinstance(error, StorageFailed):
            instructions = resume_instructions(folder.run, folder.path)
            told = StorageFailed(f"{error}; once it can be used again, resume {instructions}")
        if folder is not None:
            with contextlib.suppress(NasAggError):  # on a full disk, report the first error
                folder.update(status="failed", reason=encodable(str(told)))
                folder.log(f"failed: {told}")
        if told is error:
            raise
        raise told from error


@contextlib.contextmanager
def stop_on_signal(folder: RunFolder) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop a run and record that they did.

    Nothing else is needed, since a run can be resumed after a kill at any time.

    Raises:
        Interrupted: A signal arrived.
    """
    try:
        with stoppable():
            yield
    except (KeyboardInterrupt, SystemExit) as error:
        if folder.run:
            with contextlib.suppress(NasAggError):
                folder.update(status="stopped")
                folder.log(
                    "stopped by a signal" if isinstance(error, Stopped) else f"stopped by {type(error).__name__}"
                )
        if isinstance(error, Stopped):
            raise Interrupted(folder, error.status) from None
        raise
