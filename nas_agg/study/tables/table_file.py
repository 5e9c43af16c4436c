"""Reads the CSV file of a table of results.

The file is plain or gzipped, with one row per point. Comments ahead of its header, or options of the reader, say what
its columns are: ``# genes: arch`` (one column with one character per search variable) or ``# genes: a, b, c`` (one
column each), ``# value: accuracy``, ``# costs: params, macs``, ``# features: depth, paths`` (further numbers
that are known before training), ``# equal: canon`` (equal for equal networks) and ``# curve: curve`` (the results after
each epoch, separated by spaces).
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas_agg.common.bounded_reading import gunzip_bounded, read_bounded
from nas_agg.common.errors import InputError, did_you_mean, truncate

FIELDS = ("genes", "value", "costs", "features", "equal", "curve")

# Together they keep the memory below a gigabyte; NAS-Bench-101 has 423,624 networks, NAS-Bench-201 3 million values.
MAX_BYTES = 2**27
MAX_LINE = 1_000_000
MAX_ROWS = 500_000
MAX_VALUES = 5_000_000
MAX_VARIABLES = 1000

Genes = tuple[str, ...]  # the values of a row's search variables, as they are written


@dataclass(frozen=True, slots=True)
class Row:
    """A network of a table; it stands in for the cost of a network that is built.

    Attributes:
        value: Its result.
        costs: Its costs.
        hash: Equal for equal networks.
        curve: The result after each epoch, if the table has a curve.
        extra_metrics: The numbers in all other columns, by column.
        features: Further numbers that are known before training.
    """

    value: float
    costs: tuple[float, ...]
    hash: str
    curve: tuple[float, ...] = ()
    extra_metrics: Mapping[str, float] = field(default_factory=dict)
    features: tuple[float, ...] = ()

    @property
    def params(self) -> int:
        """The first cost."""
        return int(self.costs[0]) if self.costs else 0

    @property
    def macs(self) -> int:
        """The last cost."""
        return int(self.costs[-1]) if self.costs else 0

    @property
    def activation_bytes(self) -> int:
        """Bytes per image that are kept for backward."""
        if "activation_bytes" not in self.extra_metrics:
            raise InputError("activations: the table has no such column")
        return int(self.extra_metrics["activation_bytes"])


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table.

    Attributes:
        genes: The columns of the search variables; a single one has one character per search variable.
        value: The column of the result, of which more is better.
        costs: Columns of costs that are known before training.
        features: Columns of further numbers that are known before training, which the predictor learns from.
        equal: The column that is equal for equal networks, if there is one.
        curve: The column of the results after each epoch, if there is one.
        others: All other columns.
    """

    genes: tuple[str, ...]
    value: str
    costs: tuple[str, ...]
    features: tuple[str, ...]
    equal: str | None
    curve: str | None
    others: tuple[str, ...]

    @classmethod
    def from_fields(cls, fields: Mapping[str, Sequence[str]], header: Sequence[str]) -> TableSchema:
        """The schema that comments and options specify.

        Args:
            fields: The columns of each of ``FIELDS``.
            header: All columns of the table.

        Raises:
            InputError: The genes or the value are not specified, or a column does not exist.
        """
        genes, costs, features = (tuple(fields.get(name, ())) for name in ("genes", "costs", "features"))
        value, equal, curve = (next(iter(fields.get(name, ())), None) for name in ("value", "equal", "curve"))
        if not genes or value is None:
            raise InputError("the columns of genes and value are unknown; add '# genes: ...' and '# value: ...'")
        named = [column for column in (*genes, value, *costs, *features, equal, curve) if column]
        for column in named:
            if column not in header:
                hint = did_you_mean(column, header) or f"; there are {truncate(', '.join(header[:20]))}"
                raise InputError(f"no column {truncate(column)!r}{hint}")
        return cls(
            genes, value, costs, features, equal, curve, tuple(column for column in header if column not in named)
        )

    def parse_row(self, cells: Mapping[str, str | None]) -> tuple[Genes, Row]:
        """The genes and the network of a row.

        Raises:
            InputError: A cell is missing, additional or not a finite number, or a cost is negative.
        """
        if None in cells:
            raise InputError("more cells than columns")
        texts = [_text(cells, column) for column in self.genes]
        genes = tuple(texts[0]) if len(texts) == 1 else tuple(texts)
        costs = tuple(_finite(cells, column) for column in self.costs)
        if negative := [column for column, cost in zip(self.costs, costs, strict=True) if cost < 0]:
            raise InputError(f"{negative[0]}: a cost cannot be below 0")
        row = Row(
            value=_finite(cells, self.value),
            costs=costs,
            features=tuple(_finite(cells, column) for column in self.features),
            hash=_text(cells, self.equal) if self.equal else "/".join(genes),
            curve=self._curve(cells),
            extra_metrics={column: number for column in self.others if (number := _number(cells[column])) is not None},
        )
        return genes, row

    def _curve(self, cells: Mapping[str, str | None]) -> tuple[float, ...]:
        if self.curve is None:
            return ()
        numbers = [_number(word) for word in _text(cells, self.curve).split()]
        if None in numbers:
            raise InputError(f"{self.curve}: not finite numbers separated by spaces")
        return tuple(number for number in numbers if number is not None)


def read_table_file(path: Path) -> bytes:
    """Read the content of a table's file, compressed or not.

    Raises:
        InputError: The file cannot be read, or is too large.
    """
    return read_bounded(path, MAX_BYTES)


def parse_table(
    path: Path, content: bytes, options: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[tuple[Genes, Row]]]:
    """Parse a table.

    Args:
        path: The file's name; a table is gzipped if this ends in ``.gz``.
        content: The file's contents.
        options: Columns by field, in place of those that the comments name.

    Returns:
        The names of the search variables, and the genes and the network of each row.

    Raises:
        InputError: The file is not such a table, or exceeds a limit.
    """
    if path.suffix == ".gz":
        content = gunzip_bounded(content, path, MAX_BYTES)
    lines = _bounded_lines(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=""))
    try:
        fields, first = _read_comments(lines)
        table = csv.DictReader(itertools.chain(first, lines), strict=True)
        schema = TableSchema.from_fields({**fields, **options}, list(table.fieldnames or ()))
        rows = _parse_rows(schema, table)
    except (InputError, csv.Error, UnicodeDecodeError) as error:
        problem = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(f"{path}: {problem}") from None
    if len(schema.genes) > 1:
        return list(schema.genes), rows
    return [f"{schema.genes[0]}{position}" for position in range(len(rows[0][0]))], rows


def _bounded_lines(file: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if len(line) > MAX_LINE:
            raise InputError(f"line {number} is longer than {MAX_LINE:,} characters")
        yield line


def _parse_rows(schema: TableSchema, table: Iterable[Mapping[str, str | None]]) -> list[tuple[Genes, Row]]:
    rows: list[tuple[Genes, Row]] = []
    values = 0
    for number, cells in enumerate(table, 1):
        try:
            genes, row = schema.parse_row(cells)
        except InputError as error:
            raise InputError(f"row {number}: {error}") from None
        if not genes or (rows and len(genes) != len(rows[0][0])):
            raise InputError(f"row {number}: {schema.genes[0]}: no genes, or not as many as in the rows before")
        values += len(cells) + len(genes) + len(row.curve)
        if len(genes) > MAX_VARIABLES or number > MAX_ROWS or values > MAX_VALUES:
            raise InputError(
                f"row {number}: a table may have at most {MAX_ROWS:,} rows, {MAX_VARIABLES:,} search variables and "
                f"{MAX_VALUES:,} values"
            )
        rows.append((genes, row))
    if not rows:
        raise InputError("the table has no rows")
    return rows


def _read_comments(lines: Iterator[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The fields in the leading comments, and the first line after them, if there is one."""
    fields: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("#"):
            return fields, [line]
        name, colon, text = line[1:].partition(":")
        if colon and name.strip() in FIELDS:
            fields[name.strip()] = [word.strip() for word in text.split(",")]
    return fields, []


def _text(cells: Mapping[str, str | None], column: str) -> str:
    text = cells[column]
    if text is None:
        raise InputError(f"{column}: missing")
    return text


def _finite(cells: Mapping[str, str | None], column: str) -> float:
    number = _number(cells[column])
    if number is None:
        raise InputError(f"{column}: {truncate(cells[column] or '')!r} is not a finite number")
    return number


def _number(text: str | None) -> float | None:
    """The finite number that a cell holds; None if it holds none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
