"""What a search leaves on the disk, and who may write there."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.errors import InputError, did_you_mean
from nas_agg.files import parse, write_atomic

if TYPE_CHECKING:
    from nas_agg.study.record import TrialRecord

RUN = "run.json"
GENOTYPE, WEIGHTS, METRICS = "genotype.json", "weights.safetensors", "metrics.json"  # in best/
_COLUMNS = ("number", "state", "value", "params", "macs", "hash", "seconds", "refused", "repeat_of", "reason")


class RunFolder:
    """A run's folder, locked for one process: the kernel frees the lock when that process ends, however it ends.

    Args:
        path: The folder; it is made if it is not there.

    Raises:
        InputError: It is something else's folder, or another process searches in it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be used as a run folder: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(f"{self.path}: another search runs there; wait for it or choose another --out") from None
        self.new = not (self.path / RUN).exists()
        if self.new and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            self._lock.close()
            raise InputError(f"{self.path}: not empty and no run folder; choose another --out")
        self.run: dict[str, Any] = {} if self.new else read_run(self.path)

    def begin(self, settings: dict[str, Any], **more: Any) -> None:
        """Write what the run is before anything of it exists."""
        self.run = {
            "status": "running",
            "command": " ".join(sys.argv),
            "settings": settings,
            "seed": settings.get("seed"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            **more,
            "versions": _versions(),
        }
        self.update()

    def update(self, **changes: Any) -> None:
        """Change entries of run.json."""
        self.run.update(changes)
        write_atomic(self.path / RUN, json.dumps(self.run, indent=2) + "\n")

    def log(self, line: str) -> None:
        """Append a line to log.txt, with the time."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def write_trials(self, trials: list[TrialRecord]) -> None:
        """Rewrite trials.csv: a row a trial, its values in columns of their own."""
        names = list(trials[0].labels) if trials else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_COLUMNS, *names])
        for trial in trials:
            row = {**vars(trial), "repeat_of": trial.twin}
            if trial.seconds is not None:
                row["seconds"] = f"{trial.seconds:.2f}"
            writer.writerow([row[column] for column in _COLUMNS] + [trial.labels.get(name) for name in names])
        write_atomic(self.path / "trials.csv", text.getvalue())

    def trial(self, number: int) -> Path:
        """The folder of a trial, made if it is not there."""
        path = self.path / "trials" / str(number)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self) -> None:
        """Remove what only an unfinished run needs: checkpoints of trials that failed or were stopped."""
        for path in self.path.glob("trials/*/checkpoint.pt"):
            path.unlink()
        self.update(status="finished")

    @property
    def best(self) -> Path:
        """Where the final network lies once it is trained and tested."""
        return self.path / "best"

    def close(self) -> None:
        """Let another process write here."""
        self._lock.close()


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What run.json of a folder says.

    Raises:
        InputError: There is no such run; the message names a near one.
    """
    file = Path(path) / RUN
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        parent = Path(path).parent
        near = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        raise InputError(f"{path}: no run folder (it has no {RUN}){did_you_mean(Path(path).name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None
    run = parse(text, str(file), "json")
    if not isinstance(run, dict) or not isinstance(run.get("settings"), dict) or not isinstance(run.get("status"), str):
        raise InputError(f"{file}: no record of a search: 'settings' and 'status' are missing")
    return run


def how_to_go_on(run: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """What to type to go on with an unfinished run, as the end of a sentence.

    Args:
        run: What its run.json says.
        path: Its folder.
    """
    if "study" not in run:
        return "with the same nas_agg train command"
    if run.get("named"):
        return f"with: nas_agg search --resume {path}"
    return f"by calling nas_agg.search again with out={str(path)!r}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("nas-agg", "numpy", "optuna", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
