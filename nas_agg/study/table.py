"""Tables of results: all networks of a small space, trained once and for all, to compare searchers on in seconds.

A table is a CSV file, plain or gzipped, with a row a network. Its columns are told by options, or by comments ahead of
its header: ``# genes: arch`` (one column of digits, one digit an open name) or ``# genes: a, b, c`` (a column each),
``# value: accuracy``, ``# costs: params, macs`` and ``# equal: canon`` (rows that are one network).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas_agg.domains import Choice
from nas_agg.errors import InputError, did_you_mean
from nas_agg.open_names import OpenNames, Values
from nas_agg.study.genes import Rows

_FIELDS = ("genes", "value", "costs", "equal")


@dataclass(frozen=True)
class Row:
    """A network of a table, in the place of what others cost.

    Attributes:
        value: Its result.
        costs: Its figures.
        hash: Equal for equal networks.
    """

    value: float
    costs: tuple[float, ...]
    hash: str

    @property
    def params(self) -> int:
        """The first of its figures."""
        return int(self.costs[0]) if self.costs else 0

    @property
    def macs(self) -> int:
        """The last of its figures."""
        return int(self.costs[-1]) if self.costs else 0


class Table(OpenNames):
    """A table of results, searched as a space is.

    Args:
        path: The file.
        genes: The column of digits, or a column for each open name.
        value: The column of results, of which more is better.
        costs: Columns of figures that are known before training, such as params and MACs.
        equal: A column that is equal for equal networks.

    Attributes:
        name: The file's name.
        rows: The networks, by their genes.
        best: The best result.

    Raises:
        InputError: The file is no such table.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        genes: Sequence[str] | None = None,
        value: str | None = None,
        costs: Sequence[str] | None = None,
        equal: str | None = None,
    ):
        path = Path(path)
        self.name = path.name.partition(".")[0]
        said, lines = _read(path)
        found = csv.DictReader(lines)
        header = found.fieldnames or []
        genes = list(genes or said.get("genes", []))
        value = value or next(iter(said.get("value", [])), None)
        costs = list(costs or said.get("costs", []))
        equal = equal or next(iter(said.get("equal", [])), None)
        if not genes or value is None:
            raise InputError(
                f"{path}: which columns are the genes and the value? say '# genes: ...' and '# value: ...'"
            )
        for column in (*genes, value, *costs, *([equal] if equal else [])):
            if column not in header:
                hint = did_you_mean(column, header) or f"; there are {', '.join(header)}"
                raise InputError(f"{path}: no column {column!r}{hint}")
        parsed = []
        for number, row in enumerate(found, 1):
            try:
                text = tuple(row[genes[0]]) if len(genes) == 1 else tuple(row[gene] for gene in genes)
                figures = tuple(float(row[cost]) for cost in costs)
                if not all(map(math.isfinite, (float(row[value]), *figures))) or min(figures, default=0) < 0:
                    raise ValueError
                parsed.append((text, float(row[value]), figures, row[equal] if equal else "/".join(text)))
            except (TypeError, ValueError):
                raise InputError(
                    f"{path}: row {number}: not a number, or a cost below 0: {', '.join([value, *costs])}"
                ) from None
        if not parsed or not parsed[0][0] or len({len(text) for text, *_ in parsed}) > 1:
            raise InputError(f"{path}: no rows, or rows of no genes or different numbers of them")
        names = genes if len(genes) > 1 else [f"{genes[0]}{place}" for place in range(len(parsed[0][0]))]
        values = [sorted({text[place] for text, *_ in parsed}, key=_as_number) for place in range(len(names))]
        super().__init__({name: Choice(tuple(of)) for name, of in zip(names, values, strict=True)})
        places = [{text: index for index, text in enumerate(of)} for of in values]
        self.rows: dict[bytes, Row] = {}
        for text, result, figures, canon in parsed:
            row_key = np.array([place[gene] for place, gene in zip(places, text, strict=True)]).tobytes()
            if row_key in self.rows:
                raise InputError(f"{path}: two rows are {'/'.join(text)}")
            digest = hashlib.sha256(canon.encode()).hexdigest()
            self.rows[row_key] = Row(result, figures, digest)
        self.best = max(row.value for row in self.rows.values())
        spread = np.log1p([row.costs for row in self.rows.values()])
        self._figures = dict(zip(self.rows, spread, strict=True))

    def genotype(self, values: Mapping[str, Any], input: Any = None, classes: Any = None) -> Values:
        """The point itself: a table's networks are not written out."""
        return self.checked(values)

    def row(self, values: Values) -> Row:
        """The network of a point.

        Raises:
            InputError: The table has none.
        """
        genes = [self.domains[name].index(values[name]) for name in self.names]
        found = self.rows.get(np.array(genes).tobytes())
        if found is None:
            raise InputError("no network of the table")
        return found

    def figures(self, rows: Rows) -> list[np.ndarray]:
        """The logarithms of the costs of some rows of genes, as one group."""
        none = np.zeros(len(next(iter(self._figures.values()))))
        return [np.stack([self._figures.get(row.tobytes(), none) for row in np.ascontiguousarray(rows, np.int64)])]


def _read(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """What a file's comments say, and its lines behind them."""
    try:
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    said: dict[str, list[str]] = {}
    while lines and lines[0].startswith("#"):
        name, colon, text = lines.pop(0)[1:].partition(":")
        if colon and name.strip() in _FIELDS:
            said[name.strip()] = [word.strip() for word in text.split(",")]
    return said, lines


def _as_number(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
