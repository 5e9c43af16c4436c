"""How a run's folder learns that its search failed or was stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.records.run_folder import RunFolder, encodable, resume_instructions


class Interrupted(NasAggError):
    """A search was told to stop; what it has is kept."""

    def __init__(self, folder: RunFolder, status: int):
        self.status = status
        there = f"; go on {resume_instructions(folder.run, folder.path)}" if folder.run else " before the search began"
        super().__init__(f"stopped{there}")


@contextlib.contextmanager
def record_failure(folder: RunFolder | None) -> Iterator[None]:
    """Note in the folder that a search failed, and why."""
    try:
        yield
    except NasAggError as error:
        if folder is not None:
            with contextlib.suppress(NasAggError):  # on a full disk, the first error is the one to tell
                folder.update(status="failed", reason=encodable(str(error)))
                folder.log(f"failed: {error}")
        raise


@contextlib.contextmanager
def stop_on_signal(folder: RunFolder) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop a run; since a kill is safe at any moment, stopping is no more than leaving."""
    try:
        with stoppable():
            yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        if folder.run:
            with contextlib.suppress(NasAggError):
                folder.update(status="stopped")
                folder.log(
                    "stopped by a signal" if isinstance(stopped, Stopped) else f"stopped by {type(stopped).__name__}"
                )
        if isinstance(stopped, Stopped):
            raise Interrupted(folder, stopped.status) from None
        raise
