"""The papers' tables as data: one file per paper in ``printed/``, with every number as printed.

A paper has ``tables`` and ``rows``. A table names its columns by data set and metric; a row is a network with its
values in each table as one string, one per column (``"26.13 6.65"``, ``-`` where nothing is printed). Our own values
are counted (``paper_counts.py``) or read from runs (``paper_runs.py``), never written down.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.common.files import parse_document
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.references import open_genotype

_VALUE = re.compile(r"-|\d+(\.\d+)?\*?")

FlopsConvention = Literal["macs", "2 macs", "norms too"]
Data = Literal["cifar10", "cifar10+", "cifar100", "cifar100+", "imagenet", "coco"]
Metric = Literal[
    "error", "top-5 error", "accuracy", "top-5 accuracy", "AP.5", "AP.75", "AP", "memory", "time", "inference"
]

#: Prefix and suffix of each metric's values.
METRICS: dict[Metric, tuple[str, str]] = {
    "error": ("", ""),  # top-1, in percent
    "top-5 error": ("top-5 ", ""),
    "accuracy": ("accuracy ", ""),
    "top-5 accuracy": ("top-5 accuracy ", ""),
    "AP.5": ("AP.5 ", ""),
    "AP.75": ("AP.75 ", ""),
    "AP": ("AP ", ""),
    "memory": ("memory ", " MB"),  # per GPU, in training
    "time": ("time ", " s"),  # per iteration, in training
    "inference": ("inference ", " ms"),
}


class DataSet(NamedTuple):
    """A data set of the papers.

    Attributes:
        label: Its name.
        input: Shape of an image, (channels, height, width); None if it is not a classification data set.
        classes: Number of classes.
        test: Number of test images.
    """

    label: str
    input: tuple[int, int, int] | None = None
    classes: int = 0
    test: int = 0


#: The data sets of the papers' columns; the ``+`` after a column's name stands for augmented training images.
DATA_SETS = {
    "cifar10": DataSet("CIFAR-10", (3, 32, 32), 10, 10_000),
    "cifar100": DataSet("CIFAR-100", (3, 32, 32), 100, 10_000),
    "imagenet": DataSet("ImageNet", (3, 224, 224), 1000, 50_000),
    "coco": DataSet("COCO"),
}


class Result(NamedTuple):
    """One printed value.

    Attributes:
        table: Its table.
        data: The data set.
        metric: The metric.
        value: The value as printed, including a star.
    """

    table: str
    data: Data
    metric: Metric
    value: str


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Table(_Part):
    """One table of results of a paper.

    Attributes:
        about: Its subject.
        columns: The metrics of each data set, in the order of a row's values.
    """

    about: str
    columns: dict[Data, tuple[Metric, ...]] = Field(min_length=1)

    def cells(self) -> list[tuple[Data, Metric]]:
        """The columns as pairs of data set and metric."""
        return [(data, metric) for data, metrics in self.columns.items() for metric in metrics]


class Reading(_Part):
    """An alternative reading of a row's network, where the paper is ambiguous or another author prints other numbers.

    Attributes:
        about: The difference.
        point: A point that replaces the row's.
        with_: Values for names of the point's genotype that replace the row's.
        range: First and last value of a name for which the printed numbers are obtained.
        classes: Number of classes, if other than the point's.
        without_norms: Whether parameters of norms are excluded.
        params: Number of parameters that another author prints for this reading.
        by: That author.
    """

    about: str
    point: str | None = None
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    range: dict[str, tuple[float, float]] = Field(default_factory=dict, max_length=1)
    classes: int | None = None
    without_norms: bool = False
    params: str | None = None
    by: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.params is None) != (not self.by):
            raise ValueError(f"'{self.about}': params and by must be specified together")
        return self


class Row(_Part):
    """A network of a paper's tables.

    Attributes:
        network: Its name in the paper, made unique if several rows share it.
        point: The corresponding point, ``space/point``; None if the network is not reproduced.
        with_: Values for names of the point's genotype, if the row is not a point itself.
        classes: Number of classes of the counted network, if other than the point's.
        params: Number of parameters as printed, such as ``0.76M``; a whole number is exact.
        flops: Number of operations as printed, by the paper's convention.
        without_norms: Whether the paper excludes parameters of norms.
        cut: Numbers that the paper truncates instead of rounding.
        differs: The reason why our numbers differ from the printed ones, one of the paper's; empty if they agree.
        note: Further remarks.
        printed: The row's values by table.
        readings: Alternative readings.
    """

    network: str
    point: str | None = None
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    classes: int | None = None
    params: str | None = None
    flops: str | None = None
    without_norms: bool = False
    cut: tuple[Literal["params", "flops"], ...] = ()
    differs: str = ""
    note: str = ""
    printed: dict[str, str] = Field(default_factory=dict)
    readings: tuple[Reading, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.point is None and (self.with_ or self.differs or self.readings):
            raise ValueError(f"'{self.network}': 'with', 'differs' and 'readings' require a point")
        return self

    def genotype(self) -> Genotype | None:
        """The network's genotype; None if there is no point.

        Raises:
            InputError: The point, or a name in ``with``, does not exist.
        """
        return None if self.point is None else _genotype(self.network, self.point, self.with_, self.classes)

    def genotype_of(self, reading: Reading, end: int = 0) -> Genotype:
        """The genotype of an alternative reading.

        Args:
            reading: One of this row's readings.
            end: For a reading with a range: 0 for its first value, 1 for its last.

        Raises:
            InputError: The point, or a name in ``with`` or ``range``, does not exist.
        """
        point = reading.point or self.point or ""
        values = {name: ends[end] for name, ends in reading.range.items()}
        return _genotype(self.network, point, reading.with_, reading.classes, values)


class Paper(_Part):
    """A paper's tables.

    Attributes:
        about: Authors, title and year.
        flops: Its convention for counting operations.
        tables: Its tables of results by name.
        reasons: Reasons for differences, by name.
        rows: Its rows in the order of the paper.
    """

    about: str
    flops: FlopsConvention = "macs"
    tables: dict[str, Table] = Field(default_factory=dict)
    reasons: dict[str, str] = Field(default_factory=dict)
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names: set[str] = set()
        for row in self.rows:
            if row.network in names:
                raise ValueError(f"duplicate row '{row.network}'")
            names.add(row.network)
            if row.differs and row.differs not in self.reasons:
                raise ValueError(
                    f"'{row.network}': unknown reason '{row.differs}'{did_you_mean(row.differs, self.reasons)}"
                )
            for name, text in row.printed.items():
                self._check_values(f"'{row.network}'", name, text)
        return self

    def _check_values(self, where: str, name: str, text: str) -> None:
        if name not in self.tables:
            raise ValueError(f"{where}: unknown table '{name}'{did_you_mean(name, self.tables)}")
        values, columns = text.split(), self.tables[name].cells()
        if len(values) != len(columns):
            raise ValueError(f"{where}: {name} has {len(columns)} columns, not {len(values)}")
        for value in values:
            if not _VALUE.fullmatch(value):
                raise ValueError(f"{where}: {name}: invalid value '{value}'; expected for example 26.13, 5.39* or -")
        if set(values) == {"-"}:
            raise ValueError(f"{where}: {name} has no values")

    def results(self, row: Row) -> list[Result]:
        """The printed results of a row, in the order of the tables."""
        return [
            Result(name, data, metric, value)
            for name, table in self.tables.items()
            if name in row.printed
            for (data, metric), value in zip(table.cells(), row.printed[name].split(), strict=True)
            if value != "-"
        ]


@lru_cache(maxsize=1)
def papers() -> Mapping[str, Paper]:
    """The papers by name; those without tables of results come last."""
    folder = importlib.resources.files("nas_agg.report").joinpath("printed")
    texts = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in folder.iterdir()}
    by_name = {name: read_paper(text, f"{name}.yaml") for name, text in sorted(texts.items())}
    return dict(sorted(by_name.items(), key=lambda item: not item[1].tables))


def read_paper(text: str, name: str) -> Paper:
    """Read a paper's YAML.

    Args:
        text: The text.
        name: Its name in error messages.

    Raises:
        InputError: It is not a valid paper; the message says where.
    """
    try:
        return Paper.model_validate(parse_document(text, name, "yaml"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{name}: {f'{place}: ' if place else ''}{first['msg']}") from None


def paper(name: str) -> Paper:
    """One paper's tables.

    Raises:
        InputError: There is no such paper.
    """
    if name not in papers():
        raise InputError(f"unknown paper '{name}'{did_you_mean(name, papers())}; choose from {', '.join(papers())}")
    return papers()[name]


def _genotype(
    where: str, point: str, with_: Mapping[str, Any], classes: int | None, values: Mapping[str, Any] | None = None
) -> Genotype:
    """A point's genotype with values for some of its names."""
    genotype = open_genotype(point)
    if with_ or values:
        text = dict(genotype.to_dict())
        let = dict(text.get("let") or {})
        for name in with_:
            if name not in let:
                raise InputError(f"{where}: {point} has no name '{name}'{did_you_mean(name, let)}")
        for name in values or {}:
            if name not in let and name not in with_.values():
                raise InputError(f"{where}: {point} has no name '{name}'{did_you_mean(name, let)}")
        genotype = Genotype.from_dict(text | {"let": let | dict(with_) | dict(values or {})})
    return genotype.with_task(classes=classes)
