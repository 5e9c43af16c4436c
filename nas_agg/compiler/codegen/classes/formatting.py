"""Formats an emitted file as `ruff format` does: its frame, and the breaking of long lines."""

from __future__ import annotations

import textwrap

from nas_agg.common.errors import one_line
from nas_agg.expansion.costs import Cost
from nas_agg.language.genotype import Genotype

WIDTH = 120


def format_file(genotype: Genotype, cost: Cost, title: str, about: str, parts: list[str]) -> str:
    """Format a complete file: docstring, imports, the network's classes, `build`, and a self-check.

    Args:
        genotype: The genotype of the network.
        cost: Its cost.
        title: Title of the network.
        about: Description and provenance of the network.
        parts: Helpers and classes, the last of which is `Network`.
    """
    body = "\n\n\n".join(part.strip("\n") for part in parts)
    frame = _FRAME.format(input=", ".join(map(str, genotype.input)), classes=genotype.classes, params=cost.params)
    used = body + frame
    imports = ["import json", "import sys"]
    if "math." in used:
        imports.append("import math")
    if "OrderedDict(" in used:
        imports.append("from collections import OrderedDict")
    if "reduce(" in used:
        imports.append("from functools import reduce")
    imports = sorted(imports, key=lambda line: (line.startswith("from"), line))
    imports += ["", "import torch"]
    if "F." in body:
        imports.append("import torch.nn.functional as F")
    imports.append("from torch import nn")
    return "\n".join([_docstring(genotype, cost, title, about), *imports, "", "", body, "", "", frame])


def _docstring(genotype: Genotype, cost: Cost, title: str, about: str) -> str:
    channels, height, width = genotype.input
    lines = [_plain(title) or f"A network of {cost.params:,} parameters.", ""]
    if about:
        lines += textwrap.wrap(_plain(about), WIDTH - 1)
    size = f"{channels}x{height}x{width}, {genotype.classes} classes"
    lines.append(f"Images of {size}; {cost.params:,} parameters, {cost.macs:,} multiply-adds per image.")
    return '"""' + "\n".join(lines).replace("\\", "\\\\") + '\n"""\n'


def _plain(text: str) -> str:
    """Make a text safe for a docstring: on one line, control and bidirectional characters as escapes."""
    return one_line(" ".join(text.replace("\\", "/").replace('"', "'").split()))


def wrapped(text: str, indent: int) -> list[str]:
    """Format a statement in lines of at most 120 characters, breaking longer ones at their first brackets."""
    pad = " " * indent
    if len(pad + text) <= WIDTH:
        return [pad + text]
    spans = _brackets(text)
    for begin, end in reversed(spans) if text.startswith(("return ", "assert ")) or "=" in text else spans:
        if text[end + 1 :] not in ("", ":", ","):
            continue
        inner = text[begin + 1 : end]
        lines = [pad + text[: begin + 1]]
        items = split(inner)
        if len(pad) + 4 + len(inner) <= WIDTH and "\n" not in inner:
            lines.append(f"{pad}    {inner}")
        elif (loop := mask_brackets(inner).find(" for ")) > 0:
            for part in [*split_conditional(inner[:loop], WIDTH - indent - 4), inner[loop + 1 :]]:
                lines += wrapped(part, indent + 4)
        else:
            called = begin and (text[begin - 1].isalnum() or text[begin - 1] in "_])")
            grouped = len(items) == 1 and text[begin] == "(" and not called
            for item in items:
                lines.extend(wrapped(item if grouped else f"{item},", indent + 4))
        lines.append(pad + text[end:])
        return lines
    return [pad + text]


def split_conditional(text: str, width: int) -> list[str]:
    """Split a conditional expression that is too long into three lines; others are one line."""
    if_, else_ = mask_brackets(text).find(" if "), mask_brackets(text).find(" else ")
    if len(text) <= width or if_ < 0:
        return [text]
    return [text[:if_], text[if_ + 1 : else_], text[else_ + 1 :]]


def _brackets(text: str) -> list[tuple[int, int]]:
    """Positions of the outermost pairs of brackets."""
    pairs, depth, begin = [], 0, 0
    for i, sign in enumerate(text):
        if sign in "([{":
            if not depth:
                begin = i
            depth += 1
        elif sign in ")]}":
            depth -= 1
            if not depth:
                pairs.append((begin, i))
    return pairs


def mask_brackets(text: str) -> str:
    """Replace everything within brackets by dots."""
    for begin, end in _brackets(text):
        text = text[:begin] + "." * (end + 1 - begin) + text[end + 1 :]
    return text


def split(text: str) -> list[str]:
    """Split a text at its commas outside of brackets."""
    items, depth, begin = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            items.append(text[begin:i].strip())
            begin = i + 1
    return [*items, text[begin:].strip()] if text[begin:].strip() else items


_FRAME = '''def build(weights=None):
    """Build the network, with initial weights or with those of a safetensors file."""
    network = Network()
    if weights is not None:
        network.load_state_dict(read(weights, network.state_dict()))
    return network


def read(path, expected):
    """Read a safetensors file: an eight-byte length, a JSON header, then the data of all tensors."""
    with open(path, "rb") as file:
        data = memoryview(file.read())
    start, kinds = 8 + int.from_bytes(data[:8], "little"), {{torch.float32: "F32", torch.int64: "I64"}}
    try:
        header = json.loads(bytes(data[8:start]))
        header.pop("__metadata__", None)
        parts = {{name: bytearray(data[start:][slice(*e["data_offsets"])]) for name, e in header.items()}}
        actual = {{name: [e["dtype"], e["shape"], f"{{len(parts[name])}} bytes"] for name, e in header.items()}}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"{{path}}: not a safetensors file") from None
    required = {{name: [kinds[t.dtype], [*t.shape], f"{{t.nbytes}} bytes"] for name, t in expected.items()}}
    for name in sorted(actual.keys() | required.keys()):
        if actual.get(name) != required.get(name):
            raise ValueError(f"{{path}}: '{{name}}' is {{actual.get(name)}}, expected {{required.get(name)}}")
    return {{name: torch.frombuffer(parts[name], dtype=t.dtype).view(t.shape) for name, t in expected.items()}}


if __name__ == "__main__":
    network = build(*sys.argv[1:2]).eval().requires_grad_(False)
    params = sum(parameter.numel() for parameter in network.parameters())
    logits = network(torch.randn(2, {input}))
    assert params == {params} and logits.shape == (2, {classes}) and logits.isfinite().all()
    print(f"{{__doc__.strip()}}\\nTwo random images give logits of shape {{tuple(logits.shape)}}, all finite.")
'''
