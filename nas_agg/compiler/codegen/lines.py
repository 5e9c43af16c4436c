"""Lines that are written one a node, made fewer: by loops, and without names that are used once."""

from __future__ import annotations

import re

from nas_agg.compiler.codegen.text import WIDTH


def looped(lines: list[str], counter: str) -> list[str]:
    """Lines of which three or more that follow one another, alike but for the number of their node, are a loop."""
    parts = [re.split(r"(?<![\w.\"])(\d+)(?![\w.\"])", line) for line in lines]
    found: list[str] = []
    begin = 0
    while begin < len(lines):
        end = begin + 1
        while end < len(lines) and parts[end][::2] == parts[begin][::2]:
            end += 1
        rows = [[int(number) for number in row[1::2]] for row in parts[begin:end]]
        shifts = [{row[k] - i for i, row in enumerate(rows)} for k in range(len(rows[0]))]
        fixed = [len({row[k] for row in rows}) == 1 for k in range(len(rows[0]))]
        counted = {shift.pop() for shift, same_ in zip(shifts, fixed, strict=True) if not same_ and len(shift) == 1}
        plain = lines[begin].startswith("self.append(") and end - begin > 2 and len(counted) <= 1
        if not plain or not all(len(shift) == 0 or same_ for shift, same_ in zip(shifts, fixed, strict=True)):
            found.append(lines[begin])
            begin += 1
            continue
        texts, first = list(parts[begin]), counted.pop() if counted else 0
        texts[1::2] = [text if same_ else counter for text, same_ in zip(texts[1::2], fixed, strict=True)]
        span = f"range({first}, {first + end - begin})" if not all(fixed) else f"range({end - begin})"
        found.append(f"for {'_' if all(fixed) else counter} in {span}:")
        found.append("    " + re.sub(rf"(\([^()=]*, ){counter}=(?={counter}\b)", r"\1", "".join(texts)))
        begin = end
    return found


def inlined(lines: list[str]) -> list[str]:
    """Lines without those names that are used in the next line alone."""
    found: list[str] = []
    for line in reversed(lines):
        name, equals, value = line.partition(" = ")
        following = found[-1] if found else ""
        uses = sum(len(re.findall(rf"\b{name.strip()}\b", other)) for other in found)
        # A node's output only where it is the first call of that line, so that nodes still run in their order.
        node = re.fullmatch(r"self\[\d+\]\.unit\(.*\)", value) and "self[" not in re.split(rf"\b{name}\b", following)[0]
        apart = " " in name.strip() or not re.fullmatch(r"y\d+" if node else r"\s*(fit|normed)\d+", name)
        fits = len(following) + len(value) < WIDTH - 12 and _indent(following) == _indent(line)
        if equals and not apart and uses == 1 and fits and re.search(rf"\b{name.strip()}\b", following):
            before, after = re.split(rf"\b{name.strip()}\b", following, maxsplit=1)
            found[-1] = before + value + after
            continue
        found.append(line)
    return found[::-1]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
