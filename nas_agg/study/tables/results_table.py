"""Search spaces with a table of results: networks trained once, so that searchers can be compared in seconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.common.errors import InputError, truncate
from nas_agg.search_space.domains import Choice
from nas_agg.search_space.encoding import Rows, row_key
from nas_agg.search_space.parameters import SearchVariables, Values
from nas_agg.search_space.space import Space
from nas_agg.study.tables.table_file import Genes, Row, parse_table, read_table_file

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.definition.objectives import Objectives


class ResultsTable(SearchVariables):
    """Search variables with a table of results: one row for each point whose network was trained.

    Attributes:
        rows: The networks, by the keys of encoded points (`nas_agg.search_space.encoding.row_key`).
    """

    rows: dict[bytes, Row]

    @property
    def best(self) -> float:
        """The best result."""
        return max(row.value for row in self.rows.values())

    @property
    def network_count(self) -> int:
        """The number of networks; several points may be the same network."""
        return len({row.hash for row in self.rows.values()})

    def row(self, values: Values) -> Row:
        """The network of a point.

        Raises:
            InputError: The table has no row for it.
        """
        encoded = np.array([domain.index(values[name]) for name, domain in self.domains.items()])
        row = self.rows.get(row_key(encoded))
        if row is None:
            raise InputError("the table has no row for this network")
        return row

    def contains(self, points: Rows) -> np.ndarray:
        """Whether the table has a row for each of some encoded points, ``(points,)``."""
        return np.array([row_key(point) in self.rows for point in points], bool)

    @cached_property
    def _log_costs(self) -> dict[bytes, np.ndarray]:
        logs = np.log1p([row.costs for row in self.rows.values()])
        return dict(zip(self.rows, logs, strict=True))

    def cost_features(self, points: Rows) -> np.ndarray:
        """The logarithms of the costs of encoded points, ``(points, costs)``; 0 where the table has no row."""
        missing = np.zeros(len(next(iter(self._log_costs.values()))))
        return np.stack([self._log_costs.get(row_key(point), missing) for point in points])

    def row_features(self, points: Rows) -> np.ndarray:
        """The features in the table's columns, ``(points, features)``; 0 where the table has no row."""
        missing = (0.0,) * len(next(iter(self.rows.values())).features)
        rows = [self.rows.get(row_key(point)) for point in points]
        return np.array([missing if row is None else row.features for row in rows], float).reshape(
            len(points), len(missing)
        )


class Table(ResultsTable):
    """A table of results that is searched like a space; its search variables are those of the rows.

    Args:
        path: The file; see :mod:`nas_agg.study.tables.table_file`.
        genes: The columns of the search variables, or a single one with one character for each.
        value: The column of results, of which more is better.
        costs: Columns of costs that are known before training, such as params and MACs.
        equal: A column that is equal for equal networks.
        features: Columns of further numbers that are known before training.

    Attributes:
        name: The file's name without suffixes.

    Raises:
        InputError: The file is not such a table.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        genes: Sequence[str] | None = None,
        value: str | None = None,
        costs: Sequence[str] | None = None,
        equal: str | None = None,
        features: Sequence[str] | None = None,
    ):
        path = Path(path)
        self.name = path.name.partition(".")[0]
        options = {
            "genes": genes,
            "value": value and [value],
            "costs": costs,
            "equal": equal and [equal],
            "features": features,
        }
        given = {field: list(columns) for field, columns in options.items() if columns}
        names, rows = parse_table(path, read_table_file(path), given)
        choices = [sorted({genes[j] for genes, _ in rows}, key=_numbers_first) for j in range(len(names))]
        super().__init__({name: Choice(tuple(values)) for name, values in zip(names, choices, strict=True)})
        indices = [{value: index for index, value in enumerate(values)} for values in choices]
        self.rows = _rows_by_key(path, indices, rows)

    def genotype(self, values: Mapping[str, Any], input: Any = None, classes: Any = None) -> Values:
        """The point itself, as such a table has no genotypes."""
        return self.validate(values)


class TabularSpace(ResultsTable, Space):
    """A space whose file names a table of results of all or some of its networks.

    Args:
        space: The space.

    Raises:
        InputError: The space has no table, or the file is not that table.
    """

    def __init__(self, space: Space):
        self.__dict__.update(space.__dict__)
        if space.table is None:
            raise InputError(f"{space.name}: this space has no table")
        path, digest = space.table
        content = read_table_file(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"{path}: the checksum is not the one that the space {space.name} specifies")
        names, rows = parse_table(path, content, {})
        if names != list(self.names):
            raise InputError(f"{path}: its genes are {', '.join(names)}, those of {space.name} {', '.join(self.names)}")
        indices = [
            {str(domain.label(domain.at(index))): index for index in range(domain.size)}
            for domain in self.domains.values()
        ]
        self.rows = _rows_by_key(path, indices, rows)

    def network(self, genotype: Genotype) -> Row:
        """The row of a genotype of the space."""
        return self.row(self.values_of(genotype))

    def check_contains(self, start: Sequence[Values]) -> None:
        """Check that the table has a row for each initial point.

        Raises:
            InputError: It has none for one of them.
        """
        for number, values in enumerate(start, 1):
            try:
                self.row(values)
            except InputError as error:
                raise InputError(f"start: {self.describe(values, number)}: {error}") from None

    def check_objectives(self, objectives: Objectives, pauses: bool) -> None:
        """Check that the table has a column for each objective.

        Args:
            objectives: The objectives of a search.
            pauses: Whether trainings pause at rungs, where the table has the accuracy only.

        Raises:
            InputError: The table has no column for one of them.
        """
        for objective in objectives:
            if objective.known_a_priori or objective.name == "accuracy":
                continue
            if not all(objective.attribute in row.extra_metrics for row in self.rows.values()):
                raise InputError(f"objective: the table of {self.name} has no column for {objective.name}")
            if pauses and objective.name == "loss":
                raise InputError(f"objective: the table of {self.name} has no loss at rungs; leave out the pruner")

    @cached_property
    def epochs(self) -> int:
        """Epochs of the trainings."""
        return max(1, *(len(row.curve) for row in self.rows.values()))


def _rows_by_key(
    path: Path, indices: Sequence[Mapping[str, int]], rows: Sequence[tuple[Genes, Row]]
) -> dict[bytes, Row]:
    """The networks by the keys of their encoded points.

    Args:
        path: The file's name in error messages.
        indices: For each search variable the index of each of its values.
        rows: The rows of the table.
    """
    by_key: dict[bytes, Row] = {}
    for genes, row in rows:
        try:
            key = row_key(np.array([index[gene] for index, gene in zip(indices, genes, strict=True)]))
        except KeyError as error:
            raise InputError(f"{path}: {truncate(error.args[0])} is not a value of the space") from None
        if key in by_key:
            raise InputError(f"{path}: duplicate row {truncate('/'.join(genes))}")
        by_key[key] = row
    return by_key


def _numbers_first(text: str) -> tuple[int, float, str]:
    """A sort key: numbers by value, then all other texts."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
