"""Small sequences written where they are called, in the place of a class of their own."""

from __future__ import annotations

import re

from torch import nn

from nas_agg.compiler.codegen.classes import Class
from nas_agg.compiler.codegen.text import WIDTH, fitted, split

LAYERS = 3  # that a sequence in a call may have
_LAYER = re.compile(r"self\.(\w+) = (.*)")
_LOCAL = re.compile(r"(c\d*) = (.*)")


def inline(classes: list[Class], parameters: dict[int, list[str]]) -> list[Class]:
    """Writes short sequences into their callers.

    Args:
        classes: In the order in which they need one another; their lines are changed.
        parameters: Of the constructor of each, by its id, `in_` first.

    Returns:
        The classes that are left.
    """
    left = list(classes)
    names = {made.name: parameters[id(made)] for made in classes}
    for made in classes[:-1]:
        callers = [other for other in left if other is not made and called(made.name, other)]
        if not callers or made.base != "nn.Sequential" or made.forward or made.doc or made.out_used:
            continue
        changed = {id(other): written(made, other, names) for other in callers}
        texts = [(other.lines or [], changed[id(other)]) for other in callers]
        if all(new and max(map(height, new)) <= max(6, *map(height, old)) for old, new in texts):
            before = sum(height(line) for old, _ in texts for line in old) + sum(map(height, made.lines or ())) + 5
            if sum(height(line) for _, new in texts for line in new or ()) < before:
                for other in callers:
                    other.lines = changed[id(other)]
                left.remove(made)
    return left


def called(name: str, other: Class) -> bool:
    return any(re.search(rf"(?<![\w.]){name}\(", line) for line in other.lines or ())


def height(line: str) -> int:
    indent = len(line) - len(line.lstrip())
    return len(fitted(line.lstrip(), 8 + indent))


def written(made: Class, other: Class, parameters: dict[str, list[str]]) -> list[str] | None:
    """The lines of a class with what another does in the place of its calls; None if that does not read well."""
    lines: list[str] = []
    for line in other.lines or ():
        while (found := re.search(rf"(?<![\w.]){made.name}\(", line)) is not None:
            end = closing(line, found.end() - 1)
            text = sequence(made, parameters, line[found.end() : end])
            if text is None:
                return None
            before, after = line[: found.start()], line[end + 1 :]
            name = "unit" if before.endswith('"unit": ') else re.sub(r"(?<!^)(?=[A-Z])", "_", made.name).lower()
            indent = " " * (len(line) - len(line.lstrip()))
            apart = height(f"{indent}{name} = {text}") + height(before + name + after) < height(before + text + after)
            if (
                apart
                and not before.endswith(" = ")
                and " for " not in after
                and not re.search(rf"(?<![\w.\"]){name}(?![\w\"])", "\n".join([*lines, line]))
            ):
                lines.append(f"{indent}{name} = {text}")
                text = name
            line = before + text + after
        lines.append(line)
    return lines


def closing(line: str, begin: int) -> int:
    depth = 0
    for i in range(begin, len(line)):
        depth += (line[i] in "([{") - (line[i] in ")]}")
        if not depth:
            return i
    raise AssertionError(line)


def sequence(made: Class, parameters: dict[str, list[str]], arguments: str) -> str | None:
    """A sequence as an expression, its class called with some arguments; None if that does not read well."""
    given = {**made.defaults, **bound(parameters[made.name], arguments)}
    body = "\n".join(made.lines or ())
    if any(len(text) > 12 and len(re.findall(rf"(?<![\w.]){name}\b(?!=)", body)) > 1 for name, text in given.items()):
        return None
    layers = []
    for line in made.lines or ():
        if local := _LOCAL.fullmatch(line):
            given[local.group(1)] = put(local.group(2), given)
        elif (layer := _LAYER.fullmatch(line)) and "self." not in layer.group(2) and nameable(layer.group(1)):
            layers.append(f"{layer.group(1)}={put(layer.group(2), given)}")
        else:
            return None
    text = f"named({', '.join(layers)})" if layers else "nn.Sequential()"
    text = re.sub(r"(?<![\w.])([A-Z]\w*)\(([^()]*)\)", lambda call: keyed(call, parameters), text)
    worked_out = re.search(r"(?<![\w.])\d+ [-+*/%<>=!]+ \(?\d", text)  # numbers alone: to be said as their value
    return text if len(layers) <= LAYERS and len(text) < 2 * WIDTH and not worked_out else None


def nameable(label: str) -> bool:
    """Whether a sequence can be made of parts by their names with this among them."""
    return not hasattr(nn.Sequential, label)


def bound(parameters: list[str], arguments: str) -> dict[str, str]:
    """Which parameter has which argument."""
    given = {}
    for k, text in enumerate(split(arguments)):
        found = re.fullmatch(r"(\w+)=(.*)", text)
        given[found.group(1) if found else parameters[k]] = found.group(2) if found else text
    return given


def keyed(call: re.Match[str], parameters: dict[str, list[str]]) -> str:
    """A call in which numbers behind the first argument stand with their names."""
    known = parameters.get(call.group(1))
    texts = split(call.group(2))
    first = next((k for k, text in enumerate(texts) if k and text.isdigit()), None)
    if known is None or first is None:
        return call.group()
    behind = [text if "=" in text else f"{known[k]}={text}" for k, text in enumerate(texts) if k >= first]
    return f"{call.group(1)}({', '.join([*texts[:first], *behind])})"


def put(text: str, given: dict[str, str]) -> str:
    """An expression with other expressions in the place of its names."""

    def value(word: re.Match[str]) -> str:
        found = given.get(word.group(1))
        if found is None:
            return word.group()
        before, after = text[: word.start()].rstrip(), text[word.end() :].lstrip()
        whole = before.endswith(("(", ",", "=")) and after.startswith((")", ","))
        return found if whole or re.fullmatch(r"[\w.]+(\[-?\d+\])?", found) else f"({found})"

    return re.sub(r"(?<![\w.\"'])([A-Za-z_]\w*)(?![\w\"'(]|=(?!=))", value, text)
