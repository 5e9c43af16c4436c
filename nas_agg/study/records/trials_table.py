"""trials.csv: one row per trial, appended as trials end and ordered by number once the search stops.

The last column is a digest of the row and of all rows before it (:mod:`nas_agg.common.chained_lines`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas_agg.common.chained_lines import DIGEST, START, next_digest
from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file, write_atomic, write_errors
from nas_agg.study.definition.metrics import FURTHER, METRICS
from nas_agg.study.definition.trial import RecordState

if TYPE_CHECKING:
    from nas_agg.common.durable import HeldFolder
    from nas_agg.study.definition.trial import TrialRecord

TRIALS_FILE = "trials.csv"
REWRITE = "remove the file and resume the search to rewrite it"
_COLUMNS = (
    *("number", "state", "value", *(m.attribute for m in METRICS.values() if m.attribute not in FURTHER)),
    *("hash", "seconds", "memory", "rejected_draws", "duplicate_of", "reason", *FURTHER),
)
_OPEN_STATES = (RecordState.RUNNING, RecordState.WAITING, RecordState.PAUSED)

Row = dict[str, str]


class TrialsTable:
    """Writes the table of a run.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: HeldFolder):
        self._folder, self._path = folder, folder.path / TRIALS_FILE
        self._digest: str | None = None  # of the last row that this process has written

    def begin(self, trials: Sequence[TrialRecord]) -> None:
        """Replace the table by rows for the trials that have ended, before further rows are appended."""
        self._write([trial for trial in trials if trial.state not in _OPEN_STATES], durable=False)

    def write(self, trials: Sequence[TrialRecord]) -> None:
        """Replace the table by rows for all trials."""
        self._write(trials, durable=True)

    def _write(self, trials: Sequence[TrialRecord], durable: bool) -> None:
        self._folder.check()
        text, self._digest = _rows_text(trials, None)
        write_atomic(self._path, text, durable=durable)

    def append(self, trials: Sequence[TrialRecord]) -> None:
        """Append rows for trials that ended."""
        if not trials:
            return
        if self._digest is None:
            self._write(trials, durable=False)
            return
        self._folder.check()
        text, self._digest = _rows_text(trials, self._digest)
        with write_errors(self._path), self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)


def _rows_text(trials: Sequence[TrialRecord], digest: str | None) -> tuple[str, str]:
    """Rows with their digests, after a header if ``digest``, that of the row before, is None; and the last digest."""
    names = list(trials[0].labels) if trials else []
    text = ""
    if digest is None:
        header = _csv_line([*_COLUMNS, *names])
        text, digest = f"{header},{DIGEST}\n", next_digest(START, header.encode())
    for trial in trials:
        row = _csv_line([*_cells(trial).values(), *(trial.labels.get(name) for name in names)])
        digest = next_digest(digest, row.encode())
        text += f"{row},{digest}\n"
    return text, digest


def _cells(trial: TrialRecord) -> Row:
    cells = {column: getattr(trial, column) for column in _COLUMNS}
    if trial.seconds is not None:
        cells["seconds"] = f"{trial.seconds:.2f}"
    return {column: "" if cells[column] is None else str(cells[column]) for column in _COLUMNS}


def _csv_line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()


def read_trials_table(folder: Path) -> list[Row]:
    """The rows of a run's table by number; none if there is no table. A row that is not complete yet is left out.

    Raises:
        InputError: The table cannot be read, or is damaged.
    """
    path = folder / TRIALS_FILE
    check_regular_file(path)
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        text = text[: text.rfind("\n") + 1]
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except csv.Error:
        raise _damaged(path, "a row") from None
    if not lines or lines[0][-1:] != [DIGEST] or tuple(lines[0][: len(_COLUMNS)]) != _COLUMNS:
        raise _damaged(path, "the header")
    *columns, _ = lines[0]
    digest, rows = next_digest(START, _csv_line(columns).encode()), []
    for number, line in enumerate(lines[1:], 2):
        *cells, own = line or [""]
        digest = next_digest(digest, _csv_line(cells).encode())
        if own != digest or len(cells) != len(columns) or not cells[0].isdecimal():
            raise _damaged(path, f"row {number}")
        rows.append(dict(zip(columns, cells, strict=True)))
    return sorted(rows, key=lambda row: int(row["number"]))


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what} is damaged, or a row before it is missing; {REWRITE}")


def check_trials_table(rows: Sequence[Row], trials: Sequence[TrialRecord], storage_name: str, folder: Path) -> None:
    """Compare a run's table with the trials in its storage.

    Args:
        rows: The rows of the table.
        trials: The trials in the storage.
        storage_name: The storage's name in error messages.
        folder: The run folder.

    Raises:
        InputError: They differ; the message names a trial.
    """
    path = folder / TRIALS_FILE
    remedy = f"restore the storage, or choose another --out; if {path} is wrong, remove it"
    for row in rows:
        number = int(row["number"])
        if number >= len(trials):
            raise InputError(f"{storage_name}: {len(trials)} trials, but trials.csv has trial {number}; {remedy}")
        if difference := _difference(row, trials[number]):
            raise InputError(f"{storage_name}: trial {number}: {difference} in trials.csv; {remedy}")


def _difference(row: Row, trial: TrialRecord) -> str:
    cells: Mapping[str, str] = _cells(trial) | {name: str(value) for name, value in trial.labels.items()}
    if row["state"] in _OPEN_STATES:  # it may have ended since
        cells = {name: cells[name] for name in ("hash", *trial.labels)}
    for name, cell in cells.items():
        if not _same(row.get(name, ""), cell):
            return f"{name} {cell or 'missing'}, but {row.get(name) or 'missing'}"
    return ""


def _same(text: str, other: str) -> bool:
    if text == other:
        return True
    try:
        return float(text) == float(other)  # a storage may turn 1 into 1.0
    except ValueError:
        return text == other.encode("utf-8", "backslashreplace").decode()
