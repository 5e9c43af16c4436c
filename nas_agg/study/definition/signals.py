"""Ctrl-C and SIGTERM: they stop a search at any time except during a write to its storage.

An interrupted write does not damage the record, but storage drivers report it as an error of the storage; therefore a
signal waits until the write is complete.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A stop signal arrived.

    Attributes:
        status: Exit status: 128 plus the signal's number.
    """

    def __init__(self, signum: int):
        self.status = 128 + signum
        super().__init__()


class _State:
    shields = 0  # nested
    pending: int | None = None
    stopped_by: int | None = None


def _stop(signum: int, frame: FrameType | None) -> None:
    if _State.stopped_by is not None:
        return
    if _State.shields:
        _State.pending = signum
        return
    _State.stopped_by = signum
    raise Stopped(signum)


def check_stopped() -> None:
    """Raise :class:`Stopped` again if code that called back into Python, as pydantic's serializer does, swallowed it.

    Loops call this once per turn; code that handles `Stopped` must not.
    """
    if _State.stopped_by is not None:
        raise Stopped(_State.stopped_by)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the context, a signal raises :class:`Stopped` once; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _stop:
        yield
        return
    _State.stopped_by = _State.pending = None
    handlers = [signal.signal(signum, _stop) for signum in SIGNALS]
    try:
        yield
    finally:
        _State.stopped_by = None
        for signum, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(signum, handler)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Within the context, a signal is deferred to its end."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
        if _State.pending is not None and not _State.shields:
            signum, _State.pending = _State.pending, None
            _stop(signum, None)
