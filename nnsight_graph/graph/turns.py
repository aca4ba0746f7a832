"""What one turn of a loop over steps recorded, taken apart: its shape, and the single operands that other turns may have otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .nodes import Group, Literal, Node, Operand, Ref, Region, Turn
from .walk import walk

_SAME = Ref(-1)


class At(NamedTuple):
    """The step of a site, and whether a loop over steps inside the turn holds it."""

    step: int | str
    inner: bool


Leaf = Operand | At
"""What may differ from turn to turn; no group and no literal."""


class Block:
    """What one turn recorded.

    Attributes:
        positions: For each node in it, at whatever depth, its place.
        visible: The nodes whose values are seen below the turn.
        shape: The nodes without what may differ.
        leaves: What may differ, in order.
        kinds: For each leaf, whether it is of the turn itself or of the turn before, and where there; else ``None``.
    """

    def __init__(self, turn: Turn, nodes: Sequence[Node], before: Block | None) -> None:
        self.turn, self.nodes = turn, nodes
        inside = list(walk(Region(tuple(nodes))))
        self.numbers = [node.number for node in inside]
        self.positions = {number: place for place, number in enumerate(self.numbers)}
        self.visible = _visible(nodes)
        self.whole = all(node.target != "save" for node in inside)
        self.leaves: list[Leaf] = []
        self.shape = [mapped(node, self._note, self.positions.__getitem__) for node in nodes]
        earlier = before.positions if before is not None else {}
        self.kinds = [self._kind(leaf, earlier) for leaf in self.leaves]

    def _note(self, leaf: Leaf) -> Leaf:
        self.leaves.append(leaf)
        return At("", leaf.inner) if type(leaf) is At else _SAME

    def _kind(self, leaf: Leaf, earlier: dict[int, int]) -> tuple[str, int] | None:
        if type(leaf) is not Ref:
            return None
        own = self.positions.get(leaf.node)
        if own is not None:
            return "own", own
        return ("before", earlier[leaf.node]) if leaf.node in earlier else None


def _visible(nodes: Sequence[Node]) -> set[int]:
    found = {node.number for node in nodes}
    for node in nodes:
        if node.target == "invoke":
            found |= _visible(node.regions[0].nodes)
    return found


def mapped(node: Node, leaf: Callable[[Leaf], Leaf], number: Callable[[int], int], inner: bool = False) -> Node:
    """A copy of ``node`` in which every leaf, in a fixed order, and every number is another."""

    def operand(old: Operand) -> Operand:
        if type(old) is Group:
            return Group(old.kind, tuple(map(operand, old.items)))
        return old if type(old) is Literal else leaf(old)  # type: ignore[return-value]

    site = node.site
    if site is not None:
        site = site._replace(step=leaf(At(site.step, inner)).step)  # type: ignore[union-attr]
    operands = tuple(map(operand, node.operands))
    keywords = tuple((name, operand(value)) for name, value in node.keywords)
    deeper = inner or node.target == "steps"
    regions = tuple(
        Region(tuple(mapped(one, leaf, number, deeper) for one in region.nodes), tuple(map(operand, region.results)))
        for region in node.regions
    )
    return Node(number(node.number), node.target, operands, keywords, site, regions)
