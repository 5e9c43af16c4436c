"""Ctrl-C and SIGTERM: they stop a search at any moment but in the middle of a write to its storage.

A write that is cut short does no harm to the record, but the libraries that write take the interruption for a fault of
the storage; so it waits until they are done.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal said to stop.

    Attributes:
        status: The exit status that says so: 128 and the signal's number.
    """

    def __init__(self, signum: int):
        self.status = 128 + signum
        super().__init__()


class _State:
    shields = 0
    waiting: int | None = None
    stopped = False


def _stop(signum: int, frame: FrameType | None) -> None:
    if _State.stopped:
        return  # it is stopping
    if _State.shields:
        _State.waiting = signum
        return
    _State.stopped = True
    raise Stopped(signum)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within, a signal raises :class:`Stopped`, once; in another thread than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _stop:
        yield
        return
    _State.stopped, _State.waiting = False, None
    before = [signal.signal(number, _stop) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Within, a signal waits for the end."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
        if _State.waiting is not None and not _State.shields:
            signum, _State.waiting = _State.waiting, None
            _stop(signum, None)
