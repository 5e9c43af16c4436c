"""What holds in a whole network, which decides how its parts are written."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.ir.layers import squeeze_kind
from nas_agg.expansion.trace import AggregateRun, GatherRun, Trace, UnitRun
from nas_agg.language.layers import SqueezeExcitation
from nas_agg.language.resolved import ResolvedWord


class Facts:
    """Facts of a network.

    Attributes:
        active: Steps that do something somewhere.
        squeezes: Kinds of squeeze-and-excitations.
        joined: Aggregates with a shortcut at some node; ``empty``: those without nodes somewhere.
        aligned: Whether all sources with a group norm have multiples of 32 channels.
    """

    def __init__(self, trace: Trace):
        self.trace = trace
        self.active: set[Any] = set()
        self.squeezes: set[tuple[str, str, bool]] = set()
        self.joined: set[Any] = set()
        self.empty: set[Any] = set()
        self.aligned = True
        self.unit(trace.root)

    @property
    def single_squeeze(self) -> bool:
        """Whether all squeeze-and-excitations have the same activations, and squeeze channels."""
        return len(self.squeezes) == 1 and not next(iter(self.squeezes))[2]

    def unit(self, run: UnitRun) -> None:
        for step in run.steps:
            if step.out != step.x:
                self.active.add(step.step)
            if isinstance(step.step, ResolvedWord) and step.step.kind is SqueezeExcitation:
                self.squeezes.add(squeeze_kind(step))
            if isinstance(step.run, AggregateRun):
                self.aggregate(step.run)
            elif step.run is not None:
                self.unit(step.run)

    def aggregate(self, run: AggregateRun) -> None:
        if not run.n:
            self.empty.add(run.aggregate)
        for node in run.nodes:
            self.unit(node.unit)
            self.gather(node.reads)
            if node.shortcut is not None:
                self.gather(node.shortcut)
                if node.shortcut.sources:
                    self.joined.add(run.aggregate)
        assert run.output is not None
        self.gather(run.output)

    def gather(self, run: GatherRun) -> None:
        if run.gather.norm == "gn":
            self.aligned = self.aligned and all(self.trace.shape(tensor)[0] % 32 == 0 for _, tensor in run.sources)
        for unit in (*run.matches.values(), *run.eaches.values()):
            self.unit(unit)
