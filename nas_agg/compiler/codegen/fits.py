"""Aggregates whose input is made to fit their nodes' features, where it is gathered beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_agg.compiler.codegen.classes import Class, Classes
from nas_agg.compiler.codegen.gather_facts import Role
from nas_agg.compiler.codegen.numbers import Unsaid, same
from nas_agg.expansion.trace import AggregateRun, UnitRun

if TYPE_CHECKING:
    from nas_agg.compiler.codegen.aggregates import AggregateText


class Fits:
    """Writes what node 2, which reads the input first, and what leaves have for that."""

    text: AggregateText
    runs: list[AggregateRun]
    classes: Classes
    reads: Role
    shortcut: Role
    output: Role
    init: list[str]
    width: str
    fit: Class | None

    def chained(self, role: Role) -> bool:
        raise NotImplementedError

    def fitting(self) -> Class | None:
        """The class of the unit that makes the input fit, or None if nothing goes through one.

        Raises:
            Unsaid: If anything else does.
        """
        if self.shortcut.matched and not self.chained(self.shortcut):
            raise Unsaid
        if not (self.output.matched or (self.reads.matched and self.output.kind == "pattern")):
            return None
        found: list[UnitRun] = []
        for run in self.runs:
            channels = [self.classes.channels(feature) for feature in run.features]
            assert run.output is not None
            gathers = [*[node.reads for node in run.nodes], run.output]
            if run.n < 2 or not same(channels[1:]) or gathers[0].result != run.x or self.shortcut.all:
                raise Unsaid
            for k, one in enumerate(gathers):
                here = k == 1 or (k == run.n and self.output.matched)
                if list(one.matches) != [0] * (here and channels[0] != channels[1]):
                    raise Unsaid
                found += one.matches.values()
        return self.one_class(found)

    def one_class(self, found: list[UnitRun]) -> Class:
        made = self.classes.of[id(found[0])]
        if any(self.classes.of[id(run)] is not made for run in found) or made.gives or made.takes:
            raise Unsaid
        return self.text.writer.written(made)

    def fitting_parts(self) -> list[str]:
        """The lines behind the nodes' making."""
        assert self.fit is not None
        runs = self.fit.runs
        if self.text.values(self.width) != [self.classes.channels(run.features[-1]) for run in self.runs]:
            raise Unsaid
        wide = [self.classes.channels(run.x) != self.classes.channels(run.features[-1]) for run in self.runs]
        fits = [not run.nodes[1].reads.matches for run in self.runs]

        def said(name: str) -> str:
            values = [run.scope.get(name) for run in runs]
            if name == "w":
                return self.width
            if None not in values and same(values):
                return str(values[0])
            raise Unsaid

        call = self.text.writer.arguments(self.fit, "in_", said)
        if any(fits):
            if wide != [not fit for fit in fits]:
                raise Unsaid
            call = f"*[{call}] if in_ != {self.width} else []"
        match = f"nn.Sequential({call})"
        weights = [line for line in self.init if line.startswith("self.output = ")]
        reads = f'self[1].reads["match"] = {match}' if self.reads.prepared else f'self[1]["reads"] = {_dict(match)}'
        if not self.output.matched:
            return [reads]
        return [reads, f'self.output["match"] = {match}' if weights else f"self.output = {_dict(match)}"]

    def fitted_lines(self, norm: str | None) -> tuple[list[str], list[str]]:
        """The lines ahead of the loop, whose nodes are all but the first, and those behind it."""
        ahead = ["features = [x, self[0].unit(x)]"]
        if norm is None:
            behind = ["features[0] = self.output.match(x)"]
            ahead = ["y = self[0].unit(x)", "features = [self[1].reads.match(x), y]"]
        else:
            behind = ["fit = self.output.match(features[0])", f"sources[0] = {norm.replace('{x}', 'fit')}"]
            ahead += ["fit = self[1].reads.match(x)", f"sources = [{norm.replace('{x}', 'fit')}]"]
        return ahead, behind if self.output.matched else []


def _dict(match: str) -> str:
    return f'nn.ModuleDict({{"match": {match}}})'
