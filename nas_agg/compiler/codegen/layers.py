"""Layers as modules and as calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nas_agg.compiler.codegen.formatting import outside
from nas_agg.compiler.codegen.numbers import NotExpressible, same
from nas_agg.expansion.trace import StepRun
from nas_agg.graph.primitives import ACTIVATIONS, Norm
from nas_agg.language import layers


class Item(NamedTuple):
    """A step of a forward.

    Attributes:
        call: Its expression, with ``{x}`` for what enters.
        module: The text of a module that does it, and the attribute it is; or None.
        heavy: How much of a line of a forward it is; a line has at most 3.
        bare: Whether ``{x}`` stands beside an operator, so that a sum there needs brackets.
        infix: Whether the expression itself is one that needs brackets there.
        test: A condition without which it does nothing.
        pair: What the second value is called, where it gives two.
    """

    call: str
    module: tuple[str, str] | None = None
    heavy: int = 0
    bare: bool = False
    infix: bool = False
    test: str = ""
    pair: str = ""


class Made(NamedTuple):
    """A layer: its item and the text of its output's channels, or None where they stay."""

    item: Item
    out: str | None = None


def joined(behind: list[Item], x: str, shortcut: str) -> str:
    """What the join that ends a unit, and what follows it, make of what is ahead of the join; there may be none."""
    infix = " + " in outside(x)
    for item in behind:
        if item.module or shortcut:
            call = item.call.replace("shortcut", shortcut)
            x, infix = call.replace("{x}", f"({x})" if infix and item.bare else x), item.infix
    return x


def unit_call(made: Any, place: str, x: str, shortcut: str) -> str:
    """The call of a unit, with those of its joins that are written there."""
    if not made.ahead and not made.behind and shortcut:
        return f"{place}({x}, {shortcut})"
    return joined(made.behind, f"{place}({joined(made.ahead, x, shortcut)})", shortcut)


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
Say = Callable[[str], str]


class File(Protocol):
    """What layers know of the whole file: the kinds of squeeze-and-excitation, and whether slices are modules."""

    squeezes: set[tuple[str, str, bool]]
    slices: bool


def layer(
    label: str, runs: list[StepRun], channels: str, say: Say, ops: list[list[Any]], last: bool, file: File
) -> Made | None:
    """A layer at all its uses, or None if it does nothing.

    Args:
        label: The attribute it goes by.
        runs: Its uses.
        channels: The text of the channels that enter.
        say: Gives the text of one of its fields.
        ops: What it wrote at each use.
        last: Whether it is the network's last step.
        file: What is to be known of the whole file.

    Raises:
        NotExpressible: If a number has no text.
    """
    kind, word = runs[0].step.kind, runs[0].step.word
    done = [bool(found) for found in ops]
    values = [run.step.values(run.local) for run in runs]
    own = f"self.{label}"

    def module(text: str, call: str | None = None, heavy: int = 0) -> Item:
        return Item(call or f"{own}({{x}})", (label, text), heavy)

    if kind in (layers.NormLayer, layers.GroupNorm):
        return Made(module(_norm(runs, word, channels, say, ops)))
    if kind is layers.Activation:
        return Made(module(_MODULES[word], f"F.{ACTIVATIONS[word][0]}({{x}})"))
    if kind is layers.ConvLayer:
        return _conv(own, label, channels, say, values)
    if issubclass(kind, layers.Pool):
        return _pool(label, word, say, values, done)
    if kind is layers.GapLayer:
        size = say("gap")
        call = f"F.adaptive_avg_pool2d({{x}}, {size})" if size.isdigit() else None
        return Made(module(f"nn.AdaptiveAvgPool2d({size})", call))
    if kind is layers.GmpLayer:
        size = say("gmp")
        call = f"F.adaptive_max_pool2d({{x}}, {size})" if size.isdigit() else None
        return Made(module(f"nn.AdaptiveMaxPool2d({size})", call))
    if kind is layers.ChannelPool:
        name, function = ("ChannelMean()", "mean") if word == "channel-mean" else ("ChannelMax()", "amax")
        return Made(Item(f"{{x}}.{function}(1, keepdim=True)", (label, name), 0, True), "1")
    if kind is layers.LinearLayer:
        features = [op[0].features for op in ops]
        side = [(run_op[0].features, run.local["c"]) for run, run_op in zip(runs, ops, strict=True)]
        if all(a == b for a, b in side):
            entering = channels
        elif same(features):
            entering = str(features[0])
        else:
            raise NotExpressible
        out = say("linear")
        Item_ = Item(f"{own}({{x}}.flatten(1))" + ("" if last else "[:, :, None, None]"),
                     (f"!{label}", f"nn.Linear({entering}, {out})"), 2, True)  # fmt: skip
        return Made(Item_, out)
    if kind is layers.SqueezeExcitation:
        act, gate = (f"F.{ACTIVATIONS[values[0][field]][0]}" for field in ("act", "gate"))
        file.squeezes.add((act, gate, any(not value["se"] for value in values)))
        return Made(module(f"SE({channels}, {say('se')}, act={act}, gate={gate})"))
    if kind is layers.ScaleLayer:
        text = f"nn.Parameter(torch.ones({channels}, 1, 1))"
        return Made(Item(f"{{x}} * {own}", (f"!{label}", text), 0, True, True))
    if kind is layers.DropoutLayer:
        return _dropout(label, say, values, done)
    if kind is layers.DropPathLayer:
        return _drop_path(label, say("drop-path"), done)
    if not any(done) and all(run.x == run.out for run in runs):
        return None
    if kind is layers.TimesLayer:
        factor = say("times")
        if re.fullmatch(r"[\d.]+", factor) and all(done):
            return Made(Item(f"{{x}} * {factor}", (label, f"Times({factor})"), 0, True, True))
        return Made(module(f"Times({factor})"))
    if kind is layers.SliceLayer:
        return _slice(label, runs, say, values, file.slices)
    if kind is layers.PadLayer:
        text = say("pad")
        return Made(module(f"Pad({text})"), text)
    assert kind is layers.ShuffleLayer
    return Made(module(f"Shuffle({say('shuffle')})"))


def _norm(runs: list[StepRun], word: str, channels: str, say: Say, ops: list[list[Any]]) -> str:
    if word == "bn":
        return f"nn.BatchNorm2d({channels})"
    found: list[Norm] = [op[0] for op in ops]
    tiny = any(op.groups == op.channels and run.local["h"] == 1 for op, run in zip(found, runs, strict=True))
    if all(op.groups == op.channels for op in found):
        groups = channels
    elif same([op.groups for op in found]):
        groups = str(found[0].groups)
    else:
        groups = f"math.gcd({say('gn') if word == 'gn' else 1}, {channels})"
    return f"{'InstanceNorm' if tiny else 'nn.GroupNorm'}({groups}, {channels})"


def _conv(own: str, label: str, channels: str, say: Say, values: list[dict]) -> Made:
    kernel, out = say("conv"), say("out")
    text = f"nn.Conv2d({channels}, {out}, {kernel}"
    paddings = [(v["conv"] - 1) // 2 if v["padding"] is None else v["padding"] for v in values]
    if same(paddings):
        padding = str(paddings[0])
    elif values[0]["padding"] is None:
        padding = _same_size(kernel, all(v["conv"] % 2 for v in values))
    else:
        padding = say("padding")
    for name, said, default in (
        ("stride", say("stride"), "1"),
        ("padding", padding, "0"),
        ("groups", say("groups"), "1"),
    ):
        if said != default:
            text += f", {name}={said}"
    text += ")" if values[0]["bias"] else ", bias=False)"
    return Made(Item(f"{own}({{x}})", (label, text), 2), out)


def _same_size(kernel: str, odd: bool) -> str:
    """The padding that keeps a map's size at stride 1: half of what the kernel is more than 1."""
    if choice := re.fullmatch(r"(\d+) if (.+) else (\d+)", kernel):
        first, condition, second = choice.groups()
        return f"{(int(first) - 1) // 2} if {condition} else {(int(second) - 1) // 2}"
    if kernel.isidentifier():
        return f"{kernel} // 2" if odd else f"({kernel} - 1) // 2"
    return f"(({kernel}) - 1) // 2"


def _pool(label: str, word: str, say: Say, values: list[dict], done: list[bool]) -> Made | None:
    if not any(done):
        return None
    kernel = say(word)
    strides = [v[word] if v["stride"] is None else v["stride"] for v in values]
    paddings = [(v[word] - 1) // 2 if v["padding"] is None else v["padding"] for v in values]
    stride = kernel if strides == [v[word] for v in values] else say("stride")
    if same(paddings):
        padding = str(paddings[0])
    else:
        padding = (
            _same_size(kernel, all(v[word] % 2 for v in values)) if values[0]["padding"] is None else say("padding")
        )
    text = kernel
    if stride != kernel and padding != "0":
        text += f", {stride}, {padding}"
    elif stride != kernel:
        text += f", {stride}"
    elif padding != "0":
        text += f", padding={padding}"
    name, function = {"maxpool": ("MaxPool2d", "max_pool2d"), "avgpool": ("AvgPool2d", "avg_pool2d")}[word]
    if all(done):
        fixed = all(part.isdigit() for part in (kernel, stride, padding))
        call = f"F.{function}({{x}}, {text})" if fixed else f"self.{label}({{x}})"
        return Made(Item(call, (label, f"nn.{name}({text})")))
    for said, numbers in ((kernel, [v[word] for v in values]), (stride, strides)):
        if [number > 1 for number in numbers] == done and not said.isdigit():
            test = f"{said} > 1" if said.isidentifier() else f"({said}) > 1"
            return Made(Item(f"self.{label}({{x}})", (label, f"nn.{name}({text}) if {test} else nn.Identity()")))
    raise NotExpressible


def _dropout(label: str, say: Say, values: list[dict], done: list[bool]) -> Made | None:
    if not any(done):
        return None
    rate = say("dropout")
    name = "Dropout2d" if values[0]["channels"] else "Dropout"
    text = f"nn.{name}({rate})" if all(done) else f"nn.{name}({rate}) if {rate} > 0 else nn.Identity()"
    fixed = all(done) and rate[0].isdigit()
    function = "dropout2d" if values[0]["channels"] else "dropout"
    call = f"F.{function}({{x}}, {rate}, self.training)" if fixed else f"self.{label}({{x}})"
    return Made(Item(call, (label, text)))


def _drop_path(label: str, rate: str, done: list[bool]) -> Made | None:
    if not any(done):
        return None
    text = f"DropPath({rate})" if all(done) else f"DropPath({rate}) if {rate} > 0 else nn.Identity()"
    return Made(Item(f"self.{label}({{x}})", (label, text)))


def _slice(label: str, runs: list[StepRun], say: Say, values: list[dict], modules: bool) -> Made:
    first, width = say("from"), say("slice")
    if first.isdigit() and width.isdigit():
        begin, end = int(first), int(first) + int(width)
        call = f"{{x}}[:, {begin}:{end}]" if begin else f"{{x}}[:, :{end}]"
        return Made(Item(call, (label, f"Slice({first}, {width})"), 0, True), width)
    if modules:
        return Made(Item(f"self.{label}({{x}})", (label, f"Slice({first}, {width})")), width)
    last = all(value["from"] + value["slice"] == run.local["c"] for value, run in zip(values, runs, strict=True))
    until = "None" if last else f"{first} + {width}"
    return Made(Item(f"{{x}}[:, self.{label}]", (f"!{label}", f"slice({first}, {until})"), 0, True), width)
