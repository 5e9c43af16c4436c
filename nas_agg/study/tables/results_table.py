"""Tables of results: networks of a small space, trained once and for all, to compare searchers on in seconds.

A table is a CSV file, plain or gzipped, with a row a network. Its columns are told by options, or by comments ahead of
its header: ``# genes: arch`` (one column of digits, one digit an open name) or ``# genes: a, b, c`` (a column each),
``# value: accuracy``, ``# costs: params, macs``, ``# equal: canon`` (rows that are one network) and ``# curve: curve``
(a column of the results after each epoch, with blanks between them).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.search_space.domains import Choice
from nas_agg.search_space.encoding import Rows
from nas_agg.search_space.parameters import SearchVariables, Values
from nas_agg.search_space.space import Space

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.definition.objectives import Objectives

Cells = tuple[str, ...]  # as they are written

_FIELDS = ("genes", "value", "costs", "equal", "curve")


@dataclass(frozen=True)
class Row:
    """A network of a table, in the place of what others cost.

    Attributes:
        value: Its result.
        costs: Its figures.
        hash: Equal for equal networks.
        curve: The result after each epoch, where the table has them.
        found: Further figures by the names of their columns.
    """

    value: float
    costs: tuple[float, ...]
    hash: str
    curve: tuple[float, ...] = ()
    extra_metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """The first of its figures."""
        return int(self.costs[0]) if self.costs else 0

    @property
    def macs(self) -> int:
        """The last of its figures."""
        return int(self.costs[-1]) if self.costs else 0

    @property
    def activation_bytes(self) -> int:
        """What an image leaves for the backward pass."""
        if "activation_bytes" not in self.extra_metrics:
            raise InputError("activations: the table does not tell of them")
        return int(self.extra_metrics["activation_bytes"])


class ResultsTable(SearchVariables):
    """Open names of which a table has the results: a row for each point whose network was trained.

    Attributes:
        rows: The networks, by their genes.
        best: The best result.
    """

    rows: dict[bytes, Row]

    @property
    def best(self) -> float:
        """The best result."""
        return max(row.value for row in self.rows.values())

    @property
    def networks(self) -> int:
        """How many networks there are; several points may be one."""
        return len({row.hash for row in self.rows.values()})

    def row(self, values: Values) -> Row:
        """The network of a point.

        Raises:
            InputError: The table has none.
        """
        genes = [domain.index(values[name]) for name, domain in self.domains.items()]
        found = self.rows.get(np.array(genes).tobytes())
        if found is None:
            raise InputError("an unknown network: the table has no row of it")
        return found

    def has(self, rows: Rows) -> np.ndarray:
        """Which points, as rows of genes, have a row in the table."""
        return np.array([row.tobytes() in self.rows for row in np.ascontiguousarray(rows, np.int64)], bool)

    @cached_property
    def _logs(self) -> dict[bytes, np.ndarray]:
        spread = np.log1p([row.costs for row in self.rows.values()])
        return dict(zip(self.rows, spread, strict=True))

    def figures(self, rows: Rows) -> list[np.ndarray]:
        """The logarithms of the costs of some rows of genes, as one group."""
        none = np.zeros(len(next(iter(self._logs.values()))))
        return [np.stack([self._logs.get(row.tobytes(), none) for row in np.ascontiguousarray(rows, np.int64)])]


class Table(ResultsTable):
    """A table of results, searched as a space is.

    Args:
        path: The file.
        genes: The column of digits, or a column for each open name.
        value: The column of results, of which more is better.
        costs: Columns of figures that are known before training, such as params and MACs.
        equal: A column that is equal for equal networks.

    Attributes:
        name: The file's name.

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
        said = {"genes": genes, "value": value and [value], "costs": costs, "equal": equal and [equal]}
        names, rows = _rows(path, _content(path), {key: list(words) for key, words in said.items() if words})
        values = [sorted({text[place] for text, _ in rows}, key=_as_number) for place in range(len(names))]
        super().__init__({name: Choice(tuple(of)) for name, of in zip(names, values, strict=True)})
        places = [{text: index for index, text in enumerate(of)} for of in values]
        self.rows = _by_genes(path, places, rows)

    def genotype(self, values: Mapping[str, Any], input: Any = None, classes: Any = None) -> Values:
        """The point itself: a table's networks are not written out."""
        return self.validate(values)


class TabularSpace(ResultsTable, Space):
    """A space whose networks were trained before, all or a part of them: its file names a table of their results.

    Args:
        space: The space.

    Raises:
        InputError: It names none, or the file is not that table.
    """

    def __init__(self, space: Space):
        self.__dict__.update(space.__dict__)
        if space.table is None:
            raise InputError(f"{space.name}: no table goes with this space")
        path, digest = space.table
        content = _content(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"{path}: not the table that the space {space.name} names: another checksum")
        names, rows = _rows(path, content, {})
        if names != list(self.names):
            raise InputError(f"{path}: its genes are {', '.join(names)}, those of {space.name} {', '.join(self.names)}")
        places = [{str(domain.label(domain.at(i))): i for i in range(domain.size)} for domain in self.domains.values()]
        self.rows = _by_genes(path, places, rows)

    def network(self, genotype: Genotype) -> Row:
        """The row of a genotype of the space."""
        return self.row(self.values_of(genotype))

    def check_contains(self, start: Sequence[Values]) -> None:
        """Refuses points to start from that the table has no row of.

        Raises:
            InputError: There is such a point.
        """
        for place, values in enumerate(start, 1):
            try:
                self.row(values)
            except InputError as error:
                raise InputError(f"start: network {place}: {error}") from None

    def check_objectives(self, objectives: Objectives, paused: bool) -> None:
        """Refuses objectives that the table has no column of.

        Args:
            objectives: Of a search.
            paused: Whether trainings pause; of what they have then the table tells the accuracy alone.

        Raises:
            InputError: There is such an objective.
        """
        for objective in objectives:
            if objective.known_a_priori or objective.name == "accuracy":
                continue
            if not all(objective.attribute in row.extra_metrics for row in self.rows.values()):
                raise InputError(f"objective: the table of {self.name} does not tell of {objective.name}")
            if paused and objective.name == "loss":
                raise InputError(f"objective: the table of {self.name} tells of no loss at rungs; leave out the pruner")

    @cached_property
    def epochs(self) -> int:
        """Epochs of the trainings."""
        return max(1, *(len(row.curve) for row in self.rows.values()))


def _by_genes(path: Path, places: Sequence[Mapping[str, int]], rows: Sequence[tuple[Cells, Row]]) -> dict[bytes, Row]:
    found: dict[bytes, Row] = {}
    for text, row in rows:
        try:
            key = np.array([place[gene] for place, gene in zip(places, text, strict=True)]).tobytes()
        except KeyError as error:
            raise InputError(f"{path}: {error.args[0]} is no value of the space") from None
        if key in found:
            raise InputError(f"{path}: two rows are {'/'.join(text)}")
        found[key] = row
    return found


def _rows(path: Path, content: bytes, asked: dict[str, list[str]]) -> tuple[list[str], list[tuple[Cells, Row]]]:
    """The names of the genes, and each row with the texts of its genes."""
    said, lines = _lines(path, content)
    said |= asked
    table = csv.DictReader(lines)
    header = list(table.fieldnames or [])
    genes, costs = said.get("genes", []), said.get("costs", [])
    value, equal, curve = (next(iter(said.get(name, [])), None) for name in ("value", "equal", "curve"))
    if not genes or value is None:
        raise InputError(f"{path}: which columns are the genes and the value? say '# genes: ...' and '# value: ...'")
    own = [column for column in (*genes, value, *costs, equal, curve) if column]
    for column in own:
        if column not in header:
            hint = did_you_mean(column, header) or f"; there are {', '.join(header)}"
            raise InputError(f"{path}: no column {column!r}{hint}")
    others = [column for column in header if column not in own]
    rows: list[tuple[Cells, Row]] = []
    for number, row in enumerate(table, 1):
        try:
            text = tuple(row[genes[0]]) if len(genes) == 1 else tuple(row[gene] for gene in genes)
            figures = tuple(float(row[cost]) for cost in costs)
            epochs = tuple(float(word) for word in row[curve].split()) if curve else ()
            if not all(map(math.isfinite, (float(row[value]), *figures, *epochs))) or min(figures, default=0) < 0:
                raise ValueError
            name = str(row[equal]) if equal else "/".join(text)
        except (TypeError, ValueError, AttributeError):
            raise InputError(
                f"{path}: row {number}: not a number, or a cost below 0: {', '.join([value, *costs])}"
            ) from None
        read = {name: _number(row[name]) for name in others}
        found = {name: figure for name, figure in read.items() if figure is not None}
        rows.append((text, Row(float(row[value]), figures, name, epochs, found)))
    if not rows or not rows[0][0] or len({len(text) for text, _ in rows}) > 1:
        raise InputError(f"{path}: no rows, or rows of no genes or different numbers of them")
    return (genes if len(genes) > 1 else [f"{genes[0]}{place}" for place in range(len(rows[0][0]))]), rows


def _number(text: str | None) -> float | None:
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _lines(path: Path, content: bytes) -> tuple[dict[str, list[str]], list[str]]:
    """What a file's comments say, and its lines behind them."""
    try:
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
