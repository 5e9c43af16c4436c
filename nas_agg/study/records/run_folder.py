"""What a search leaves on the disk, and who may write there."""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_agg.common.errors import InputError, cut, did_you_mean, hidden
from nas_agg.common.files import parse, read, write_atomic, writing
from nas_agg.study.definition.settings import Settings

if TYPE_CHECKING:
    from nas_agg.study.definition.trial import TrialRecord

RUN_FILE = "run.json"
GENOTYPE, WEIGHTS, METRICS = "genotype.json", "weights.safetensors", "metrics.json"  # in best/
_COLUMNS = (
    *("number", "state", "value", "accuracy", "loss", "latency_ms", "params", "macs", "activation_bytes", "hash"),
    *("seconds", "memory", "rejected_draws", "duplicate_of", "reason"),
)


class RunFolder:
    """A run's folder, locked for one process: the kernel frees the lock when that process ends, however it ends.

    Args:
        path: The folder; it is made if it is not there.

    Raises:
        InputError: It is something else's folder, or another process searches in it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not isinstance(path, str | Path) or not str(path):
            raise InputError(f"out: name a folder, not {cut(repr(path))}")
        self.path = Path(path)
        self.run: dict[str, Any] = {}
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self.path / ".lock"
            self._made = [] if lock.exists() else [lock, *self._made]
            self._lock = lock.open("a")
        except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
            why = getattr(error, "strerror", None) or error
            raise InputError(f"{cut(str(self.path))}: cannot be used as a run folder: {why}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(self.path / ".lock")  # else who made the folder has just removed it
        except OSError:
            self._lock.close()
            raise InputError(f"{self.path}: another search runs there; wait for it or choose another --out") from None
        try:
            self.new = not (self.path / RUN_FILE).exists()
            if self.new and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
                raise InputError(f"{self.path}: not empty and no run folder; choose another --out")
            self.run = {} if self.new else read_run(self.path)
        except OSError as error:
            self.close()
            raise InputError(f"{self.path}: cannot be used as a run folder: {error.strerror}") from None
        except InputError:
            self.close()
            raise

    def begin(self, settings: dict[str, Any], **more: Any) -> None:
        """Write what the run is before anything of it exists."""
        self.run = {
            "status": "running",
            "command": encodable(hidden(" ".join(sys.argv))),
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
        write_atomic(self.path / RUN_FILE, json.dumps(self.run, indent=2) + "\n")

    def log(self, line: str) -> None:
        """Append a line to log.txt, with the time."""
        path = self.path / "log.txt"
        with writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def write_trials(self, trials: list[TrialRecord]) -> None:
        """Rewrite trials.csv: a row a trial, its values in columns of their own."""
        names = list(trials[0].labels) if trials else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_COLUMNS, *names])
        for trial in trials:
            row = {**vars(trial), "value": trial.value}
            if trial.seconds is not None:
                row["seconds"] = f"{trial.seconds:.2f}"
            writer.writerow([row[column] for column in _COLUMNS] + [trial.labels.get(name) for name in names])
        write_atomic(self.path / "trials.csv", encodable(text.getvalue()))

    def count_written_trials(self) -> int:
        """How many trials trials.csv tells of."""
        try:
            with (self.path / "trials.csv").open(newline="", encoding="utf-8", errors="replace") as file:
                return max(0, sum(1 for _ in csv.reader(file)) - 1)
        except (OSError, csv.Error):  # it is made anew
            return 0

    def trial(self, number: int) -> Path:
        """The folder of a trial, made if it is not there."""
        path = self.path / "trials" / str(number)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def extend(self, aside: str, **settings: Any) -> None:
        """Let a run go on by other settings; its final network, if there is one, is kept aside under that name."""
        if os.path.lexists(self.best):
            with writing(self.path / aside):
                os.rename(self.best, self.path / aside)
        self.update(status="stopped", settings=self.run["settings"] | settings)

    def finish(self) -> None:
        """Remove what only an unfinished run needs: checkpoints of trials that failed or were stopped."""
        for path in self.path.glob("trials/*/checkpoint.pt"):
            with writing(path):
                path.unlink()
        self.update(status="finished")

    @property
    def best(self) -> Path:
        """Where the final network lies once it is trained and tested."""
        return self.path / "best"

    def metrics(self, tested: bool = True) -> dict[str, Any] | None:
        """What best/metrics.json says; ``None`` if there is no final network yet.

        Args:
            tested: Whether the final network is one that was trained and tested.

        Raises:
            InputError: best/ is there, but not whole.
        """
        if not os.path.lexists(self.best):
            return None
        return read_metrics(self.best, tested)

    def close(self) -> None:
        """Let another process write here; what was made for a run that did not begin is removed."""
        if self._made and not self.run:
            with contextlib.suppress(OSError):  # not empty: somebody put something there
                self._made[0].unlink()
                for folder in self._made[1:]:
                    folder.rmdir()
        self._lock.close()


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What run.json of a folder says.

    Raises:
        InputError: There is no such run; the message names a near one.
    """
    file = Path(path) / RUN_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        parent = Path(path).parent
        near = [entry.name for entry in parent.iterdir() if entry != Path(path)] if parent.is_dir() else []
        raise InputError(f"{path}: no run folder (it has no {RUN_FILE}){did_you_mean(Path(path).name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None
    run = parse(text, str(file), "json")
    try:
        _checked(_Record, run)
        if "study" in run:
            Settings.parse(**run["settings"])
    except InputError as error:
        raise InputError(f"{file}: {error}: no record of a search") from None
    return run


def read_metrics(best: Path, tested: bool = True) -> dict[str, Any]:
    """The metrics of a final network.

    Args:
        best: The folder that holds it.
        tested: Whether it is one that was trained and tested.

    Raises:
        InputError: The folder is not whole, or its metrics are damaged.
    """
    remedy = f"remove {best} to {'train it again' if tested else 'have it written again'}"
    if not (best / METRICS).is_file():
        raise InputError(f"{best}: not whole, it has no {METRICS}; {remedy}")
    try:
        return _checked(_Tested if tested else _Scored, read(best / METRICS))
    except InputError as error:
        why = str(error).removeprefix(f"{best / METRICS}: ")
        raise InputError(f"{best / METRICS}: {why}; {remedy}") from None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Data(_Part):
    """The arguments of :func:`nas_agg.training.data.load_data`, and no others."""

    model_config = ConfigDict(extra="forbid")

    spec: str
    seed: int = Field(default=0, ge=0)
    image_size: int | None = Field(default=None, ge=1)
    min_side: int | None = None


class _Record(_Part):
    """What run.json must be for a run to go on from it; what is left out may be missing there."""

    status: str
    settings: dict[str, Any]
    seconds: float = Field(default=0, ge=0)
    forgiven: int = Field(default=0, ge=0)
    study: str = ""
    space: str = ""
    reason: str = ""
    named: bool = False
    evaluate: bool = False
    origin: dict[str, str] = Field(default={})
    data: dict[str, Any] = Field(default={})
    memory: dict[str, str | int | None] = Field(default={})
    input: list[Annotated[int, Field(ge=1)]] = Field(default=[1, 1, 1], min_length=3, max_length=3)
    classes: int = Field(default=1, ge=1)


class _Scored(_Part):
    """best/metrics.json of a network that a function scored."""


class _Tested(_Part):
    """best/metrics.json of a network that was tested, as far as it is read again."""

    test_accuracy: float = Field(ge=0, le=1)
    correct: int
    images: int
    test_top5_accuracy: float | None = Field(None, ge=0, le=1)
    epochs: int = 0
    recipe: str = ""
    hash: str = ""


def _checked(model: type[BaseModel], value: Any) -> dict[str, Any]:
    """A value of JSON that is as a model says."""
    if not isinstance(value, dict):
        raise InputError("not an object")
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = first["msg"]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {said[0].lower()}{said[1:]}") from None
    return value


def dataset_arguments(run: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The data set of a run, as arguments of :func:`nas_agg.training.data.load_data`.

    Raises:
        InputError: Its run.json names none.
    """
    if "data" not in run:
        raise InputError(f"{path}: {RUN_FILE} names no data set; name one, and the weights")
    try:
        return dict(_checked(_Data, run["data"]))
    except InputError as error:
        raise InputError(f"{Path(path) / RUN_FILE}: data.{error}") from None


def encodable(text: str) -> str:
    """A text that can be written as UTF-8: a name may hold bytes that are no text, and they are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def resume_instructions(run: dict[str, Any], path: str | os.PathLike[str]) -> str:
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


def join_command(run: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """What to type on another machine to train trials of a run.

    Args:
        run: What its run.json says.
        path: Its folder.
    """
    storage = run["settings"].get("storage")
    where = f"--run {path}" if storage is None else f"--storage '{hidden(storage)}' --study {run['study']}"
    return f"nas_agg worker {where}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("nas-agg", "numpy", "optuna", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
