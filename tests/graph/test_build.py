"""Recorded entries become frozen nodes; needs no torch."""

from __future__ import annotations

import sys

import pytest

from nnsight_graph.graph import Const, Group, Literal, Ref, Site, build_graph, operands_of, references_of, unused_methods, walk

FC = Site("fc", "output")


def test_the_folder_needs_no_torch():
    loaded = [name for name in sys.modules if name.startswith("nnsight_graph.graph")]
    assert loaded
    assert all("torch" not in vars(sys.modules[name]) for name in loaded)


def test_operands():
    entry = ("f", 0, float, "None", ("tuple", 0, ("list", int)), ("**", "dim", int, "keepdim", "True"))
    graph = build_graph([("read", FC), entry], [0, 1, 2], [1.5, 7, -1])
    node = graph.body.nodes[1]
    assert node.operands == (Ref(0), Const(0), Literal("None"), Group("tuple", (Ref(0), Group("list", (Const(1),)))))
    assert node.keywords == (("dim", Const(2)), ("keepdim", Literal("True")))
    assert (node.number, node.target, node.site, node.regions) == (1, "f", None, ())


def test_a_constant_may_stand_twice():
    graph = build_graph([("read", FC), ("add", 0, (object, 1)), ("mul", 1, (object, 1))], [0, 0], ["tensor"])
    assert [node.operands[1] for node in graph.body.nodes[1:]] == [Const(0), Const(0)]


def test_sites_in_order_of_first_use():
    other = Site("a", "input", 2)
    graph = build_graph([("read", FC), ("read", other), ("write", FC, 1)], [])
    assert graph.sites == (FC, other)


@pytest.mark.parametrize(
    ("site", "text"),
    [(FC, "fc.output"), (Site("", "result"), "result"), (Site("h.0", "input", 2), "h.0.input@2"), (Site("", "output"), "output")],
)
def test_the_name_of_a_site(site, text):
    assert str(site) == text


def test_graphs_are_data():
    entries = [("read", FC), ("add", 0, float), ("save", 1)]
    assert build_graph(entries, [0], [1.0]) == build_graph(entries, [0], [1.0])
    assert build_graph(entries, [0], [1.0]).body == build_graph(entries, [0], [2.0]).body
    assert hash(build_graph(entries, [0], [1.0]).body) == hash(build_graph(entries, [0], [2.0]).body)
    with pytest.raises(AttributeError):
        build_graph(entries, [0], [1.0]).constants = ()


def test_walking_and_references():
    graph = build_graph([("read", FC), ("bound", 0, "sum"), (".sum", 0), ("f", ("tuple", 0, 2), ("**", "x", 1))], [])
    assert [node.number for node in walk(graph.body)] == [0, 1, 2, 3]
    last = graph.body.nodes[3]
    assert list(references_of(last)) == [0, 2, 1]
    assert list(operands_of(last)) == [Ref(0), Ref(2), Ref(1)]


def test_a_method_that_was_only_called_is_unused():
    taken = [("read", FC), ("bound", 0, "sum"), (".sum", 0)]
    assert unused_methods(build_graph(taken, []).body) == {1}
    assert unused_methods(build_graph([*taken, ("save", 1)], []).body) == set()
    assert unused_methods(build_graph(taken[:1], []).body) == set()
