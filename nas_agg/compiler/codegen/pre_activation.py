"""Who hands on raw forms: the value ahead of the norms and activations that end a feature.

Where a gather is `raw`, the units whose features it takes give two values, and so on back to where the raw form is.
"""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.classes import Class, Classes
from nas_agg.compiler.codegen.gather_facts import stateful
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.expansion.trace import AggregateRun
from nas_agg.language import layers
from nas_agg.language.resolved import Aggregate, ResolvedWord, Unit

_TRANSPARENT = (layers.NormLayer, layers.GroupNorm, layers.Activation)


class Raws:
    """Marks the classes of a network that give or take raw forms.

    Args:
        classes: Of the network.

    Raises:
        NotExpressible: If a raw form is somewhere that two values do not reach.
    """

    def __init__(self, classes: Classes):
        self.classes = classes
        self.by_id = {id(made): made for made in [classes.root, *classes.found.values()]}
        for made in classes.found.values():
            if isinstance(made.part, Aggregate) and self.wanted(made):
                self.take(made)
                for run in made.runs:
                    for node in run.nodes:
                        self.give(classes.of[id(node.unit)])

    def wanted(self, made: Class) -> bool:
        """Whether an aggregate's shortcut takes raw forms that are not the features themselves."""
        gather = made.part.shortcut
        if gather is None or not gather.raw:
            return False
        found = [(run, node.shortcut) for run in made.runs for node in run.nodes if node.shortcut]
        return any(tensor != run.features[source] for run, one in found for source, tensor in one.sources)

    def give(self, made: Class) -> None:
        """A class whose forward gives its output and the output's raw form."""
        if made.gives:
            return
        made.gives = True
        if isinstance(made.part, Unit):
            self.before(made, len(made.part.steps))
            return
        for run in made.runs:
            self.give_nodes(made, run)

    def give_nodes(self, made: Class, run: AggregateRun) -> None:
        output = run.output
        assert output is not None
        if not run.nodes or (len(output.asked) > 1 and output.gather.operator.word != "concat"):
            raise NotExpressible
        if output.result != run.features[-1] and (stateful(output.gather) or output.matches or output.gather.raw):
            raise NotExpressible  # what leaves is made of features that were changed
        if 0 in output.asked:
            self.take(made)
        for node in run.nodes:
            self.give(self.classes.of[id(node.unit)])

    def before(self, made: Class, k: int) -> None:
        """The raw form of what stands ahead of step k of a unit."""
        steps = [step for _, step in made.part.steps]
        j = k - 1
        while j >= 0 and isinstance(steps[j], ResolvedWord) and issubclass(steps[j].kind, _TRANSPARENT):
            j -= 1
        made.raw_at.add(j)
        if j < 0:
            self.take(made)
        elif self.own(made, j):
            pass
        elif isinstance(steps[j], (Unit, Aggregate)):
            for run in made.runs:
                self.give(self.classes.of[id(run.steps[j].run)])
        else:
            raise NotExpressible  # a part of a raw form, or raw forms put together

    def own(self, made: Class, j: int) -> bool:
        """Whether what stands behind step j is its own raw form at every use."""
        outs = [run.steps[j].out for run in made.runs]
        return all(self.classes.traced.tape.pre_activation(out) == out for out in outs)

    def take(self, made: Class) -> None:
        """A class whose forward takes the raw form of its input."""
        if made.takes:
            return
        made.takes = True
        for site in made.sites:
            around: Any = self.by_id.get(site[0]) if site else None
            if around is None or not isinstance(around.part, Unit):
                raise NotExpressible
            self.before(around, site[1])
