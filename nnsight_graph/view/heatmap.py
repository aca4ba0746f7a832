"""A heat map as an SVG picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from xml.sax.saxutils import escape, quoteattr

from .labels import columns as columns_of
from .labels import shortened, visible
from .scale import BLUES, Colour, Scale, Table, is_bright, numbers, scale_of

FONT = 12  # pixels, as every length below
HEIGHT, WIDEST, NARROWEST, WIDTH = 28, 52, 16, 1100  # of a cell; of all cells together, roughly
BAR, GAP, MARGIN = 14, 10, 16
SHORTEST = 64  # colour bar
EDGE = 'stroke="#bbbbbb" stroke-width="0.5"'
LONGEST = 24  # columns of a label
TILT = 0.7071  # labels that are wider than their cell lean by 45 degrees


def heatmap_svg(
    values: Table,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    row_title: str = "",
    column_title: str = "",
    value_title: str = "",
    limits: tuple[float, float] | None = None,
) -> str:
    """Draw a table of numbers as a heat map, with labels, a colour bar, and each value in its cell where it fits.

    Args:
        values: Rows of numbers, from the top: nested lists, an array or a tensor of two dimensions. What is not
            finite is drawn in grey.
        rows: A label for each row, shown at its left.
        columns: A label for each column, shown below it, leaning where it is wider than the column.
        title: Stands above the picture.
        row_title: Says what the rows are.
        column_title: Says what the columns are.
        value_title: Says what the colours mean, beside the colour bar.
        limits: The values of the lightest and the darkest colour; by default the smallest and the largest value.

    Returns:
        An SVG document. Each cell has a tooltip and its value as ``data-value``.

    Raises:
        ValueError: there are not as many values as labels.

    Example:
        >>> picture = heatmap_svg([[0.0, 0.5], [0.25, 1.0]], rows=["0", "1"], columns=["The", "Tower"], title="Patching")
        >>> picture.startswith("<svg"), picture.count("data-value")
        (True, 4)
    """
    table = numbers(values, rows, columns)
    shown_rows, shown_columns = ([shortened(visible(label), LONGEST) for label in labels] for labels in (rows, columns))
    titles = tuple(visible(text) for text in (title, row_title, column_title, value_title))
    return _Picture(table, scale_of(table, limits), shown_rows, shown_columns, *titles).document()


def _pixels(text: str, size: int = FONT) -> float:
    """The width of a text, estimated on the wide side."""
    return columns_of(text) * size * 0.62


def _widest(labels: Sequence[str]) -> float:
    return max(map(_pixels, labels), default=0.0)


def _text(x: float, y: float, text: str, options: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {options}>{escape(text)}</text>'


def _rgb(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


@dataclass(frozen=True)
class _Picture:
    """The layout: cells in the middle, rows' labels left, columns' labels below, the colour bar right, the title above."""

    table: list[list[float]]
    scale: Scale
    rows: list[str]
    columns: list[str]
    title: str
    row_title: str
    column_title: str
    value_title: str

    @cached_property
    def cell(self) -> float:
        """The width of a cell."""
        return max(NARROWEST, min(WIDEST, WIDTH // max(1, len(self.columns))))

    @cached_property
    def leaning(self) -> bool:
        return _widest(self.columns) > self.cell - 4

    @cached_property
    def left(self) -> float:
        """Where the cells begin; leaning labels reach to the left of their column."""
        labels = MARGIN + (FONT + GAP if self.row_title else 0) + _widest(self.rows) + GAP
        reach = [_pixels(label) * TILT - (at + 0.5) * self.cell for at, label in enumerate(self.columns)] if self.leaning else [0.0]
        return round(max(labels, MARGIN + max(reach, default=0.0)))

    @cached_property
    def top(self) -> float:
        return MARGIN + (2 * FONT + GAP if self.title else 0)

    @cached_property
    def right(self) -> float:
        """Where the cells end."""
        return self.left + self.cell * len(self.columns)

    @cached_property
    def bottom(self) -> float:
        return self.top + HEIGHT * len(self.rows)

    @cached_property
    def below(self) -> float:
        """Where the labels of the columns end."""
        return round(self.bottom + (GAP + _widest(self.columns) * TILT + FONT if self.leaning else GAP + FONT))

    @cached_property
    def ticks(self) -> list[str]:
        return [self.scale.text(value) for value in self._tick_values()]

    @cached_property
    def width(self) -> float:
        bar = GAP * 2 + BAR + 6 + _widest(self.ticks) + (FONT + GAP if self.value_title else 0)
        return round(max(self.right + bar, MARGIN + _pixels(self.title, FONT + 3)) + MARGIN)

    @cached_property
    def height(self) -> float:
        return max(self.below + (FONT + GAP if self.column_title else 0), self.top + self.tall) + MARGIN

    @cached_property
    def tall(self) -> float:
        """The height of the colour bar: that of the rows, or more where three ticks or an upright title need it."""
        return round(max(self.bottom - self.top, SHORTEST, _pixels(self.row_title), _pixels(self.value_title)))

    def document(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" height="{self.height:g}" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label={quoteattr(self.title or "heat map")} '
            f'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" font-size="{FONT}" fill="#222222">'
        )
        paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
        return "\n".join([head, paper, *self._titles(), *self._labels(), *self._cells(), *self._bar(), "</svg>"]) + "\n"

    def _titles(self) -> Iterator[str]:
        if self.title:
            yield _text(MARGIN, MARGIN + FONT, self.title, f'font-size="{FONT + 3}" font-weight="600"')
        if self.row_title:
            middle = self.top + max(self.bottom - self.top, _pixels(self.row_title)) / 2
            yield self._upright(MARGIN + FONT - 2, middle, self.row_title)
        if self.column_title:
            yield _text((self.left + self.right) / 2, self.below + GAP + FONT, self.column_title, 'text-anchor="middle" font-weight="600"')
        if self.value_title:
            x = self.right + GAP * 2 + BAR + 6 + _widest(self.ticks) + GAP + FONT
            yield self._upright(x, self.top + self.tall / 2, self.value_title)

    def _upright(self, x: float, y: float, text: str) -> str:
        return _text(x, y, text, f'text-anchor="middle" font-weight="600" transform="rotate(-90 {x:g} {y:g})"')

    def _labels(self) -> Iterator[str]:
        for at, label in enumerate(self.rows):
            yield _text(self.left - GAP, self.top + HEIGHT * (at + 0.5) + 4, label, 'text-anchor="end" class="row"')
        for at, label in enumerate(self.columns):
            x, y = self.left + self.cell * (at + 0.5), self.bottom + GAP + FONT - 2
            lean = f'text-anchor="end" transform="rotate(-45 {x + 3:g} {y:g})"' if self.leaning else 'text-anchor="middle"'
            yield _text(x + 3 if self.leaning else x, y, label, f'{lean} class="column"')

    def _cells(self) -> Iterator[str]:
        for row, values in enumerate(self.table):
            for column, value in enumerate(values):
                yield self._cell(row, column, value)

    def _cell(self, row: int, column: int, value: float) -> str:
        x, y, shown = self.left + self.cell * column, self.top + HEIGHT * row, self.scale.text(value)
        colour = self.scale.colour(value)
        tooltip = escape(f"{self.row_title} {self.rows[row]}, {self.columns[column]}: {shown}".strip())
        rectangle = (
            f'<rect x="{x:g}" y="{y:g}" width="{self.cell:g}" height="{HEIGHT}" fill="{_rgb(colour)}" stroke="#ffffff" '
            f'data-value="{value!r}"><title>{tooltip}</title></rect>'
        )
        if _pixels(shown) > self.cell - 4:
            return rectangle
        ink = "#000000" if is_bright(colour) else "#ffffff"
        return rectangle + _text(x + self.cell / 2, y + HEIGHT / 2 + 4, shown, f'text-anchor="middle" pointer-events="none" fill="{ink}"')

    def _tick_values(self) -> list[float]:
        low, high = self.scale.low, self.scale.high
        return [low] if low == high else [low, (low + high) / 2, high]

    def _bar(self) -> Iterator[str]:
        """The colour bar: lightest below, darkest above. Its gradient is named after what it shows, as pages may hold several."""
        name = f"scale-{zlib.crc32(repr((BLUES, self.scale)).encode()):08x}"
        x, bottom = self.right + GAP * 2, self.top + self.tall
        yield f'<linearGradient id="{name}" x1="0" y1="1" x2="0" y2="0">'
        yield from (f'<stop offset="{at / (len(BLUES) - 1):g}" stop-color="{_rgb(colour)}"/>' for at, colour in enumerate(BLUES))
        yield "</linearGradient>"
        yield f'<rect x="{x:g}" y="{self.top:g}" width="{BAR}" height="{self.tall:g}" fill="url(#{name})" {EDGE}/>'
        for value, shown in zip(self._tick_values(), self.ticks, strict=True):
            y = bottom - 4 - self.scale.fraction(value) * (self.tall - 8)
            yield _text(x + BAR + 6, y + 4, shown, 'class="tick"')
