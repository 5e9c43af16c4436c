"""Layers as operations: the expression that constructs the module, and the one that calls it."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass

from nas_agg.compiler.codegen.ir.schedules import schedule_texts
from nas_agg.compiler.codegen.ir.tree import SLICE, Call, Expression, Form, Number, X
from nas_agg.expansion.trace import StepRun
from nas_agg.graph import primitives as p
from nas_agg.graph.primitives import Shape
from nas_agg.language import layers

_ACTIVATIONS = {
    "relu": "ReLU", "relu6": "ReLU6", "leaky": "LeakyReLU", "elu": "ELU", "swish": "SiLU", "gelu": "GELU",
    "hardswish": "Hardswish", "sigmoid": "Sigmoid", "hardsigmoid": "Hardsigmoid",
}  # fmt: skip


@dataclass
class Operation:
    """An operation of a forward.

    Attributes:
        field: The attribute of its module.
        module: The module; None if it has none.
        call: What is computed of `X` and, where it joins, of `SHORTCUT`.
        stateful: Whether the module has parameters or statistics.
    """

    field: str
    module: Expression | None
    call: Expression | None = None
    stateful: bool = True

    def applied(self, as_module: bool) -> Expression:
        """The call: of its module, or as a function where it has no state."""
        if self.call is not None and (self.stateful or not as_module):
            return self.call
        return Form(f"self.{self.field}({{}})", (X,))


class Layer:
    """A layer at one place: one method per kind of layer returns its operation.

    Args:
        step: The layer.
        shape: Shape of its input.
        single_squeeze: Whether all squeeze-and-excitations of the file are of one kind.
    """

    def __init__(self, step: StepRun, shape: Shape, single_squeeze: bool):
        self.step, self.word, self.shape, self.single_squeeze = step, step.step.word, shape, single_squeeze
        self.values, self.label = step.step.values(step.local), step.label.replace("-", "_")
        self.channels = Number(shape[0], "channels")

    def texts(self, field: str) -> tuple[str, ...]:
        """The genotype's expression for a number."""
        numbers = [number for name, number in self.step.step.numbers if name == field]
        return tuple(text for number in numbers for text in schedule_texts(number.expression.tree()))

    def number(self, field: str, name: str = "") -> Number:
        return Number(self.values[field], name or field, self.texts(field))

    def plain(self, module: Expression, call: Expression | None = None) -> Operation:
        """A layer without parameters and statistics."""
        return Operation(self.label, module, call, False)

    def norm(self) -> Operation:
        channels, most = self.shape[0], self.values.get("gn", 32)
        groups = layers.norm_groups(self.word, channels, most)
        if not groups:
            return Operation(self.label, Call("nn.BatchNorm2d", (self.channels,)))
        single_pixel = groups == channels and self.shape[1:] == (1, 1)
        divisor = _common_divisor(Number(most, "most"), self.channels) if groups == math.gcd(most, channels) else None
        function = "InstanceNorm" if single_pixel else "nn.GroupNorm"
        return Operation(self.label, Call(function, (Number(groups, "groups", (), divisor), self.channels)))

    def activation(self) -> Operation:
        function = p.ACTIVATIONS[self.word][0]
        return self.plain(Form(f"nn.{_ACTIVATIONS[self.word]}()"), Form(f"F.{function}({{}})", (X,)))

    def conv(self) -> Operation:
        options = (
            ("stride", Number(self.values["stride"], "stride"), "1"),
            ("padding", self.padding("conv"), "0"),
            ("groups", self.groups(), "1"),
        )
        bias = () if self.values["bias"] else (("bias", Form("False"), ""),)
        arguments = (self.channels, self.number("out"), Number(self.values["conv"], "kernel"))
        return Operation(self.label, Call("nn.Conv2d", arguments, (*options, *bias)))

    def padding(self, kernel: str) -> Number:
        padding = self.values["padding"]
        return Number((self.values[kernel] - 1) // 2 if padding is None else padding, "padding")

    def groups(self) -> Number:
        """The groups of a convolution, of which the genotype may have the greatest common divisor of some names."""
        tree = next((number.expression.tree() for name, number in self.step.step.numbers if name == "groups"), None)
        groups = self.values["groups"]
        if isinstance(tree, ast.Call) and ast.unparse(tree.func) == "gcd":
            names = [ast.unparse(argument) for argument in tree.args]
            values = [self.step.local.get(name) for name in names]
            if all(isinstance(value, int) for value in values):
                return Number(groups, "groups", (), _common_divisor(*map(Number, values, names)))
        return Number(groups, "groups")

    def pool(self) -> Operation:
        name = {"maxpool": "Max", "avgpool": "Avg"}[self.word]
        size = Number(self.values[self.word], "kernel")
        stride = size.value if self.values["stride"] is None else self.values["stride"]
        padding = ("padding", self.padding(self.word), "0")
        pooled = Call(f"F.{name.lower()}_pool2d", (X, size), (("stride", Number(stride, "stride"), "@1"), padding))
        return self.plain(
            Call(f"nn.{name}Pool2d", (size,), (("stride", Number(stride, "stride"), "@0"), padding)), pooled
        )

    def adaptive_pool(self) -> Operation:
        name = {"gap": "Avg", "gmp": "Max"}[self.word]
        size = Number(self.values[self.word], "size")
        call = Form(f"F.adaptive_{name.lower()}_pool2d({{}}, {{}})", (X, size))
        return self.plain(Call(f"nn.Adaptive{name}Pool2d", (size,)), call)

    def channel_pool(self) -> Operation:
        name, method = {"channel-mean": ("ChannelMean", "mean"), "channel-max": ("ChannelMax", "amax")}[self.word]
        return self.plain(Call(name), Form(f"{{}}.{method}(1, keepdim=True)", (X,)))

    def linear(self) -> Operation:
        module = Call("nn.Linear", (Number(math.prod(self.shape), "features"), Number(self.values["linear"], "out")))
        return Operation(self.label, module, Form(f"self.{self.label}({{}}.flatten(1))[:, :, None, None]", (X,)))

    def squeeze(self) -> Operation:
        functions = zip(("act", "gate"), squeeze_kind(self.step)[:2], strict=True)
        options = tuple((name, Form(text), text if self.single_squeeze else "") for name, text in functions)
        return Operation(self.label, Call("SE", (self.channels, Number(self.values["se"], "squeeze")), options))

    def scale(self) -> Operation:
        module = Form("nn.Parameter(torch.ones({}, 1, 1))", (self.channels,))
        return Operation(self.label, module, Form(f"{{}} * self.{self.label}", (X,)))

    def dropout(self) -> Operation:
        rate, name = self.rate("dropout", ()), "Dropout2d" if self.values["channels"] else "Dropout"
        return self.plain(Call(f"nn.{name}", (rate,)), Form(f"F.{name.lower()}({{}}, {{}}, self.training)", (X, rate)))

    def drop_path(self) -> Operation:
        return self.plain(Call("DropPath", (self.rate("drop-path", self.texts("drop-path")),)))

    def rate(self, field: str, texts: tuple[str, ...]) -> Number:
        return Number(float(self.values[field]), "rate", texts)

    def times(self) -> Operation:
        factor = Number(float(self.values["times"]), "factor")
        return self.plain(Call("Times", (factor,)), Form("{} * {}", (X, factor)))

    def slice(self) -> Operation:
        first = self.values["from"]
        bounds = Number(first, "first"), Number(first + self.values["slice"], "last")
        return self.plain(Call("Slice", bounds), Form(SLICE, (X, *bounds)))

    def pad(self) -> Operation:
        return self.plain(Call("Pad", (Number(self.values["pad"], "channels"),)))

    def shuffle(self) -> Operation:
        return self.plain(Call("Shuffle", (Number(self.values["shuffle"], "groups"),)))


_KINDS: dict[type, Callable[[Layer], Operation]] = {
    layers.NormLayer: Layer.norm, layers.GroupNorm: Layer.norm, layers.Activation: Layer.activation,
    layers.ConvLayer: Layer.conv, layers.MaxPoolLayer: Layer.pool, layers.AvgPoolLayer: Layer.pool,
    layers.GapLayer: Layer.adaptive_pool, layers.GmpLayer: Layer.adaptive_pool, layers.ChannelPool: Layer.channel_pool,
    layers.LinearLayer: Layer.linear, layers.SqueezeExcitation: Layer.squeeze, layers.ScaleLayer: Layer.scale,
    layers.DropoutLayer: Layer.dropout, layers.DropPathLayer: Layer.drop_path, layers.TimesLayer: Layer.times,
    layers.SliceLayer: Layer.slice, layers.PadLayer: Layer.pad, layers.ShuffleLayer: Layer.shuffle,
}  # fmt: skip


def layer(step: StepRun, shape: Shape, single_squeeze: bool) -> Operation:
    """The operation of a layer, even if its numbers make it the identity; see `Layer` for the arguments."""
    return _KINDS[step.step.kind](Layer(step, shape, single_squeeze))


def squeeze_kind(step: StepRun) -> tuple[str, str, bool]:
    """The activations of a squeeze-and-excitation, and whether it has no squeeze channels."""
    values = step.step.values(step.local)
    act, gate = (f"F.{p.ACTIVATIONS[values[field]][0]}" for field in ("act", "gate"))
    return act, gate, not values["se"]


def _common_divisor(*parts: Number) -> Form:
    return Form(f"math.gcd({', '.join(['{}'] * len(parts))})", parts)
