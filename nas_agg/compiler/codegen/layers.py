"""Layers as torch modules and as calls."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from nas_agg.compiler.codegen.syntax.ir import parse, show, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.expansion.trace import StepRun
from nas_agg.graph.primitives import ACTIVATIONS, Norm
from nas_agg.language import layers


class Item(NamedTuple):
    """A step of a forward.

    Attributes:
        call: Its expression, with ``X`` for its input.
        module: The attribute and the text of its module; None if it has no module. An attribute with ``!`` is not a
            module that a sequence could contain.
        heavy: Its weight in a line of the forward; a line has a weight of at most 3.
        test: The condition under which it is applied; empty for always.
        pair: The name of the second value, if it returns two.
    """

    call: str
    module: tuple[str, str] | None = None
    heavy: int = 0
    test: str = ""
    pair: str = ""


class LayerForm(NamedTuple):
    """A layer: its item and the expression of its output channels; None if they are those of its input."""

    item: Item
    out: str | None = None


def joined(items: Iterable[Item], x: str, shortcut: str) -> str:
    """Apply the join at the end of a unit, and what follows it; the shortcut may be missing."""
    for item in items:
        if item.module or shortcut:
            x = substitute(item.call, {"X": x, **({"shortcut": shortcut} if shortcut else {})})
    return x


def unit_call(code: Any, place: str, x: str, shortcut: str) -> str:
    """The call of a unit, with those of its joins that are written at its calls."""
    if not code.leading_join and not code.trailing_join and shortcut:
        return f"{place}({x}, {shortcut})"
    return joined(code.trailing_join, f"{place}({joined(code.leading_join, x, shortcut)})", shortcut)


_MODULES = {
    "relu": "nn.ReLU()",
    "relu6": "nn.ReLU6()",
    "leaky": "nn.LeakyReLU()",
    "elu": "nn.ELU()",
    "swish": "nn.SiLU()",
    "gelu": "nn.GELU()",
    "hardswish": "nn.Hardswish()",
    "sigmoid": "nn.Sigmoid()",
    "hardsigmoid": "nn.Hardsigmoid()",
}


class File(Protocol):
    """Properties of the whole file: the kinds of squeeze-and-excitation, and whether slices are modules."""

    squeezes: set[tuple[str, str, bool]]
    slices: bool


class Uses:
    """A layer at all its uses.

    Args:
        label: Its attribute.
        runs: Its uses.
        channels: The expression of its input channels.
        field_text: Returns the expression of one of its fields.
        ops: Its operations in the graph at each use.
        last: Whether it is the network's last step.
        file: Properties of the whole file.
    """

    def __init__(
        self,
        label: str,
        runs: list[StepRun],
        channels: str,
        field_text: Callable[[str], str],
        ops: list[list[Any]],
        last: bool,
        file: File,
    ):
        self.label, self.runs, self.channels, self.field_text = label, runs, channels, field_text
        self.ops, self.last, self.file = ops, last, file
        self.word = runs[0].step.word
        self.values: list[dict[str, Any]] = [run.step.values(run.local) for run in runs]
        self.active = [bool(result) for result in ops]  # whether it has an effect, at each use
        self.attribute = f"self.{label}"

    def form(self) -> LayerForm | None:
        """The form of the layer; None if it has no effect anywhere.

        Raises:
            NotExpressible: A number cannot be expressed.
        """
        if not any(self.active):
            return None
        return _LAYERS[self.runs[0].step.kind](self)

    def module(self, text: str, call: str = "", out: str | None = None, heavy: int = 0) -> LayerForm:
        return LayerForm(Item(call or f"{self.attribute}(X)", (self.label, text), heavy), out)

    def parameter(self, text: str, call: str, out: str | None = None, heavy: int = 0) -> LayerForm:
        """A layer that is not a module, so that a sequence cannot contain it."""
        return LayerForm(Item(call, (f"!{self.label}", text), heavy), out)

    def conditional(self, text: str, test: str) -> LayerForm:
        """A module that is replaced by the identity unless a test holds."""
        return self.module(text if all(self.active) else f"{text} if {test} else nn.Identity()")

    def padding(self, kernel: str, size: str) -> str:
        """The specified padding, or `(kernel - 1) // 2`, which keeps the size of a map at stride 1."""
        values = self.values
        paddings = [(v[size] - 1) // 2 if v["padding"] is None else v["padding"] for v in values]
        if same(paddings):
            return str(paddings[0])
        if values[0]["padding"] is not None:
            return self.field_text("padding")
        match parse(kernel):
            case ast.IfExp(test=test, body=ast.Constant(value=int(a)), orelse=ast.Constant(value=int(b))):
                return f"{(a - 1) // 2} if {show(test)} else {(b - 1) // 2}"
            case ast.Name() if all(v[size] % 2 for v in values):
                return f"{kernel} // 2"
        return f"(({kernel}) - 1) // 2"

    # ------------------------------------------------------------------ kinds

    def norm(self) -> LayerForm:
        if self.word == "bn":
            return self.module(f"nn.BatchNorm2d({self.channels})")
        result: list[Norm] = [op[0] for op in self.ops]
        single = [op.groups == op.channels for op in result]
        tiny = any(one and run.local["h"] == 1 for one, run in zip(single, self.runs, strict=True))
        if all(single):
            groups = self.channels
        elif same([op.groups for op in result]):
            groups = str(result[0].groups)
        else:
            groups = f"math.gcd({self.field_text('gn') if self.word == 'gn' else 1}, {self.channels})"
        return self.module(f"{'InstanceNorm' if tiny else 'nn.GroupNorm'}({groups}, {self.channels})")

    def activation(self) -> LayerForm:
        return self.module(_MODULES[self.word], f"F.{ACTIVATIONS[self.word][0]}(X)")

    def conv(self) -> LayerForm:
        kernel, out = self.field_text("conv"), self.field_text("out")
        padding = self.padding(kernel, "conv")
        options = {"stride": self.field_text("stride"), "padding": padding, "groups": self.field_text("groups")}
        parts = [self.channels, out, kernel]
        parts += [f"{name}={text}" for name, text in options.items() if text != ("0" if name == "padding" else "1")]
        parts += [] if self.values[0]["bias"] else ["bias=False"]
        return self.module(f"nn.Conv2d({', '.join(parts)})", out=out, heavy=2)

    def pool(self) -> LayerForm:
        word, values = self.word, self.values
        kernel = self.field_text(word)
        sizes = [v[word] for v in values]
        strides = [v[word] if v["stride"] is None else v["stride"] for v in values]
        stride = kernel if strides == sizes else self.field_text("stride")
        padding = self.padding(kernel, word)
        text = kernel if stride == kernel else f"{kernel}, {stride}"
        if padding != "0":
            text += f", padding={padding}" if stride == kernel else f", {padding}"
        name, function = {"maxpool": ("MaxPool2d", "max_pool2d"), "avgpool": ("AvgPool2d", "avg_pool2d")}[word]
        if all(self.active):
            fixed = all(part.isdigit() for part in (kernel, stride, padding))
            return self.module(f"nn.{name}({text})", f"F.{function}(X, {text})" if fixed else "")
        for express, numbers in ((kernel, sizes), (stride, strides)):
            if [number > 1 for number in numbers] == self.active and not express.isdigit():
                return self.conditional(f"nn.{name}({text})", substitute("_n > 1", {"_n": express}))
        raise NotExpressible

    def global_pool(self) -> LayerForm:
        word, kind = self.word, "Avg" if self.word == "gap" else "Max"
        size = self.field_text(word)
        call = f"F.adaptive_{kind.lower()}_pool2d(X, {size})" if size.isdigit() else ""
        return self.module(f"nn.Adaptive{kind}Pool2d({size})", call)

    def channel_pool(self) -> LayerForm:
        name, function = ("ChannelMean", "mean") if self.word == "channel-mean" else ("ChannelMax", "amax")
        return self.module(f"{name}()", f"X.{function}(1, keepdim=True)", "1")

    def linear(self) -> LayerForm:
        features = [op[0].features for op in self.ops]
        if features == [run.local["c"] for run in self.runs]:
            input_width = self.channels
        elif same(features):
            input_width = str(features[0])
        else:
            raise NotExpressible
        out, end = self.field_text("linear"), "" if self.last else "[:, :, None, None]"
        return self.parameter(f"nn.Linear({input_width}, {out})", f"{self.attribute}(X.flatten(1)){end}", out, 2)

    def squeeze(self) -> LayerForm:
        act, gate = (f"F.{ACTIVATIONS[self.values[0][field]][0]}" for field in ("act", "gate"))
        self.file.squeezes.add((act, gate, any(not value["se"] for value in self.values)))
        return self.module(f"SE({self.channels}, {self.field_text('se')}, act={act}, gate={gate})")

    def scale(self) -> LayerForm:
        return self.parameter(f"nn.Parameter(torch.ones({self.channels}, 1, 1))", f"X * {self.attribute}")

    def dropout(self) -> LayerForm:
        rate, name = self.field_text("dropout"), "Dropout2d" if self.values[0]["channels"] else "Dropout"
        if all(self.active) and rate[0].isdigit():
            return self.module(f"nn.{name}({rate})", f"F.{name.lower()}(X, {rate}, self.training)")
        return self.conditional(f"nn.{name}({rate})", f"{rate} > 0")

    def drop_path(self) -> LayerForm:
        rate = self.field_text("drop-path")
        return self.conditional(f"DropPath({rate})", f"{rate} > 0")

    def times(self) -> LayerForm:
        factor = self.field_text("times")
        fixed = isinstance(parse(factor), ast.Constant) and all(self.active)
        return self.module(f"Times({factor})", f"X * {factor}" if fixed else "")

    def slice(self) -> LayerForm:
        first, width = self.field_text("from"), self.field_text("slice")
        text = f"Slice({first}, {width})"
        if first.isdigit() and width.isdigit():
            begin, end = int(first), int(first) + int(width)
            return self.module(text, f"X[:, {begin or ''}:{end}]", width)
        if self.file.slices:
            return self.module(text, out=width)
        ends = [value["from"] + value["slice"] for value in self.values]
        until = "None" if ends == [run.local["c"] for run in self.runs] else f"{first} + {width}"
        return self.parameter(f"slice({first}, {until})", f"X[:, {self.attribute}]", width)

    def pad(self) -> LayerForm:
        text = self.field_text("pad")
        return self.module(f"Pad({text})", out=text)

    def shuffle(self) -> LayerForm:
        return self.module(f"Shuffle({self.field_text('shuffle')})")


_LAYERS: dict[type, Callable[[Uses], LayerForm]] = {
    layers.NormLayer: Uses.norm,
    layers.GroupNorm: Uses.norm,
    layers.Activation: Uses.activation,
    layers.ConvLayer: Uses.conv,
    layers.MaxPoolLayer: Uses.pool,
    layers.AvgPoolLayer: Uses.pool,
    layers.GapLayer: Uses.global_pool,
    layers.GmpLayer: Uses.global_pool,
    layers.ChannelPool: Uses.channel_pool,
    layers.LinearLayer: Uses.linear,
    layers.SqueezeExcitation: Uses.squeeze,
    layers.ScaleLayer: Uses.scale,
    layers.DropoutLayer: Uses.dropout,
    layers.DropPathLayer: Uses.drop_path,
    layers.TimesLayer: Uses.times,
    layers.SliceLayer: Uses.slice,
    layers.PadLayer: Uses.pad,
    layers.ShuffleLayer: Uses.shuffle,
}
