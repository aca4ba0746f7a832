"""A graph against the table of laws; needs no torch."""

from __future__ import annotations

import pytest

from nnsight_graph.errors import CheckError
from nnsight_graph.graph import Const, Graph, Node, Ref, Region, Site, build_graph, verify
from nnsight_graph.graph.laws import LAWS, OPERATION, law_of

FC, RESULT, WEIGHT, CALL = Site("fc", "output"), Site("", "result"), Site("fc.weight", "parameter"), Site("fc", "call")

LEGAL = {
    "read": [("read", FC)],
    "result": [("read", RESULT)],
    "write": [("read", FC), ("write", FC, 0)],
    "parameter": [("parameter", WEIGHT), ("save", 0)],
    "module": [("read", FC), ("module", CALL, 0), ("save", 1)],
    "operation": [("read", FC), ("add", 0, 0), ("save", 1)],
    "log": [("read", FC), ("log", 0, 0)],
    "setattr": [("read", FC), ("setattr", 0, "a", 0)],
    "unpack": [("read", FC), ("unpack", 0, "2")],
    "empty": [],
}


@pytest.mark.parametrize("entries", LEGAL.values(), ids=LEGAL)
def test_legal(entries):
    verify(build_graph(entries, []))


ILLEGAL = {
    "site missing": ([("read",)], "%0 read: needs a site"),
    "site too many": ([("add", FC)], "%0 add: may not have a site"),
    "wrong point": ([("read", WEIGHT)], r"%0 read: may not stand on fc\.weight\.parameter"),
    "writing the result": ([("read", FC), ("write", RESULT, 0)], "%1 write: may not stand on result"),
    "calling an output": ([("module", FC)], r"%0 module: may not stand on fc\.output"),
    "operands of a write": ([("read", FC), ("write", FC, 0, 0)], "%1 write: takes 1 operands, has 2"),
    "operands of a save": ([("save",)], "%0 save: takes 1 operands, has 0"),
    "operands of setattr": ([("read", FC), ("setattr", 0)], "takes 3 operands, has 1"),
    "a value below": ([("add", 1, 1), ("read", FC)], "%0 add: uses %1, which is not a value above it"),
    "itself": ([("add", 0)], "uses %0"),
    "no such node": ([("read", FC), ("add", 7)], "uses %7"),
    "no value": ([("read", FC), ("save", 0), ("add", 1)], "%2 add: uses %1"),
    "inside a group": ([("read", FC), ("f", ("tuple", 0, ("list", 5)))], "uses %5"),
    "by name": ([("read", FC), ("f", 0, ("**", "x", 3))], "uses %3"),
}


@pytest.mark.parametrize(("entries", "match"), ILLEGAL.values(), ids=ILLEGAL)
def test_illegal(entries, match):
    with pytest.raises(CheckError, match=match):
        verify(build_graph(entries, []))


def test_a_constant_that_is_not_there():
    with pytest.raises(CheckError, match="uses constant 3 of 1"):
        verify(Graph(Region((Node(0, "f", (Const(3),)),)), (1,)))


@pytest.mark.parametrize("index", [-1, 0])
def test_a_constant_by_a_wrong_index(index):
    with pytest.raises(CheckError, match=f"uses constant {index} of 0"):
        verify(Graph(Region((Node(0, "f", (Const(index),)),))))


def test_a_region_too_many():
    with pytest.raises(CheckError, match="holds 0 regions, has 1"):
        verify(Graph(Region((Node(0, "f", regions=(Region(()),)),))))


def test_a_number_that_stands_twice():
    with pytest.raises(CheckError, match="%0 read: stands there twice"):
        verify(Graph(Region((Node(0, "read", site=FC), Node(0, "read", site=FC)))))


def test_the_line_is_named():
    graph = build_graph([("read", FC), ("add", 4)], [], lines=(("a.py", 3, "x"), ("b.py", 4, "y = x + z")))
    with pytest.raises(CheckError, match=r"node %1 add \(b.py:4\): uses %4"):
        verify(graph)


def test_what_is_not_in_the_table_is_an_operation():
    assert law_of("torch.relu") is OPERATION
    assert law_of("read") is LAWS["read"]
    assert not any(LAWS[name].value for name in ("write", "save", "log", "setattr"))


def test_references_are_checked_for_a_node_made_by_hand():
    with pytest.raises(CheckError, match="uses %9"):
        verify(Graph(Region((Node(0, "f", (Ref(9),)),))))
