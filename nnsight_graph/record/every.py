"""Lines about every step -> the body of one loop over steps.

``module.all()`` makes the lines below it about every step of that module. What such a line reads, and every line that uses
its value, takes part in each step; the other lines run once: those that use what the steps have edited when all steps are over,
the others before the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..errors import RecordError
from ..graph import Const, Graph, Group, Literal, Node, Operand, Ref, Region, Site, operands_of, references_of, walk
from ..ops.effect import OPAQUE, Effect, parse, shared, written
from ..ops.table import effect_of

EVERY = "every"
"""The step of a site that is meant in all steps."""

Shared = tuple[tuple[int, ...], ...]
"""Groups of constants on one storage."""

_EFFECTS = {"bound": parse("maybe:0"), "unpack": parse("view:0"), "setattr": parse("mutates:0 maybe:2"), "call": OPAQUE, "merge": OPAQUE}
_PURE = parse("pure")
_WITHOUT = frozenset(
    "read write parameter save log assume param check if for while steps invoke raise under skip stop".split(),
)


def gather(graph: Graph, free: int) -> Graph:
    """``graph`` with its lines about every step in loops; ``free`` is a number that no node has yet.

    Raises:
        RecordError: a line about every step uses what is there only when all steps are over; it has a ``node``.
    """
    inside = _every_step(graph.body)
    return msgspec.structs.replace(graph, body=_gathered(graph.body, inside, free, graph.shared)) if inside else graph


def _every_step(region: Region) -> set[int]:
    """The nodes that take part in every step."""
    found: set[int] = set()
    for node in walk(region):
        if (node.site is not None and node.site.step == EVERY) or not found.isdisjoint(references_of(node)):
            found.add(node.number)
    return found


def _gathered(region: Region, inside: set[int], free: int, shared_: Shared) -> Region:
    numbered = enumerate(region.nodes, free + 1)
    nodes = [_opened(node, inside, number, shared_) if node.target == "invoke" else node for number, node in numbered]
    before, body, after = _sorted(nodes, inside, shared_)
    if not body:
        return msgspec.structs.replace(region, nodes=tuple(nodes))
    turn = Region(tuple(map(_in_turn, body)), (Literal("False"),))
    loop = Node(free, "steps", (Literal("0:None:1"),), regions=(turn,))
    return msgspec.structs.replace(region, nodes=(*before, loop, *after))


def _sorted(nodes: list[Node], inside: set[int], shared_: Shared) -> tuple[list[Node], list[Node], list[Node]]:
    """The nodes before the loop, in it, and after it."""
    flow = _Flow(shared_)
    before: list[Node] = []
    body: list[Node] = []
    after: list[Node] = []
    taking_part = [node.target != "invoke" and not inside.isdisjoint(inner.number for inner in _all(node)) for node in nodes]
    for place, (node, takes_part) in enumerate(zip(nodes, taking_part, strict=True)):
        if takes_part:
            flow.turn(node)
            body.append(node)
        else:
            (after if flow.waits(node) or not any(taking_part[place:]) else before).append(node)
        for inner in _all(node):
            flow.note(inner, takes_part)
    return before, body, after


class _Flow:
    """What is known of storage while nodes are sorted: who may share it, who has read it and who has edited it in the steps."""

    def __init__(self, shared_: Shared) -> None:
        self.leader = {_number(index): _number(group[0]) for group in shared_ for index in group}
        self.edited: set[int] = set()
        self.read: set[int] = set()
        self.late: set[int] = set()

    def find(self, number: int) -> int:
        while self.leader.get(number, number) != number:
            number = self.leader[number]
        return number

    def groups(self, node: Node) -> set[int]:
        return {self.find(number) for inner in _all(node) for operand in operands_of(inner) for number in _references(operand)}

    def waits(self, node: Node) -> bool:
        """Whether a line that runs once has to run when all steps are over."""
        groups = self.groups(node)
        edits = {self.find(ref) for inner in _all(node) for ref in _edited(inner)}
        waits = not groups.isdisjoint(self.edited | self.late) or not edits.isdisjoint(self.read)
        if waits:
            self.late |= groups & edits | {inner.number for inner in _all(node)}
        return waits

    def turn(self, node: Node) -> None:
        """Refuse a line of the steps that uses what is there only when they are over."""
        if self.late & (self.groups(node) | {reference for inner in _all(node) for reference in references_of(inner)}):
            error = RecordError("this line takes part in every step, but uses a value that is there only when all steps are over.")
            error.node = node.number  # type: ignore[attr-defined]
            raise error
        self.read |= self.groups(node)

    def note(self, node: Node, takes_part: bool) -> None:
        for reference in _sharing(node):
            if self.find(reference) != self.find(node.number):
                self._join(self.find(reference), self.find(node.number))
        if takes_part:
            self.edited |= {self.find(reference) for reference in _edited(node)}

    def _join(self, one: int, other: int) -> None:
        self.leader[other] = one
        for group in (self.edited, self.read, self.late):
            if other in group:
                group.add(one)


def _edited(node: Node) -> Iterator[int]:
    return _places(node, written)


def _sharing(node: Node) -> Iterator[int]:
    return _places(node, shared)


def _places(node: Node, kind: object) -> Iterator[int]:
    """The values that an operation writes into, or that its result may share storage with."""
    effect = _effect(node)
    args = [_seen(operand) for operand in node.operands]
    named = {name: _seen(operand) for name, operand in node.keywords}
    for found in kind(effect, args, named):  # type: ignore[operator]
        yield from _references(found)


def _effect(node: Node) -> Effect:
    if node.target in _WITHOUT:
        return _PURE
    return _EFFECTS[node.target] if node.target in _EFFECTS else effect_of(node.target)


def _seen(operand: Operand) -> object:
    known = {"None": None, "True": True, "False": False}
    return known[operand.name] if type(operand) is Literal and operand.name in known else operand


def _references(operand: object) -> Iterator[int]:
    if type(operand) is Ref:
        yield operand.node
    elif type(operand) is Const:
        yield _number(operand.index)
    elif type(operand) is Group:
        for item in operand.items:
            yield from _references(item)


def _number(constant: int) -> int:
    return -1 - constant


def _opened(node: Node, inside: set[int], free: int, shared_: Shared) -> Node:
    return msgspec.structs.replace(node, regions=tuple(_gathered(inner, inside, free * 1000, shared_) for inner in node.regions))


def _all(node: Node) -> list[Node]:
    return [node, *(inner for region in node.regions for inner in walk(region))]


def _in_turn(node: Node) -> Node:
    """The node, about the step of the loop around it."""
    site = node.site
    if site is not None and site.step == EVERY:
        site = Site(site.path, site.point, site.call, "turn")
    regions = tuple(msgspec.structs.replace(region, nodes=tuple(map(_in_turn, region.nodes))) for region in node.regions)
    return msgspec.structs.replace(node, site=site, regions=regions)
