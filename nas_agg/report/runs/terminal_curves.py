"""Learning curves in the terminal: one line per trial, or a chart of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

_LEVELS = "▁▂▃▄▅▆▇█"
WIDTH, HEIGHT = 60, 12  # of a chart, in characters


def sparkline(values: Sequence[float], low: float, high: float, width: int = 24) -> str:
    """Values as a line of blocks of different height.

    Args:
        values: The values, in order; of more than ``width`` every so many are shown, and the last.
        low, high: The values of the lowest and the highest block.
        width: Characters at most.
    """
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    span = high - low or 1.0
    return "".join(_LEVELS[_clamp(round((value - low) / span * (len(_LEVELS) - 1)), len(_LEVELS))] for value in values)


def chart(curves: Mapping[str, Mapping[int, float]], format: Callable[[float], str]) -> list[str]:
    """Curves as a chart: a sign per curve, the values at the left, the epochs below, the signs' names last.

    Args:
        curves: By name, values by epoch.
        format: Formats a value.
    """
    points = [(epoch, value) for curve in curves.values() for epoch, value in curve.items() if math.isfinite(value)]
    if not points:
        return []
    first, last = min(epoch for epoch, _ in points), max(epoch for epoch, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    signs = dict(zip(curves, "●○◆◇■□▲△", strict=False))
    for name, curve in curves.items():
        for epoch, value in curve.items():
            if math.isfinite(value) and name in signs:
                column = round((epoch - first) / (last - first or 1) * (WIDTH - 1))
                row = round((high - value) / (high - low or 1.0) * (HEIGHT - 1))
                grid[row][column] = signs[name]
    labels = [
        format(high - (high - low) * row / (HEIGHT - 1)) if row % 3 == 0 or row == HEIGHT - 1 else ""
        for row in range(HEIGHT)
    ]
    margin = max(map(len, labels))
    lines = [f"{label:>{margin}} ┤{''.join(cells)}".rstrip() for label, cells in zip(labels, grid, strict=True)]
    lines.append(f"{'':{margin}} └{'─' * WIDTH}")
    lines.append(f"{'':{margin}}  {first}{f'epoch {last}':>{WIDTH - len(str(first))}}")
    return [*lines, f"{'':{margin}}  {'   '.join(f'{sign} {name}' for name, sign in signs.items())}"]


def _clamp(level: int, count: int) -> int:
    return max(0, min(count - 1, level))
