"""What the networks of the papers' rows count, beside what is printed, in each paper's own way of counting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from math import prod
from typing import Any

from pydantic import BaseModel, ConfigDict

from nas_agg.common.errors import InputError
from nas_agg.common.files import canonical_json
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.primitives import Norm
from nas_agg.language.genotype import Genotype
from nas_agg.report.papers import Paper, Reading, Row, Ways

_FIGURE = re.compile(r"(\d+(?:\.(\d+))?)([MG]?)")
_UNITS = {"": 1, "M": 10**6, "G": 10**9}

#: Ways of counting operations: of a cost, in units of 10**9.
FLOPS: dict[Ways, str] = {
    "macs": "multiply-adds",
    "2 macs": "2 * multiply-adds",
    "norms too": "(multiply-adds + 5 operations per output of a batch norm and its ReLU) / 2**30 * 10**9",
}


class Counted(BaseModel):
    """A row beside what its network counts.

    Attributes:
        row: The row.
        reason: Why it differs, where it does.
        params: Our parameters, in the row's way of counting; none: there is no network.
        flops: Our operations, in the paper's way of counting.
        params_agree, flops_agree: Whether they are the printed ones to the printed digits; None: nothing is printed.
    """

    model_config = ConfigDict(frozen=True)

    row: Row
    reason: str = ""
    params: int | None = None
    flops: int | None = None
    params_agree: bool | None = None
    flops_agree: bool | None = None

    @property
    def printed(self) -> bool:
        """Whether the paper prints a count."""
        return self.row.params is not None or self.row.flops is not None

    @property
    def agrees(self) -> bool:
        """Whether nothing that is printed is contradicted, and there is a network to say so."""
        return self.params is not None and self.params_agree is not False and self.flops_agree is not False

    @property
    def verdict(self) -> str:
        """What is to be said of the row: agreement or the reason why not, and the reading taken."""
        row = self.row
        if row.point is None:
            plain = "not reproduced"
        elif not self.printed:
            plain = "not printed"
        else:
            plain = "agrees" if self.agrees else "differs, for no known reason"
        said = [self.reason or plain] + [row.note] * bool(row.note) + [f"{row.classes} classes"] * bool(row.classes)
        said += ["norms not counted"] * row.without_norms
        said += [f"{' and '.join(row.cut)} cut, not rounded"] * bool(row.cut)
        said += [f"{name}: {v if isinstance(v, str) else canonical_json(v)}" for name, v in row.with_.items()]
        return "; ".join(said)


class CountedReading(BaseModel):
    """Another reading of a row beside what it counts.

    Attributes:
        row: The row.
        reading: The reading.
        params, flops: Our counts; of a range those of its two ends.
        agrees: Whether they are the printed ones; None: nothing is printed.
    """

    model_config = ConfigDict(frozen=True)

    row: Row
    reading: Reading
    params: tuple[int, ...]
    flops: tuple[int, ...]
    agrees: bool | None

    @property
    def about(self) -> str:
        """What is read otherwise, and the range of a name."""
        reading = self.reading
        ranges = [f"{name} from {first:g} to {last:g}" for name, (first, last) in reading.range.items()]
        return "; ".join([reading.about, *ranges])

    @property
    def verdict(self) -> str:
        """Whether the reading gives what is printed."""
        if self.agrees is None:
            return "not printed"
        by = f", printed by {self.reading.by}" * bool(self.reading.by)
        return f"{'agrees' if self.agrees else 'differs'}{by}"


def count(row: Row, of: Paper) -> Counted:
    """Counts the network of a row.

    Args:
        row: The row.
        of: The paper it stands in.

    Raises:
        InputError: The row's reading is not a network.
    """
    genotype = row.genotype()
    if genotype is None:
        return Counted(row=row)
    params, flops = _counts(genotype, of.flops, row.without_norms)
    return Counted(
        row=row,
        reason=of.reasons[row.differs] if row.differs else "",
        params=params,
        flops=flops,
        params_agree=_agrees(params, row.params, "params" in row.cut),
        flops_agree=_agrees(flops, row.flops, "flops" in row.cut),
    )


def count_readings(row: Row, of: Paper) -> list[CountedReading]:
    """Counts the other readings of a row.

    Raises:
        InputError: A reading is not a network.
    """
    found = []
    for reading in row.readings:
        ends = (0, 1) if reading.range else (0,)
        params, flops = zip(
            *[_counts(row.genotype_of(reading, end), of.flops, reading.without_norms) for end in ends], strict=True
        )
        agree = [_agrees(mine, reading.params or row.params, "params" in row.cut) for mine in params]
        if not reading.params:
            agree += [_agrees(mine, row.flops, "flops" in row.cut) for mine in flops]
        known = [yes for yes in agree if yes is not None]
        agrees = all(known) if known else None
        found.append(CountedReading(row=row, reading=reading, params=params, flops=flops, agrees=agrees))
    return found


def summary(counted: Sequence[Counted]) -> str:
    """How many rows agree, in a line."""
    printed = [row for row in counted if row.printed and row.params is not None]
    missing = sum(row.params is None for row in counted)
    text = f"{sum(row.agrees for row in printed)} of {len(printed)} counts agree"
    if missing:
        text += f"; {missing} {'network is' if missing == 1 else 'networks are'} not reproduced"
    return text


def as_printed(figure: int, like: str, cut: bool = False) -> str:
    """A figure with as many digits, and the unit, of a printed one.

    Args:
        figure: The figure.
        like: A figure as a paper prints it: ``0.76M``, ``2.73G``, ``7,978,856``.
        cut: Whether further digits are cut, not rounded.

    Raises:
        InputError: ``like`` is no figure.
    """
    match = _FIGURE.fullmatch(like.replace(",", ""))
    if match is None:
        raise InputError(f"'{like}' is not a figure such as 0.76M, 2.73G or 7,978,856")
    rounding = ROUND_DOWN if cut else ROUND_HALF_UP
    digits = Decimal(1).scaleb(-len(match[2] or ""))
    shown = (Decimal(figure) / _UNITS[match[3]]).quantize(digits, rounding)
    return f"{shown:,}{match[3]}" if "," in like else f"{shown}{match[3]}"


def _agrees(figure: int, printed: str | None, cut: bool) -> bool | None:
    return None if printed is None else as_printed(figure, printed, cut) == printed


def _counts(genotype: Genotype, way: Ways, without_norms: bool) -> tuple[int, int]:
    """Parameters and operations of a network."""
    cost = Cost(expand(genotype))
    norms = sum(op.params for op in cost.graph.ops if isinstance(op, Norm)) if without_norms else 0
    return cost.params - norms, _operations(cost, way)


def _operations(cost: Cost, way: Ways) -> int:
    if way == "2 macs":
        return cost.flops
    if way == "norms too":
        graph = cost.graph
        outputs = sum(prod(shape) for op, shape in zip(graph.ops, graph.shapes, strict=True) if isinstance(op, Norm))
        return round((cost.macs + 5 * outputs) / 2**30 * 10**9)
    return cost.macs


def as_dict(counted: Counted) -> dict[str, Any]:
    """A row and its counts as plain JSON values."""
    row = counted.row
    return {
        "network": row.network,
        "point": row.point,
        "with": row.with_,
        "classes": row.classes,
        "printed_params": row.params,
        "params": counted.params,
        "printed_flops": row.flops,
        "flops": counted.flops,
        "agrees": counted.agrees if counted.printed and counted.params is not None else None,
        "verdict": counted.verdict,
    }
