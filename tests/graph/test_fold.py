"""Recorded turns as loops; needs no torch."""

from __future__ import annotations

import msgspec
import pytest

from nnsight_graph.graph import Site, Turn, build_graph, fold, graph_text, verify


def at(step, name="fc"):
    return Site(name, "output", step=step)


def folded(turns, *, constants=(), chosen="0:9:1", above=(), below=(), steps=None, lines=()):
    """The text of a graph whose turns recorded these entries; a constant is named by its value's type, in order."""
    entries, marks = list(above), []
    for step, turn in zip(steps or range(len(turns)), turns, strict=True):
        marks.append(Turn(1, chosen, step, len(entries), len(entries) + len(turn), ("loop.py", 3, "for ...")))
        entries += turn
    graph = build_graph([*entries, *below], range(len(constants)), constants, (), lines)
    made = fold(msgspec.structs.replace(graph, turns=tuple(marks)))
    verify(made)
    assert made.turns == ()
    return graph_text(made).splitlines()


def test_no_turns_no_change():
    graph = build_graph([("read", at(0)), ("save", 0)], [])
    assert fold(graph) is graph


def test_alike():
    assert folded([[("read", at(0)), ("log", 0)], [("read", at(1)), ("log", 2)]]) == [
        "%4 = in the steps 0:2:",
        "    %0 = fc.output [this step]",
        "    log(%0)",
    ]


def test_a_carried_value_and_its_last():
    turns = [[("read", at(0)), ("add", float, 0)], [("read", at(1)), ("add", 1, 2)], [("read", at(2)), ("add", 3, 4)]]
    assert folded(turns, constants=[0.5], below=[("save", 5)]) == [
        "%7 = in the steps 0:3, carrying 0.5:",
        "    carry %1",
        "    %8 = carried 0 of %7",
        "    %0 = fc.output [this step]",
        "    %1 = %8 + %0",
        "%5 = %7 carried 0",
        "save %5",
    ]


def test_only_the_last_is_used_below():
    turns = [[("read", at(0))], [("read", at(1))]]
    assert folded(turns, below=[("save", 1)]) == [
        "%3 = in the steps 0:2, carrying unbound:",
        "    carry %0",
        "    %0 = fc.output [this step]",
        "%1 = %3 carried 0",
        "save %1",
    ]


def constant_turns(count):
    return [entry for number in range(count) for entry in [[("read", at(number)), ("mul", 2 * number, int)]]]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((7, 7, 7), ["    %0 = fc.output [this step]", "    %1 = %0 * 7"]),
        ((0, 1, 2), ["    %7 = item of %6", "    %0 = fc.output [this step]", "    %1 = %0 * %7"]),
        ((3, 1, 2), ["    %7 = [3, 1, 2], one per turn of %6", "    %0 = fc.output [this step]", "    %1 = %0 * %7"]),
        ((0.0, -0.0, 0.0), ["    %7 = [0.0, -0.0, 0.0], one per turn of %6", "    %0 = fc.output [this step]", "    %1 = %0 * %7"]),
        ((1, 1.0, 1), ["    %7 = [1, 1.0, 1], one per turn of %6", "    %0 = fc.output [this step]", "    %1 = %0 * %7"]),
        ((0.0, 1.0, 2.0), ["    %7 = [0.0, 1.0, 2.0], one per turn of %6", "    %0 = fc.output [this step]", "    %1 = %0 * %7"]),
    ],
    ids=str,
)
def test_constants(values, texts):
    assert folded(constant_turns(3), constants=values) == ["%6 = in the steps 0:3:", *texts]


def test_several_runs():
    turns = [[("read", at(0))], [("read", at(1))], [("read", at(2)), ("log", 2)], [("read", at(3))], [("read", at(4))], [("read", at(5))]]
    turns[3:] = [[("read", at(3)), ("log", 4, 4)], [("read", at(4)), ("log", 6, 6)], [("read", at(5)), ("log", 8, 8)]]
    heads = [row for row in folded(turns) if not row.startswith(" ")]
    assert heads == ["%10 = in the steps 0:2:", "%2 = fc.output [step 2]", "log(%2)", "%11 = in the steps 3:6:"]


NAMED = [("0,5,2", (0, 5, 2), "0,5,2"), ("1:6:2", (1, 3, 5), "1:6:2"), ("0:6:1", (4, 5), "4:6"), ("4:7:1", (4, 5), "4:6")]


@pytest.mark.parametrize(("chosen", "steps", "text"), NAMED)
def test_the_steps_are_named(chosen, steps, text):
    assert folded([[("read", at(step))] for step in steps], chosen=chosen, steps=steps)[0].endswith(f" = in the steps {text}:")


def test_a_loop_in_a_turn_is_folded_first():
    entries = [("read", at(inner)) for _ in range(2) for inner in (4, 5, 6)]
    turns = [Turn(2, "4:7:1", step, place, place + 1) for place, step in enumerate((4, 5, 6))]
    turns += [Turn(1, "0:2:1", 0, 0, 3), *(Turn(3, "4:7:1", step, 3 + place, 4 + place) for place, step in enumerate((4, 5, 6)))]
    graph = msgspec.structs.replace(build_graph(entries, []), turns=(*turns, Turn(1, "0:2:1", 1, 3, 6)))
    verify(fold(graph))
    assert [row.split(" = ")[1] for row in graph_text(fold(graph)).splitlines()] == [
        "in the steps 0:2:",
        "in the steps 4:7:",
        "fc.output [this step]",
    ]


def test_in_an_invoke():
    entries = [("invoke", "rows:0"), ("read", at(0)), ("read", at(1)), ("end",)]
    graph = msgspec.structs.replace(build_graph(entries, []), turns=(Turn(1, "0:2:1", 0, 1, 2), Turn(1, "0:2:1", 1, 2, 3)))
    assert graph_text(fold(graph)).splitlines() == [
        "invoke rows:0:",
        "    %3 = in the steps 0:2:",
        "        %1 = fc.output [this step]",
    ]


LEFT = {
    "other modules": [[("read", at(0))], [("read", at(1, "other"))]],
    "other lines": [[("read", at(0))], [("read", at(1)), ("log", 1)]],
    "a step ahead": [[("read", at(1))], [("read", at(2))]],
    "saved in each": [[("read", at(0)), ("save", 0)], [("read", at(1)), ("save", 2)]],
    "another literal": [[("read", at(0)), ("sum", 0, "True")], [("read", at(1)), ("sum", 2, "False")]],
    "another name": [[("read", at(0)), ("sum", 0, ("**", "a", 0))], [("read", at(1)), ("sum", 2, ("**", "b", 2))]],
    "another place inside": [[("read", at(0)), ("neg", 0), ("log", 0)], [("read", at(1)), ("neg", 3), ("log", 4)]],
    "the step of a loop around": [[("read", at("turn"))], [("read", at("turn"))]],
    "one turn": [[("read", at(0))]],
    "an empty turn between": [[("read", at(0))], [], [("read", at(2))]],
    "none": [],
}


@pytest.mark.parametrize("turns", LEFT.values(), ids=LEFT)
def test_left_as_they_are(turns):
    assert not any("in the steps" in row for row in folded(turns))


def test_left_where_an_earlier_turn_is_used_below():
    assert len(folded([[("read", at(0))], [("read", at(1))]], below=[("add", 0, 1)])) == 3


def test_left_where_two_turns_back_is_used():
    turns = [[("read", at(number)), ("log", max(0, 2 * number - 4))] for number in range(5)]
    assert [row for row in folded(turns) if "in the" in row or "per turn" in row] == []


def test_left_in_a_loop_over_values():
    entries = [("read", at(0)), ("for", 0), ("log", 0), ("log", 0), ("end", "False")]
    graph = msgspec.structs.replace(build_graph(entries, []), turns=(Turn(1, "0:2:1", 0, 2, 3), Turn(1, "0:2:1", 1, 3, 4)))
    assert fold(graph).body == graph.body


def test_lines():
    places = tuple((f"{name}.py", number, "") for name in "ab" for number in (1, 2))
    turns = [[("read", at(0)), ("mul", 0, int)], [("read", at(1)), ("mul", 2, int)]]
    rows = folded(turns, constants=[5, 3], lines=places, below=[("save", 3)])
    assert [" ".join(row.split()) for row in rows] == [
        "%5 = in the steps 0:2, carrying unbound: # loop.py:3",
        "carry %1",
        "%6 = [5, 3], one per turn of %5 # a.py:2",
        "%0 = fc.output [this step] # a.py:1",
        "%1 = %0 * %6 # a.py:2",
        "%3 = %5 carried 0 # b.py:2",
        "save %3",
    ]
