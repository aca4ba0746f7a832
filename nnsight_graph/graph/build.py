"""Recorded entries -> frozen nodes. An entry is ``(target, operand, ...)``, the form a plan is looked up by.

An operand of an entry is an ``int`` (the node it refers to), a ``type`` or a tuple that starts with a type (the next
lifted constant, described), a ``str`` (a literal), or a tuple that starts with a ``str`` (a group). Named operands
come last, as one tuple ``("**", name, operand, ...)``; a site comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .laws import law_of
from .nodes import Const, Graph, Group, Literal, Node, Operand, Ref, Region, Site


class _Constants:
    """Hands out the indices of constants in the order in which the entries name them."""

    def __init__(self, indices: Sequence[int], used: int = 0) -> None:
        self._indices = indices
        self.used = used

    def operand(self, raw: Any) -> Operand:
        kind = type(raw)
        if kind is int:
            return Ref(raw)
        if kind is str:
            return Literal(raw)
        if kind is tuple and type(raw[0]) is str:
            return Group(raw[0], tuple(map(self.operand, raw[1:])))
        self.used += 1
        return Const(self._indices[self.used - 1])


def build_nodes(entries: Iterable[tuple[Any, ...]], indices: Sequence[int]) -> tuple[Node, ...]:
    """Frozen nodes of ``entries``; ``indices`` are the constants' positions in order of use.

    An entry of a kind that holds regions opens one; everything up to the matching ``("else",)`` or ``("end", ...)`` stands
    in it. The operands of an end are the region's results.
    """
    constants = _Constants(indices)
    opened: list[tuple[Node, list[Region]]] = []
    levels: list[list[Node]] = [[]]
    for number, entry in enumerate(entries):
        target = entry[0]
        if target == "end" or target == "else":
            results = tuple(map(constants.operand, entry[1:]))
            opened[-1][1].append(Region(tuple(levels.pop()), results))
            if target == "else":
                levels.append([])
            else:
                node, regions = opened.pop()
                levels[-1].append(msgspec.structs.replace(node, regions=tuple(regions)))
            continue
        node = _node(number, entry, constants)
        if law_of(node.target).regions:
            opened.append((node, []))
            levels.append([])
        else:
            levels[-1].append(node)
    return tuple(levels[0])


def build_entry(number: int, entry: tuple[Any, ...], indices: Sequence[int], used: int) -> tuple[Node, int]:
    """The node of one entry without its regions; ``used`` constants were named by the entries before it, and then by this one, too."""
    constants = _Constants(indices, used)
    node = _node(number, entry, constants)
    return node, constants.used


def _node(number: int, entry: tuple[Any, ...], constants: _Constants) -> Node:
    target, *rest = entry
    site = rest.pop(0) if rest and type(rest[0]) is Site else None
    keywords: tuple[tuple[str, Operand], ...] = ()
    named = rest.pop() if rest and type(rest[-1]) is tuple and rest[-1][0] == "**" else None
    operands = tuple(map(constants.operand, rest))
    if named:
        keywords = tuple((named[i], constants.operand(named[i + 1])) for i in range(1, len(named), 2))
    return Node(number, target, operands, keywords, site)


def build_graph(
    entries: Iterable[tuple[Any, ...]],
    indices: Sequence[int],
    constants: Sequence[Any] = (),
    shared: tuple[tuple[int, ...], ...] = (),
    lines: tuple[tuple[str, int, str], ...] = (),
) -> Graph:
    """A graph of recorded entries.

    >>> graph = build_graph([("read", Site("fc", "output")), ("add", 0, float), ("save", 1)], [0], [2.0])
    >>> graph.body.nodes[1].operands
    (Ref(node=0), Const(index=0))
    """
    return Graph(Region(build_nodes(entries, indices)), tuple(constants), shared, lines)
