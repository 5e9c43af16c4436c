"""Searches that die in the middle of a write."""

from __future__ import annotations

import os

from nas_agg.study.records.journal import CheckedJournal


class Killed(BaseException):
    """The end of the process, for a test."""


def dying_after(monkeypatch, writes: int) -> None:
    """Let the journal die in the middle of its ``writes``-th line."""
    left = [writes]
    original = CheckedJournal.append_logs

    def append(self, logs):
        left[0] -= 1
        before = self._path.stat().st_size
        original(self, logs)
        if not left[0]:
            os.truncate(self._path, (before + self._path.stat().st_size) // 2)
            raise Killed

    monkeypatch.setattr(CheckedJournal, "append_logs", append)
