"""Frozen nodes -> entries again, the form in which a program is compiled; the inverse of ``build.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .nodes import Const, Graph, Group, Literal, Node, Operand, Ref, Region


class Flat(NamedTuple):
    """A program as entries.

    Attributes:
        entries: One per node, and one per ``else`` and ``end``.
        indices: The constants' positions in order of use.
        places: For each node of the graph, by its number there, the number of its entry.
        origins: For each entry, the node of the graph that it belongs to.
    """

    entries: list[tuple[Any, ...]]
    indices: list[int]
    places: dict[int, int]
    origins: list[Node]


def flatten(graph: Graph, describe: Callable[[Any], Any]) -> Flat:
    """The entries of a graph, numbered in program order.

    Args:
        graph: The graph.
        describe: What stands for a constant in an entry.

    >>> from nnsight_graph.graph import Site, build_graph
    >>> entries = [("read", Site("fc", "output")), ("add", 0, float), ("save", 1)]
    >>> flatten(build_graph(entries, [0], [2.0]), type).entries == entries
    True
    """
    made = Flat([], [], numbered(graph.body), [])
    _write(graph.body, made, graph.constants, describe)
    return made


def numbered(region: Region) -> dict[int, int]:
    """For each node of a region, by its number, its place in program order: ends of regions count."""
    places: dict[int, int] = {}
    _number(region, places, 0)
    return places


def _number(region: Region, places: dict[int, int], free: int) -> int:
    for node in region.nodes:
        places[node.number] = free
        free += 1
        for inner in node.regions:
            free = _number(inner, places, free) + 1  # its end, or the else
    return free


def _write(region: Region, made: Flat, constants: tuple[Any, ...], describe: Callable[[Any], Any]) -> None:
    def operand(given: Operand) -> Any:
        if type(given) is Ref:
            return made.places[given.node]
        if type(given) is Literal:
            return given.name
        if type(given) is Group:
            return (given.kind, *map(operand, given.items))
        assert type(given) is Const
        made.indices.append(given.index)
        return describe(constants[given.index])

    for node in region.nodes:
        entry: tuple[Any, ...] = (node.target,) if node.site is None else (node.target, node.site)
        entry += tuple(map(operand, node.operands))
        if node.keywords:
            entry += (("**", *[part for name, given in node.keywords for part in (name, operand(given))]),)
        made.entries.append(entry)
        made.origins.append(node)
        for place, inner in enumerate(node.regions):
            _write(inner, made, constants, describe)
            last = place == len(node.regions) - 1
            made.entries.append(("end" if last else "else", *map(operand, inner.results)))
            made.origins.append(node)
