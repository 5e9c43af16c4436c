"""The papers' own tables, row by row, beside what the points of the spaces count.

What a paper prints stands in one file, ``printed.yaml``; what is beside it is counted when it is asked for. A row may
take another reading of a network: other text for names of its genotype (``with``), another number of classes, or
another way of counting.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import lru_cache
from math import prod
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nas_agg.costs import Cost
from nas_agg.errors import InputError, did_you_mean
from nas_agg.expansion import expand
from nas_agg.files import canonical, parse
from nas_agg.genotype import Genotype
from nas_agg.primitives import Norm
from nas_agg.sources import open_genotype

_FIGURE = re.compile(r"(\d+(?:\.(\d+))?)([MG]?)")
_UNITS = {"": 1, "M": 10**6, "G": 10**9}

#: Ways of counting operations: of a cost, in units of 10**9.
FLOPS: dict[str, str] = {
    "macs": "multiply-adds",
    "2 macs": "2 * multiply-adds",
    "norms too": "(multiply-adds + 5 operations per output of a batch norm and its ReLU) / 2**30 * 10**9",
}


#: The columns of a row; those of numbers are 2 to 5.
COLUMNS = ("network", "point", "params", "ours", "FLOPs", "ours", "verdict")


class Row(BaseModel):
    """One row of a paper's table.

    Attributes:
        network: What the paper calls it.
        point: The point that it is, ``space/point``; none: it is not reproduced.
        with_: Other text for names of the point's genotype: another reading of the paper.
        classes: Other classes than the point's.
        params: The parameters as printed, such as ``0.76M``; a whole number is exact.
        flops: The operations as printed, in the paper's own counting.
        without_norms: Whether the paper leaves the parameters of norms out.
        cut: Which figures the paper cuts to its digits instead of rounding them.
        by: Who prints it, where that is not the paper.
        differs: Why our figures are not the printed ones, one of the paper's reasons; empty: they are.
        note: What else is to be said of the row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    network: str
    point: str | None = None
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    classes: int | None = None
    params: str | None = None
    flops: str | None = None
    without_norms: bool = False
    cut: tuple[Literal["params", "flops"], ...] = ()
    by: str = ""
    differs: str = ""
    note: str = ""

    def genotype(self) -> Genotype | None:
        """The genotype of this row's reading, or None where there is none.

        Raises:
            InputError: The point, or a name in ``with``, does not exist.
        """
        if self.point is None:
            return None
        genotype = open_genotype(self.point)
        if self.with_:
            text = dict(genotype.text())
            let = dict(text.get("let") or {})
            for name in self.with_:
                if name not in let:
                    raise InputError(f"{self.network}: {self.point} has no name '{name}'{did_you_mean(name, let)}")
            genotype = Genotype.read(text | {"let": let | self.with_})
        return genotype.with_task(classes=self.classes)


class Paper(BaseModel):
    """A paper's rows.

    Attributes:
        about: The paper.
        flops: How it counts operations: a key of `FLOPS`.
        reasons: Why a row may differ, by name.
        rows: Its rows, in its order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    flops: Literal["macs", "2 macs", "norms too"] = "macs"
    reasons: dict[str, str] = {}
    rows: tuple[Row, ...]


class Counted(BaseModel):
    """A row beside what its network counts.

    Attributes:
        row: The row.
        reason: Why it differs, where it does.
        params: Our parameters, in the row's way of counting.
        flops: Our operations, in the paper's way of counting.
        params_agree, flops_agree: Whether they are the printed ones to the printed digits; None: nothing is printed.
    """

    model_config = ConfigDict(frozen=True)

    row: Row
    reason: str
    params: int | None
    flops: int | None
    params_agree: bool | None
    flops_agree: bool | None

    @property
    def printed(self) -> bool:
        """Whether the paper, or whoever is named, prints a figure."""
        return self.row.params is not None or self.row.flops is not None

    @property
    def agrees(self) -> bool:
        """Whether nothing that is printed is contradicted, and there is a network to say so."""
        return self.params is not None and self.params_agree is not False and self.flops_agree is not False

    @property
    def verdict(self) -> str:
        """What is to be said of the row: agreement or the reason why not, and the reading taken."""
        plain = "not printed" if not self.printed else "agrees" if self.agrees else "differs, and nobody knows why"
        said = [self.reason or plain]
        said += [f"printed by {self.row.by}"] * bool(self.row.by) + [self.row.note] * bool(self.row.note)
        said += [f"{self.row.classes} classes"] * bool(self.row.classes)
        said += ["norms not counted"] * self.row.without_norms + [
            f"{' and '.join(self.row.cut)} cut, not rounded"
        ] * bool(self.row.cut)
        said += [f"{name}: {v if isinstance(v, str) else canonical(v)}" for name, v in self.row.with_.items()]
        return "; ".join(said)

    def cells(self) -> list[str]:
        """The row as people read it; see `COLUMNS`."""
        row = self.row
        params = "-" if self.params is None else f"{self.params:,}"
        flops = "-" if self.flops is None else as_printed(self.flops, row.flops or "0.000G", "flops" in row.cut)
        return [row.network, row.point or "-", row.params or "-", params, row.flops or "-", flops, self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        row = self.row
        return {
            "network": row.network,
            "point": row.point,
            "with": row.with_,
            "classes": row.classes,
            "printed_params": row.params,
            "params": self.params,
            "printed_flops": row.flops,
            "flops": self.flops,
            "agrees": self.agrees if self.printed else None,
            "verdict": self.verdict,
        }


@lru_cache(maxsize=1)
def papers() -> Mapping[str, Paper]:
    """The papers whose rows are kept, by name."""
    text = importlib.resources.files("nas_agg.report").joinpath("printed.yaml").read_text(encoding="utf-8")
    return {name: Paper.model_validate(paper) for name, paper in parse(text, "printed.yaml").items()}


def paper(name: str) -> Paper:
    """The rows of one paper.

    Raises:
        InputError: There is none of that name.
    """
    if name not in papers():
        raise InputError(f"no paper '{name}'{did_you_mean(name, papers())}; there are {', '.join(papers())}")
    return papers()[name]


def count(row: Row, of: Paper) -> Counted:
    """Counts the network of a row.

    Args:
        row: The row.
        of: The paper it stands in.

    Raises:
        InputError: The row's reading is not a network.
    """
    genotype, reason = row.genotype(), of.reasons[row.differs] if row.differs else ""
    if genotype is None:
        return Counted(row=row, reason=reason, params=None, flops=None, params_agree=None, flops_agree=None)
    cost = Cost(expand(genotype))
    params = cost.params - (_norms(cost) if row.without_norms else 0)
    operations = _operations(cost, of.flops)
    return Counted(
        row=row,
        reason=reason,
        params=params,
        flops=operations,
        params_agree=None if row.params is None else as_printed(params, row.params, "params" in row.cut) == row.params,
        flops_agree=None if row.flops is None else as_printed(operations, row.flops, "flops" in row.cut) == row.flops,
    )


def markdown(of: Paper) -> str:
    """The rows of a paper as a table in Markdown."""
    lines = [f"## {of.about}", "", f"FLOPs are {FLOPS[of.flops]}.", ""]
    rows = [COLUMNS, ["---"] * 2 + ["---:"] * 4 + ["---"], *[count(row, of).cells() for row in of.rows]]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_printed(figure: int, like: str, cut: bool = False) -> str:
    """A figure with as many digits, and the unit, of a printed one.

    Args:
        figure: The figure.
        like: A figure as a paper prints it: ``0.76M``, ``2.73G``, ``7,978,856``.
        cut: Whether further digits are cut, not rounded.
    """
    match = _FIGURE.fullmatch(like.replace(",", ""))
    if match is None:
        raise InputError(f"'{like}' is not a figure such as 0.76M, 2.73G or 7,978,856")
    rounding = ROUND_DOWN if cut else ROUND_HALF_UP
    digits = Decimal(1).scaleb(-len(match[2] or ""))
    shown = (Decimal(figure) / _UNITS[match[3]]).quantize(digits, rounding)
    return f"{shown:,}{match[3]}" if "," in like else f"{shown}{match[3]}"


def _norms(cost: Cost) -> int:
    return sum(op.params for op in cost.graph.ops if isinstance(op, Norm))


def _operations(cost: Cost, way: str) -> int:
    if way == "2 macs":
        return cost.flops
    if way == "norms too":
        graph = cost.graph
        outputs = sum(prod(shape) for op, shape in zip(graph.ops, graph.shapes, strict=True) if isinstance(op, Norm))
        return round((cost.macs + 5 * outputs) / 2**30 * 10**9)
    return cost.macs
