"""Heat maps show every value, in the right place and in a colour that grows with it."""

from __future__ import annotations

import io
import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
import torch

from nnsight_graph.view import heatmap_svg, heatmap_text, wants_colour
from nnsight_graph.view.scale import Colour, Scale, luminance
from nnsight_graph.view.terminal import NIGHT, _cube

SVG = "{http://www.w3.org/2000/svg}"
VALUES = [[0.0, 0.25, 0.5], [0.75, 1.0, -0.5]]
WORDS = ["The", "Eiffel", "Tower"]


def drawn(values: object = VALUES, rows: object = ("0", "1"), columns: object = WORDS, **options: object) -> ET.Element:
    return ET.fromstring(heatmap_svg(values, rows=rows, columns=columns, **options))


def cells(picture: ET.Element) -> list[ET.Element]:
    return [part for part in picture.iter(f"{SVG}rect") if "data-value" in part.attrib]


def texts(picture: ET.Element) -> list[str]:
    return [part.text or "" for part in picture.iter(f"{SVG}text")]


def rgb(colour: str) -> Colour:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("values", [VALUES, torch.tensor(VALUES), torch.tensor(VALUES).numpy()])
def test_values_are_in_their_cells(values: object) -> None:
    found = cells(drawn(values))
    assert [float(cell.get("data-value", "")) for cell in found] == [value for row in VALUES for value in row]
    xs, ys = sorted({float(cell.get("x", "")) for cell in found}), sorted({float(cell.get("y", "")) for cell in found})
    assert [(float(cell.get("x", "")), float(cell.get("y", ""))) for cell in found] == [(x, y) for y in ys for x in xs]


def test_values_labels_and_titles_are_written() -> None:
    titles = {"title": "Patching", "row_title": "layer", "column_title": "position", "value_title": "restored"}
    shown = texts(drawn(**titles, limits=(0, 1)))
    assert {"0.25", "-0.50", *WORDS, *titles.values()} <= set(shown)
    assert [part.text for part in drawn(limits=(0, 1)).findall(f"{SVG}text[@class='tick']")] == ["0.00", "0.50", "1.00"]


def test_higher_is_darker_and_text_stands_out() -> None:
    picture = drawn([[at / 100 for at in range(101)]], ["0"], [""] * 101)
    fills = [rgb(cell.get("fill", "")) for cell in cells(picture)]
    assert all(luminance(lighter) > luminance(darker) for lighter, darker in pairwise(fills))
    few = drawn([[at / 20 for at in range(21)]], ["0"], [""] * 21)
    inks = [rgb(part.get("fill", "")) for part in few.findall(f"{SVG}text[@pointer-events]")]
    assert len(inks) == 21
    assert min(contrast(ink, rgb(cell.get("fill", ""))) for ink, cell in zip(inks, cells(few), strict=True)) >= 4.5


def test_values_beyond_the_limits_have_the_colours_of_the_ends() -> None:
    below, low, high, above = (cell.get("fill") for cell in cells(drawn([[-5, 0, 1, 7]], ["0"], list("abcd"), limits=(0, 1))))
    assert (below, high) == (low, above)


def test_labels_are_escaped() -> None:
    labels = ["<b>&", "\n", "\x00]]>", '"']
    picture = drawn([[1, 2, 3, 4]], ["a<b"], labels, title='"<&>\'')
    assert {"<b>&", "\\n", "\\x00]]>", '"', "a<b", '"<&>\''} <= set(texts(picture))
    assert picture.get("aria-label") == '"<&>\''
    assert {cell.findtext(f"{SVG}title") for cell in cells(picture)} >= {"a<b, <b>&: 1.00"}


def box(part: ET.Element) -> float:
    """How far to the left a text that ends at its x may reach."""
    return float(part.get("x", "")) - len(part.text or "") * 12 * (0.45 if "rotate" in part.get("transform", "") else 0.62)


@pytest.mark.parametrize("columns", [["Charlottenburg Palace", "of"], ["塔" * 30] * 3, [f"position {at}" for at in range(60)], []])
def test_long_labels_lean_and_stay_inside(columns: list[str]) -> None:
    picture = drawn([[0.5] * len(columns)], ["the only row"], columns)
    labels = picture.findall(f"{SVG}text[@class='column']")
    assert all("rotate(-45" in label.get("transform", "") for label in labels)
    assert all(box(part) >= 0 for part in picture.iter(f"{SVG}text") if part.get("text-anchor") == "end")
    assert all(len(label.text or "") <= 24 for label in labels)


def test_a_single_row_has_room_for_the_bar_and_its_title() -> None:
    picture = drawn([[0, 1]], ["0"], ["a", "b"], value_title="restored logit difference", limits=(0, 1))
    assert float(picture.get("height", "")) > len("restored logit difference") * 7
    heights = [float(tick.get("y", "")) for tick in picture.findall(f"{SVG}text[@class='tick']")]
    assert all(lower - higher > 14 for lower, higher in pairwise(heights))


@pytest.mark.parametrize("values", [[[math.nan, 1.0]], [[math.inf, 1.0]], [[2.0, 2.0]], [[math.nan, math.nan]]])
def test_what_has_no_place_on_a_scale_is_drawn(values: list[list[float]]) -> None:
    assert len(cells(drawn(values, ["0"], ["a", "b"]))) == 2
    assert heatmap_text(values, rows=["0"], columns=["a", "b"], colour=True)


def test_labels_and_values_have_to_fit() -> None:
    with pytest.raises(ValueError, match="2 rows of 2 values are labelled, but"):
        heatmap_svg(VALUES, rows=["0", "1"], columns=["a", "b"])
    with pytest.raises(ValueError, match="1 rows of 3 values"):
        heatmap_text(VALUES, rows=["0"], columns=WORDS)


@pytest.mark.parametrize(
    ("high", "value", "shown"),
    [(1, -0.004, "0.00"), (0.999, 0.5, "0.50"), (20, 3.14159, "3.1"), (200, 70, "70"), (3e8, 1e8, "1.0e+08"), (0.01, 0.005, "0.0050")],
)
def test_numbers_have_as_many_digits_as_the_range_calls_for(high: float, value: float, shown: str) -> None:
    assert Scale(0, high).text(value) == shown


PLAIN = """\
layer    The Eiffel  Tower
    0   0.00   0.25░  0.50▒
    1   0.75▓  1.00█ -0.50

shades: 0.00 ░▒▓█ 1.00"""


def test_text_without_colours() -> None:
    assert heatmap_text(VALUES, rows=["0", "1"], columns=WORDS, row_title="layer", limits=(0, 1), width=40) == PLAIN


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("width", [14, 30, 80])
def test_text_keeps_to_the_width_and_shows_all_columns(width: int, colour: bool) -> None:
    words = ["Charlottenburg", "塔塔塔塔", "of", "\n"] * 3
    text = heatmap_text([[0.5] * 12, [-1.0] * 12], rows=["0", "1"], columns=words, width=width, colour=colour)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines[:-1])) <= width
    assert text.count("-1.00") == 12 + 1
    assert ("\x1b[" in text) is colour


def test_night_colours_grow_brighter_and_text_stands_out() -> None:
    assert all(luminance(_cube(darker)) < luminance(_cube(brighter)) for darker, brighter in pairwise(NIGHT))
    text = heatmap_text([[at / 10 for at in range(11)]], rows=["0"], columns=[""] * 11, colour=True)
    pairs = re.findall(r"38;5;(\d+)m\x1b\[48;5;(\d+)m", text)
    assert [int(ground) for _, ground in pairs[:11]] == list(NIGHT)
    assert min(contrast(_cube(int(ink)), _cube(int(ground))) for ink, ground in pairs) >= 4.5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
