"""A heat map as lines of text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from .labels import columns as columns_of
from .labels import shortened, visible
from .scale import Colour, Scale, Table, is_bright, numbers, scale_of

SHADES = " ░▒▓█"
NIGHT = (233, 17, 18, 19, 25, 32, 39, 45, 87, 123, 195)  # of the 256 colours, from nearly black over blue to white: brighter at every step
GREY = 245
BLACK, WHITE = 16, 231


def wants_colour(stream: TextIO) -> bool:
    """Whether text for this stream may hold colours: it is a terminal that knows them, and ``NO_COLOR`` is not set.

    >>> import io
    >>> wants_colour(io.StringIO())
    False
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def heatmap_text(
    values: Table,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str = "",
    limits: tuple[float, float] | None = None,
    width: int = 80,
    colour: bool = False,
) -> str:
    """Write a table of numbers as a heat map for the terminal.

    Args:
        values: Rows of numbers, from the top: nested lists, an array or a tensor of two dimensions.
        rows: A label for each row.
        columns: A label for each column, cut where there is no room for it.
        row_title: Says what the rows are.
        limits: The values of the two ends of the scale; by default the smallest and the largest value.
        width: Columns of the terminal; where the table is wider, it is continued below.
        colour: Use the 256 colours of terminals as backgrounds. Without, a block beside each number says how large it is.

    Returns:
        Lines of text, a legend as the last one.

    Raises:
        ValueError: there are not as many values as labels.

    Example:
        >>> print(heatmap_text([[0.1, 0.9], [0.5, 1.0]], rows=["0", "1"], columns=["The", "Tower"], limits=(0, 1)))
            The Tower
        0  0.10  0.90█
        1  0.50▒ 1.00█
        <BLANKLINE>
        shades: 0.00 ░▒▓█ 1.00
    """
    table = numbers(values, rows, columns)
    left, above = ([visible(label) for label in labels] for labels in (rows, columns))
    chart = _Chart(table, scale_of(table, limits), left, above, visible(row_title), width, colour)
    return "\n".join([*chart.lines(), "", chart.legend()])


def _padded(text: str, width: int) -> str:
    """The text at the right end of ``width`` columns."""
    shown = shortened(text, width)
    return " " * (width - columns_of(shown)) + shown


def _cube(index: int) -> Colour:
    """Red, green and blue of one of the 256 colours (xterm's)."""
    if index >= 232:
        return (8 + 10 * (index - 232),) * 3
    levels = (0, 95, 135, 175, 215, 255)
    return levels[(index - 16) // 36], levels[(index - 16) // 6 % 6], levels[(index - 16) % 6]


def _painted(text: str, background: int) -> str:
    ink = BLACK if is_bright(_cube(background)) else WHITE
    return f"\x1b[38;5;{ink}m\x1b[48;5;{background}m{text}\x1b[0m"


@dataclass(frozen=True)
class _Chart:
    table: list[list[float]]
    scale: Scale
    rows: list[str]
    columns: list[str]
    row_title: str
    width: int
    colour: bool

    def lines(self) -> Iterator[str]:
        """Bands of as many columns as fit beside each other."""
        margin = max(map(columns_of, [self.row_title, *self.rows])) + 1
        cell = self._cell_width(self.width - margin)
        fits = max(1, (self.width - margin) // cell)
        for start in range(0, len(self.columns), fits):
            yield from [""] if start else []
            band = slice(start, start + fits)
            heads = "".join(_padded(label, cell - 1) + " " for label in self.columns[band])
            yield (_padded(self.row_title, margin - 1) + " " + heads).rstrip()
            for label, values in zip(self.rows, self.table, strict=True):
                yield (_padded(label, margin - 1) + " " + "".join(self._cell(value, cell) for value in values[band])).rstrip()

    def _cell_width(self, room: int) -> int:
        """A number and a blank or block; wider where that shows more of the labels and all columns still fit."""
        digits = max([columns_of(self.scale.text(value)) for row in self.table for value in row], default=4)
        wished = max(map(columns_of, self.columns), default=0)
        return 1 + max(digits, min(wished, room // max(1, len(self.columns)) - 1))

    def _cell(self, value: float, width: int) -> str:
        text = self.scale.text(value).rjust(width - 1)
        return _painted(text + " ", self._night(value)) if self.colour else text + self._shade(value)

    def _shade(self, value: float) -> str:
        return "?" if not math.isfinite(value) else SHADES[round(self.scale.fraction(value) * (len(SHADES) - 1))]

    def _night(self, value: float) -> int:
        return GREY if not math.isfinite(value) else NIGHT[round(self.scale.fraction(value) * (len(NIGHT) - 1))]

    def legend(self) -> str:
        low, high = self.scale.text(self.scale.low), self.scale.text(self.scale.high)
        if not self.colour:
            return f"shades: {low} {SHADES.strip()} {high}"
        return f"{low} {''.join(_painted('   ', shade) for shade in NIGHT)} {high}"
