"""Pre-activations that leave or enter a part beside its tensors, for shortcuts that read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas_agg.compiler.codegen.ir.tree import NotExpressible
from nas_agg.expansion.trace import AggregateRun, GatherRun, StepRun, Trace, UnitRun
from nas_agg.language import layers
from nas_agg.language.resolved import ResolvedWord

_SKIPPED = (layers.NormLayer, layers.GroupNorm, layers.Activation)


class PreActivations:
    """The units and aggregates of a network that give or take pre-activations.

    Attributes:
        gives: Those that return the pre-activation of their output.
        takes: Aggregates that take that of their input.
    """

    def __init__(self, trace: Trace):
        self.trace = trace
        self.gives: set[Any] = set()
        self.takes: set[Any] = set()
        self.propagate()

    def propagate(self) -> None:
        """Mark what the marked ones need."""
        size = -1
        while size != len(self.gives) + len(self.takes):
            size = len(self.gives) + len(self.takes)
            self.unit(self.trace.root)

    def unit(self, run: UnitRun) -> None:
        for k, step in enumerate(run.steps):
            if isinstance(step.run, UnitRun):
                self.unit(step.run)
            elif step.run is not None:
                self.aggregate(step.run)
                if step.run.aggregate in self.takes:
                    self.origin(run.steps[:k])
        if run.unit in self.gives:
            self.origin(run.steps)

    def origin(self, steps: list[StepRun]) -> None:
        """Mark what makes the last of these steps' pre-activation."""
        for step in reversed(steps):
            if step.out == step.x or (isinstance(step.step, ResolvedWord) and step.step.kind in _SKIPPED):
                continue
            if self.trace.tape.pre_activation(step.out) != step.out:
                if step.run is None:
                    raise NotExpressible  # of a concat or of a slice
                self.gives.add(step.run.unit if isinstance(step.run, UnitRun) else step.run.aggregate)
            return

    def aggregate(self, run: AggregateRun) -> None:
        for node in run.nodes:
            self.unit(node.unit)
        for gather in _gathers(run):
            if gather.gather.raw:
                for source, tensor in gather.sources:
                    if source and tensor != run.features[source]:
                        self.gives.add(run.nodes[source - 1].unit.unit)
                    elif not source and tensor != run.x:
                        self.takes.add(run.aggregate)
        if run.aggregate in self.gives and run.output is not None:
            for source in run.output.selected:
                feature = run.features[source]
                if source and self.trace.tape.pre_activation(feature) != feature:
                    self.gives.add(run.nodes[source - 1].unit.unit)


def _gathers(run: AggregateRun) -> Iterator[GatherRun]:
    for node in run.nodes:
        yield from (gather for gather in (node.reads, node.shortcut) if gather is not None)
    if run.output is not None:
        yield run.output
