"""Gathers as text: the selection of sources, their norms, weights and gates, and how they join."""

from __future__ import annotations

from nas_agg.compiler.codegen.ir.tree import MEAN, SHORTCUT, Call, Expression, Form, NotExpressible, Number, X
from nas_agg.expansion.trace import GatherRun, Trace
from nas_agg.language import operators
from nas_agg.language.resolved import NUM_SOURCES

_OPERATORS = {
    operators.Concat: "cat", operators.Sum: "add", operators.Weighted: "add", operators.MeanOf: "mean",
    operators.ProductOf: "mul", operators.Gated: "add", operators.Mixed: "mixed",
}  # fmt: skip
_JOINS = {"add": "{} + {}", "cat": "torch.cat([{}, {}], 1)", "mul": "{} * {}", "mean": MEAN}
_NORMS = {
    "none": "", "ln": "torch.group_norm({}, 1)", "in": "torch.group_norm({}, {}.shape[1])",
    "gn": "normed({})", "bn": "bn",
}  # fmt: skip
ALIGNED_NORM = "torch.group_norm({}, 32)"  # where all sources have multiples of 32 channels
_PATTERNS = {
    "previous": "features[-1:]", "dense": "features", "nodes": "features[1:]", "input": "features[:1]",
    "window": "features[-{}:]", "exponential": "spaced(features, {})",
    "micro-dense": "features[(len(features) - 1) // {} * {} :]",
}  # fmt: skip


def operator_name(run: GatherRun) -> str:
    name = _OPERATORS.get(run.gather.operator_type)
    if name is None:
        raise NotExpressible
    return name


def join_call(joined: GatherRun | None) -> Expression:
    """What a `join` computes of the shortcut's sources and the main path; a sum if there is no gather."""
    operator = "add" if joined is None else operator_name(joined)
    if joined is None or operator != "mixed":
        return Form(_JOINS[operator], (SHORTCUT, X))
    function = "mixed" if joined.values["onto"] == "front" else "mixed_back"
    return Call(function, (SHORTCUT, X, Number(joined.values["mixed"], "summed")))


def pattern_text(run: GatherRun) -> str:
    """The selection that a gather's pattern makes of a list of features."""
    word = run.gather.pattern
    values = [value for value in word.values(run.scope).values() if isinstance(value, int)]
    text = _PATTERNS.get(word.word, "features")
    return text.replace("{}", str(values[0])) if values else text


def prepare(run: GatherRun, trace: Trace, aligned: bool, place: str, fields: dict[str, Expression]) -> tuple[str, str]:
    """The norm of sources, as a text of `{}`, and their `weights` or `gates`; adds these modules to the fields.

    Args:
        run: The gather.
        trace: The network.
        aligned: Whether all sources with a group norm have multiples of 32 channels.
        place: Path of the gather's own fields.
        fields: The fields of the node or of the output.
    """
    gather = run.gather
    gated = gather.operator_type is operators.Gated
    if gated and gather.weight:
        raise NotExpressible
    main = not run.join and run.main is not None
    if not run.sources and not (main and (gather.weight or gated)):
        return "", ""
    norm = ALIGNED_NORM if gather.norm == "gn" and aligned else _NORMS[gather.norm]
    for source, tensor in run.sources if norm == "bn" else ():
        path = trace.tape.paths[trace.tape.norms[tensor, 0]]
        if path == f"{run.path}.norms.{source}":
            channels = Number(trace.shape(tensor)[0], "channels")
            fields[f"{place}.norms.{source}"] = Call("nn.BatchNorm2d", (channels,), (("affine", Form("False"), ""),))
    if gated:
        fields[f"{place}.gates"] = Call("gates", (_widths(run, trace),))
        return norm, "gates"
    if gather.weight:
        fields[f"{place}.weights"] = _weights(run, _widths(run, trace))
    return norm, "weights" if gather.weight else ""


def _widths(run: GatherRun, trace: Trace) -> Form:
    """The channels of the sources; without sources, an empty list."""
    channels = [trace.shape(tensor)[0] for _, tensor in run.sources]
    if len(set(channels)) > 1:
        return Form(f"[{', '.join(['{}'] * len(channels))}]", tuple(Number(c, "channels") for c in channels))
    assert channels or run.main is not None
    first = channels[0] if channels else trace.shape(run.main)[0]  # type: ignore[arg-type]
    return Form("[{}] * {}", (Number(first, "channels"), Number(len(channels), "sources")))


def _weights(run: GatherRun, widths: Form) -> Call:
    assert run.gather.start is not None
    if run.gather.start.expression.text.replace(" ", "") == f"1/{NUM_SOURCES}":
        return Call("weights", (widths,))
    start = float(run.gather.start.value({**run.scope, NUM_SOURCES: max(len(run.sources), 1)}))
    return Call("weights_from", (Number(start, "start"), widths))
