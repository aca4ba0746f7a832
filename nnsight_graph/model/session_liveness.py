"""Which values of a session are used: rewritten blocks hand every name on from turn to turn, and most are never looked at again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..graph import Node, Ref, Region, references_of
from ..graph.walk import references_in

_PASSIVE = frozenset(("param", "result", "merge"))
_LOOPS = frozenset(("for", "while"))
_FIRST = {"for": 1, "while": 0}


class Liveness:
    """Finds the nodes whose values something depends on.

    Attributes:
        live: Their numbers.
        carried: For each loop, which of the values that it carries are among them.
    """

    def __init__(self, body: Region, saved: frozenset[int]) -> None:
        self.live: set[int] = set()
        self.carried: dict[int, set[int]] = {}
        self._nodes: dict[int, Node] = {}
        self._ahead: list[int] = list(saved)
        self._collect(body.nodes)
        while self._ahead:
            self._mark(self._ahead.pop())

    def _collect(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._nodes[node.number] = node
            if node.target in _LOOPS:
                self.carried[node.number] = set()
                self._ahead += [number for operand in node.operands[: _FIRST[node.target]] for number in references_in(operand)]
                self._ahead += [number for operand in node.regions[0].results[:1] for number in references_in(operand)]
            elif node.target == "check":
                self._ahead += list(references_in(node.operands[0]))
            elif node.target not in _PASSIVE:
                self._ahead += references_of(node)
            for region in node.regions:
                self._collect(region.nodes)

    def _mark(self, number: int) -> None:
        if number in self.live or number not in self._nodes:
            return
        self.live.add(number)
        node = self._nodes[number]
        if node.target == "merge":
            self._ahead += [other for operand in node.operands[1:] for other in references_in(operand)]
        elif node.target in ("param", "result") and node.operands[1].name != "item":  # type: ignore[union-attr]
            loop = node.operands[0]
            assert type(loop) is Ref
            self._carry(self._nodes[loop.node], int(node.operands[1].name))  # type: ignore[union-attr]

    def _carry(self, loop: Node, place: int) -> None:
        """A carried value is looked at: what it begins with, and what each turn makes of it, is used."""
        if loop.target not in _LOOPS or place in self.carried[loop.number]:
            return
        self.carried[loop.number].add(place)
        body = loop.regions[0]
        for operand in (loop.operands[_FIRST[loop.target] + place], body.results[1 + place], *_checked(body, place)):
            self._ahead += list(references_in(operand))


def _checked(body: Region, place: int) -> Iterator[Any]:
    for node in body.nodes:
        if node.target == "check":
            yield node.operands[1 + place]
