"""Classes that pass on pre-activations: the value before the norms and activations that end a feature.

Where a gather is `raw`, the units whose features it takes return two values, and so do the classes inside them, down to
the pre-activation.
"""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.classes import Classes, EmittedClass
from nas_agg.compiler.codegen.gather_facts import stateful
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.expansion.trace import AggregateRun
from nas_agg.language import layers
from nas_agg.language.resolved import Aggregate, ResolvedWord, Unit

_TRANSPARENT = (layers.NormLayer, layers.GroupNorm, layers.Activation)


class PreActivations:
    """Marks the classes of a network that return or take pre-activations.

    Args:
        classes: The classes of the network.

    Raises:
        NotExpressible: A pre-activation cannot be passed on as a second value.
    """

    def __init__(self, classes: Classes):
        self.classes = classes
        self.by_id = {id(code): code for code in [classes.root, *classes.by_key.values()]}
        for code in classes.by_key.values():
            if isinstance(code.part, Aggregate) and self.needs_pre_activations(code):
                self.mark_taking(code)
                for run in code.runs:
                    for node in run.nodes:
                        self.mark_returning(classes.by_run[id(node.unit)])

    def needs_pre_activations(self, code: EmittedClass) -> bool:
        """Whether an aggregate's shortcut takes pre-activations that differ from the features."""
        gather = code.part.shortcut
        if gather is None or not gather.raw:
            return False
        result = [(run, node.shortcut) for run in code.runs for node in run.nodes if node.shortcut]
        return any(tensor != run.features[source] for run, one in result for source, tensor in one.sources)

    def mark_returning(self, code: EmittedClass) -> None:
        """Mark a class whose forward returns its output and the output's pre-activation."""
        if code.returns_pre_activation:
            return
        code.returns_pre_activation = True
        if isinstance(code.part, Unit):
            self.before(code, len(code.part.steps))
            return
        for run in code.runs:
            self.mark_returning_nodes(code, run)

    def mark_returning_nodes(self, code: EmittedClass, run: AggregateRun) -> None:
        output = run.output
        assert output is not None
        if not run.nodes or (len(output.selected) > 1 and output.gather.operator.word != "concat"):
            raise NotExpressible
        if output.result != run.features[-1] and (stateful(output.gather) or output.matches or output.gather.raw):
            raise NotExpressible  # the output consists of transformed features
        if 0 in output.selected:
            self.mark_taking(code)
        for node in run.nodes:
            self.mark_returning(self.classes.by_run[id(node.unit)])

    def before(self, code: EmittedClass, k: int) -> None:
        """Mark the step of a unit whose output is the pre-activation of the input of step k."""
        steps = [step for _, step in code.part.steps]
        j = k - 1
        while j >= 0 and isinstance(steps[j], ResolvedWord) and issubclass(steps[j].kind, _TRANSPARENT):
            j -= 1
        code.pre_activation_at.add(j)
        if j < 0:
            self.mark_taking(code)
        elif self.own(code, j):
            pass
        elif isinstance(steps[j], (Unit, Aggregate)):
            for run in code.runs:
                self.mark_returning(self.classes.by_run[id(run.steps[j].run)])
        else:
            raise NotExpressible  # a slice or a join of pre-activations

    def own(self, code: EmittedClass, j: int) -> bool:
        """Whether the output of step j is its own pre-activation at every use."""
        outs = [run.steps[j].out for run in code.runs]
        return all(self.classes.traced.tape.pre_activation(out) == out for out in outs)

    def mark_taking(self, code: EmittedClass) -> None:
        """Mark a class whose forward takes the pre-activation of its input."""
        if code.takes_pre_activation:
            return
        code.takes_pre_activation = True
        for site in code.sites:
            caller: Any = self.by_id.get(site[0]) if site else None
            if caller is None or not isinstance(caller.part, Unit):
                raise NotExpressible
            self.before(caller, site[1])
