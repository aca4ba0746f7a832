"""Numbers -> colours and text: what the heat maps have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsFloat, TypeAlias

from ..errors import ours

Table: TypeAlias = Iterable[Iterable[SupportsFloat]]
Colour: TypeAlias = tuple[int, int, int]

# "Blues" of ColorBrewer (colorbrewer2.org): from paper white to navy, darker at every step.
BLUES: tuple[Colour, ...] = ((247, 251, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
MISSING: Colour = (221, 221, 221)


@dataclass(frozen=True)
class Scale:
    """The range of values that the colours span; what lies outside gets the colour of the nearest end."""

    low: float
    high: float

    def fraction(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1."""
        if self.high == self.low:
            return 0.5
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def colour(self, value: float) -> Colour:
        """The colour of a value on paper: the higher, the darker."""
        if not math.isfinite(value):
            return MISSING
        place = self.fraction(value) * (len(BLUES) - 1)
        step = min(int(place), len(BLUES) - 2)
        red, green, blue = (round(a + (b - a) * (place - step)) for a, b in zip(BLUES[step], BLUES[step + 1], strict=True))
        return red, green, blue

    def text(self, value: float) -> str:
        """The value with as many digits as the range calls for.

        >>> Scale(0, 1).text(0.875), Scale(0, 250).text(12), Scale(0, 1).text(-0.0001)
        ('0.88', '12', '0.00')
        """
        largest = max(abs(self.low), abs(self.high))
        if not math.isfinite(value):
            return "–"
        if largest and not 1e-4 <= largest < 1e6:
            return f"{value:.1e}"
        shown = f"{value:.{max(0, 2 - math.floor(math.log10(largest * 1.005 or 1)))}f}"
        return shown if shown.strip("-0.") else shown.lstrip("-")


def numbers(values: Table, rows: Sequence[str], columns: Sequence[str]) -> list[list[float]]:
    """The values as plain numbers.

    Raises:
        ValueError: there are not as many as the labels say.
    """
    table = [[float(value) for value in row] for row in values]
    if [len(row) for row in table] != [len(columns)] * len(rows):
        raise ours(
            ValueError, f"{len(rows)} rows of {len(columns)} values are labelled, but {[len(row) for row in table]} values were given"
        )
    return table


def scale_of(table: list[list[float]], limits: tuple[float, float] | None) -> Scale:
    """The scale with the given ends, or with the smallest and largest value as its ends."""
    if limits is not None:
        return Scale(*limits)
    finite = [value for row in table for value in row if math.isfinite(value)] or [0.0]
    return Scale(min(finite), max(finite))


def luminance(colour: Colour) -> float:
    """How bright a colour is, from 0 to 1 (WCAG 2.2, relative luminance)."""
    red, green, blue = (part / 3294.6 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def is_bright(colour: Colour) -> bool:
    """Whether black reads better on it than white; the better one has a contrast of 4.5 or more on any colour."""
    return luminance(colour) > 0.179
