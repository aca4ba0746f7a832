"""The readable program; needs no torch."""

from __future__ import annotations

import functools

import pytest

from nnsight_graph.graph import Site, build_graph, graph_text
from nnsight_graph.graph.text import constant_text

FC = Site("fc", "output")


def text_of(*entries, constants=(), **options):
    return graph_text(build_graph([("read", FC), *entries], range(len(constants)), constants, **options)).splitlines()[1:]


ROWS = {
    "operator": (("add", 0, float), [2.0], "%1 = %0 + 2.0"),
    "reflected": (("sub", int, 0), [1], "%1 = 1 - %0"),
    "in place": (("iadd", 0, int), [1], "%1 = %0 += 1"),
    "matmul": (("matmul", 0, 0), [], "%1 = %0 @ %0"),
    "function": (("torch.relu", 0), [], "%1 = torch.relu(%0)"),
    "named": (("torch.sum", 0, ("**", "dim", int, "keepdim", "True")), [-1], "%1 = torch.sum(%0, dim=-1, keepdim=True)"),
    "method": ((".view", 0, int, int), [2, 3], "%1 = %0.view(2, 3)"),
    "attribute": (("@shape", 0), [], "%1 = %0.shape"),
    "item": (("getitem", 0, int), [3], "%1 = %0[3]"),
    "items": (("getitem", 0, ("tuple", "...", ("slice", "None", int, "None"), "None")), [2], "%1 = %0[..., :2, None]"),
    "slice": (("getitem", 0, ("slice", int, "None", int)), [1, 2], "%1 = %0[1::2]"),
    "empty tuple": (("getitem", 0, ("tuple",)), [], "%1 = %0[()]"),
    "list": (("getitem", 0, ("list", int, int)), [0, 1], "%1 = %0[[0, 1]]"),
    "setitem": (("setitem", 0, ("tuple", ("slice", "None", "None", "None"), int), int), [0, 9], "%0[:, 0] = 9"),
    "setattr": (("setattr", 0, "p", int), [1], "%0.p = 1"),
    "write": (("write", FC, 0), [], "fc.output = %0"),
    "save": (("save", 0), [], "save %0"),
    "log": (("log", str, 0), ["size"], "log('size', %0)"),
    "module": (("module", Site("fc", "call"), 0), [], "%1 = fc(%0)"),
    "one in a tuple": (("f", ("tuple", 0)), [], "%1 = f((%0,))"),
    "dict": (("f", ("dict", str, 0)), ["a"], "%1 = f({'a': %0})"),
    "parameter": (("parameter", Site("fc.weight", "parameter")), [], "%1 = fc.weight"),
}


@pytest.mark.parametrize(("entry", "constants", "text"), ROWS.values(), ids=ROWS)
def test_a_row(entry, constants, text):
    assert text_of(entry, constants=constants) == [text]


def test_the_line_stands_behind():
    rows = text_of(("save", 0), lines=(("/a/b/c.py", 3, "x"), ("/a/b/c.py", 14, "x.save()")))
    assert [row.split() for row in rows] == [["save", "%0", "#", "c.py:14"]]


def test_an_excerpt_marks_its_node():
    graph = build_graph([("read", FC), *[("neg", number) for number in range(9)]], [])
    rows = graph_text(graph, around=5).splitlines()
    assert rows == [f"{'--> ' if number == 5 else '    '}%{number} = neg(%{number - 1})" for number in range(2, 9)]


def test_a_method_that_was_called_is_not_shown_twice():
    assert text_of(("bound", 0, "sum"), (".sum", 0)) == ["%2 = %0.sum()"]
    assert text_of(("bound", 0, "sum"), (".sum", 0), ("save", 1)) == ["%1 = %0.sum", "%2 = %0.sum()", "save %1"]


class Shaped:
    shape, dtype = (2, 3), "torch.float32"


CONSTANTS = {
    "number": (1.5, "1.5"),
    "string": ("a", "'a'"),
    "tensor": (Shaped(), "float32[2, 3]"),
    "function": (test_the_line_stands_behind, f"{__name__}.test_the_line_stands_behind"),
    "long": ("x" * 100, "<str>"),
    "several lines": ("a\nb" * 30, "<str>"),
    "method of a builtin": ([].append, ".append"),
    "partial": (functools.partial(print, 1), "partial"),
    "lambda": (lambda: 1, "<lambda>"),
}


@pytest.mark.parametrize(("value", "text"), CONSTANTS.values(), ids=CONSTANTS)
def test_a_constant(value, text):
    assert text in constant_text(value)


def test_a_slot_of_an_object():
    assert "__add__" in constant_text((1).__add__)
