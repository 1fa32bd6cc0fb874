"""How every benchmark says what it measured: a table, what was aimed at, and one JSON object as the last line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one figure is to be.

    :param key: name of the figure in the JSON object.
    :param limit: its bound, in the figure's own unit.
    :param at_least: whether the bound is the lowest good value; otherwise it is the highest.
    """

    key: str
    limit: float
    at_least: bool = False

    @property
    def bound(self) -> str:
        """The bound in words."""
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"

    def met(self, value: float) -> bool:
        """Whether a figure is within the bound."""
        return value >= self.limit if self.at_least else value <= self.limit


def spread(figures: Sequence[float], *, digits: int = 2) -> str:
    """Return the median with the least and the most of several figures, such as ``1.20 (1.10-1.45)``."""
    middle = f"{statistics.median(figures):,.{digits}f}"
    if len(figures) == 1:
        return middle
    return f"{middle} ({min(figures):,.{digits}f}-{max(figures):,.{digits}f})"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns' names: the first column to the left, all others to the right."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def finish(figures: Mapping[str, Any], targets: Sequence[Target] = ()) -> None:
    """Print which targets are met, and the figures as one JSON object on the last line.

    :param figures: what was measured, by key; the keys of the targets among them.
    :param targets: what was aimed at.
    """
    if targets:
        print()
        rows = []
        for target in targets:
            value = figures[target.key]
            rows.append((target.key, f"{value:,.4g}", target.bound, "met" if target.met(value) else "NOT MET"))
        print_table(("figure", "measured", "target", ""), rows)
    missed = [target.key for target in targets if not target.met(figures[target.key])]
    bounds = {target.key: target.bound for target in targets}
    print(json.dumps({**figures, "targets": bounds, "targets_missed": missed}))
