"""The run folder: the files of a search or a training, and the lock of its only writer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nas_agg.common.durable import HeldFolder, remove_abandoned
from nas_agg.common.errors import InputError, did_you_mean, redact, truncate
from nas_agg.common.files import check_regular_file, parse_document, read_document, write_atomic, write_errors
from nas_agg.common.manifest import MANIFEST, check_file, write_manifest
from nas_agg.common.sealed_json import check_seal, sealed
from nas_agg.study.definition.settings import Settings
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.run_entries import (
    DatasetArguments,
    RunRecord,
    ScoredMetrics,
    TestedMetrics,
    UntestedMetrics,
    validated,
)
from nas_agg.study.records.trials_table import TRIALS_FILE, TrialsTable

RUN_FILE = "run.json"
RUN_FORMAT = 2  # of run.json and of all that a run stores; increase it when an older run can no longer be read
GENOTYPE_FILE, WEIGHTS_FILE, METRICS_FILE = "genotype.json", "weights.safetensors", "metrics.json"  # in best/
_LOG, _BEST_MANIFEST = "log.txt", f"best/{MANIFEST}"
_AGAIN = "resume the run to make it again"


class RunFolder:
    """A run folder, locked for this process; the kernel releases the lock when the process ends, however it ends.

    Args:
        path: The folder; it is created if it does not exist.

    Attributes:
        path: The folder.
        run: The contents of run.json; empty until the run begins.
        new: Whether the folder holds no run yet.
        table: Writes trials.csv.

    Raises:
        InputError: The folder is not a run folder, or another process has locked it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not isinstance(path, str | Path) or not str(path):
            raise InputError(f"out: specify a folder, not {truncate(repr(path))}")
        self.path = Path(path)
        self.run: dict[str, Any] = {}
        try:
            self._created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self.path / ".lock"
            self._created = [] if lock.exists() else [lock, *self._created]
            self._lock = lock.open("a")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{truncate(str(self.path))}: cannot be used as a run folder: {reason}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._held = HeldFolder(self.path, ".lock")
            if not os.path.samestat(os.stat(self.path / ".lock"), os.fstat(self._lock.fileno())):
                raise FileNotFoundError  # the process that created the folder has just removed it
        except OSError:
            self._lock.close()
            raise InputError(
                f"{self.path}: another process is using this run folder; wait for it, or choose another --out"
            ) from None
        try:
            remove_abandoned(self.path)
            self.table = TrialsTable(self._held)
            self.new = not (self.path / RUN_FILE).exists()
            if self.new and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
                raise InputError(f"{self.path}: neither empty nor a run folder; choose another --out")
            self.run = {} if self.new else read_run(self.path)
        except OSError as error:
            self.close()
            raise InputError(f"{self.path}: cannot be used as a run folder: {error.strerror}") from None
        except InputError:
            self.close()
            raise

    def begin(self, settings: dict[str, Any], **more: Any) -> None:
        """Write run.json, before anything else of the run exists.

        Args:
            settings: The settings of the run.
            **more: Further entries.
        """
        self.run = {
            "format": RUN_FORMAT,
            "status": "running",
            "command": encodable(redact(" ".join(sys.argv))),
            "settings": settings,
            "seed": settings.get("seed"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            **more,
            "versions": _versions(),
        }
        self.update()

    def restore(self, run: Mapping[str, Any]) -> None:
        """Write the run.json of a run whose folder is gone.

        Args:
            run: What its study has kept of it.
        """
        self.run = {**run, "status": "stopped", "seconds": 0.0, "forgiven": 0}
        self.update()

    def update(self, *, durable: bool = True, **changes: Any) -> None:
        """Change or add entries of run.json; nothing is written if they are as before.

        Args:
            durable: As for `write_atomic`.
            **changes: The entries.
        """
        self._held.check()
        if changes and all(name in self.run and self.run[name] == value for name, value in changes.items()):
            return
        self.run.update(changes)
        if self._is_private:
            with write_errors(self.path / _LOG):
                (self.path / _LOG).touch(0o600)
        write_atomic(self.path / RUN_FILE, sealed(self.run), durable=durable, private=self._is_private)

    @property
    def _is_private(self) -> bool:
        """Whether only the owner may read the files of the run in which errors of a database could end up."""
        return self.run.get("settings", {}).get("storage") is not None

    def log(self, line: str) -> None:
        """Append a line to log.txt, after the time."""
        self._held.check()
        path = self.path / _LOG
        with write_errors(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def trial_folder(self, number: int) -> Path:
        """The folder of a trial; it is created if it does not exist."""
        self._held.check()
        path = self.path / "trials" / str(number)
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def extend(self, former_best: str, **settings: Any) -> None:
        """Reopen a finished run with other settings.

        Args:
            former_best: New name of the folder of the final network, if there is one.
            **settings: The settings to change.
        """
        if os.path.lexists(self.best):
            with write_errors(self.path / former_best):
                os.rename(self.best, self.path / former_best)
        self.update(status="stopped", settings=self.run["settings"] | settings)

    def finish(self, **changes: Any) -> None:
        """Mark the run as finished, after its manifest is written; checkpoints of stopped trials are removed.

        Args:
            **changes: Further entries of run.json to change.
        """
        for path in self.path.glob("trials/*/checkpoint.pt"):
            with write_errors(path):
                path.unlink()
        self.write_manifest()
        self.update(**changes, status="finished")

    def write_manifest(self) -> None:
        """Write the manifest of the run, whose files are complete."""
        self._held.check()
        names = [name for name in (TRIALS_FILE, JOURNAL, _LOG, _BEST_MANIFEST) if (self.path / name).exists()]
        write_manifest(self.path, names, appended=(JOURNAL, _LOG))

    @property
    def best(self) -> Path:
        """The folder of the final network; it exists once the network is trained and tested."""
        return self.path / "best"

    def metrics(self, tested: bool = True) -> dict[str, Any] | None:
        """The contents of best/metrics.json; ``None`` if there is no final network yet.

        Args:
            tested: Whether networks of this run are trained and tested, not scored by a function.

        Raises:
            InputError: best/ is incomplete or damaged.
        """
        if not os.path.lexists(self.best):
            return None
        check_finished(self.path, self.run)
        return read_metrics(self.best, tested)

    def close(self) -> None:
        """Release the lock; the folders created for a run that did not begin are removed."""
        if self._created and not self.run:
            with contextlib.suppress(OSError):  # not empty: another process has written to it
                self._created[0].unlink()
                for folder in self._created[1:]:
                    folder.rmdir()
        self._held.close()
        self._lock.close()


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read run.json of a folder.

    Raises:
        InputError: There is no such run (the message suggests a similar name), its format is another, or run.json is
            damaged.
    """
    file = Path(path) / RUN_FILE
    try:
        check_regular_file(file)
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        parent = Path(path).parent
        siblings = [entry.name for entry in parent.iterdir() if entry != Path(path)] if parent.is_dir() else []
        hint = did_you_mean(Path(path).name, siblings)
        raise InputError(f"{path}: not a run folder (it has no {RUN_FILE}){hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None
    run = parse_document(text, str(file), "json")
    try:
        _check_format(run)
        run = check_seal(run, file, "restore it from a copy")
        validated(RunRecord, run)
        if "study" in run:
            Settings.parse(**run["settings"])
    except InputError as error:
        raise InputError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    return run


def _check_format(run: Any) -> None:
    """Refuse a run that another version of nas_agg wrote in another format.

    Raises:
        InputError: The message names the version that reads the run.
    """
    if not isinstance(run, dict) or run.get("format") == RUN_FORMAT:
        return
    actual = f"format {truncate(str(run['format']))}" if "format" in run else "no format number"
    versions = run.get("versions")
    writer = versions.get("nas-agg") if isinstance(versions, dict) else None
    reader = f"nas_agg {truncate(str(writer))}" if writer else "the version of nas_agg that wrote it"
    raise InputError(f"{actual}; expected format {RUN_FORMAT}; open this run with {reader}, or start a new one")


def check_finished(path: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
    """Check that the final network in a finished run's folder is that of the run.

    Args:
        path: The folder.
        run: The contents of its run.json.

    Raises:
        InputError: It is another, or the folder is damaged.
    """
    folder = Path(path)
    if run["status"] == "finished" and os.path.lexists(folder / "best"):
        check_file(folder, _BEST_MANIFEST, f"restore it, or remove {folder / 'best'} and {_AGAIN}")


def check_best(best: Path, name: str) -> None:
    """Compare a file of a final network with the manifest beside it.

    Raises:
        InputError: The file or the manifest is damaged or missing.
    """
    check_file(best, name, f"restore it, or remove {best} and {_AGAIN}")


def read_metrics(best: Path, tested: bool = True) -> dict[str, Any]:
    """Read the metrics of a final network.

    Args:
        best: The folder of the network.
        tested: Whether it was trained and tested, not scored by a function.

    Raises:
        InputError: The folder is incomplete, or its metrics are damaged.
    """
    remedy = f"remove {best} to {'train the network again' if tested else 'rewrite it'}"
    if not (best / METRICS_FILE).is_file():
        raise InputError(f"{best}: incomplete, it has no {METRICS_FILE}; {remedy}")
    check_best(best, METRICS_FILE)
    try:
        metrics = read_document(best / METRICS_FILE)
        untested = isinstance(metrics, dict) and "untested" in metrics
        return validated((UntestedMetrics if untested else TestedMetrics) if tested else ScoredMetrics, metrics)
    except InputError as error:
        reason = str(error).removeprefix(f"{best / METRICS_FILE}: ")
        raise InputError(f"{best / METRICS_FILE}: {reason}; {remedy}") from None


def dataset_arguments(run: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The data set of a run, as arguments of :func:`nas_agg.training.data.load_data`.

    Args:
        run: The contents of its run.json.
        path: Its folder.

    Raises:
        InputError: The run has no data set.
    """
    if "data" not in run:
        raise InputError(f"{path}: {RUN_FILE} specifies no data set; specify one, and the weights")
    try:
        return dict(validated(DatasetArguments, run["data"]))
    except InputError as error:
        raise InputError(f"{Path(path) / RUN_FILE}: data.{error}") from None


def encodable(text: str) -> str:
    """A text that can be written as UTF-8: undecodable bytes, as in file names, are replaced by their codes."""
    return text.encode("utf-8", "backslashreplace").decode()


def resume_instructions(run: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """How to resume an unfinished run, as the end of a sentence.

    Args:
        run: The contents of its run.json.
        path: Its folder.
    """
    if "study" not in run:
        return "with the same nas_agg train command"
    if run.get("named"):
        return f"with: nas_agg search --resume {path}"
    return f"by calling nas_agg.search again with out={str(path)!r}"


def join_command(run: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """The command that runs trials of a search on another machine.

    Args:
        run: The contents of its run.json.
        path: Its folder.
    """
    storage = run["settings"].get("storage")
    where = f"--run {path}" if storage is None else f"--storage '{redact(storage)}' --study {run['study']}"
    return f"nas_agg worker {where}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("nas-agg", "numpy", "optuna", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
