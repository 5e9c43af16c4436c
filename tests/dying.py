"""Searches that die in the middle of a write."""

from __future__ import annotations

import json

from optuna.storages.journal import JournalFileBackend


class Killed(BaseException):
    """The end of the process, for a test."""


def dying_after(monkeypatch, writes: int) -> None:
    """Let the journal die in the middle of its ``writes``-th line."""
    left = [writes]

    def append(self, logs):
        left[0] -= 1
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with open(self._file_path, "ab") as file:
            file.write(text if left[0] else text[: len(text) // 2])
        if not left[0]:
            raise Killed

    monkeypatch.setattr(JournalFileBackend, "append_logs", append)
