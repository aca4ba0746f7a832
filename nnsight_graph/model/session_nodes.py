"""What a session asks about the nodes of its program."""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import Node, Operand, Ref, Region, references_of
from ..graph.walk import references_in


def number_in(operand: Operand) -> int:
    """The number of the node that an operand names."""
    assert type(operand) is Ref
    return operand.node


def inside(node: Node) -> Iterator[int]:
    """All that a node, and what stands in it, refers to."""
    yield from references_of(node)
    for region in node.regions:
        for inner in region.nodes:
            yield from inside(inner)
        for result in region.results:
            yield from references_in(result)



def made_in(node: Node) -> Iterator[int]:
    """The nodes in the regions of a node."""
    for region in node.regions:
        for inner in region.nodes:
            yield inner.number
            yield from made_in(inner)


def around_check(body: Region) -> tuple[Region, tuple[Node, Region] | None]:
    """What of a loop's body comes before the check that may leave it; the check, and what comes after it."""
    place = next((place for place, node in enumerate(body.nodes) if node.target == "check"), -1)
    if place < 0:
        return body, None
    before = Region(body.nodes[:place], (*body.nodes[place].operands, *body.results, *_used_later(body, place)))
    return before, (body.nodes[place], Region(body.nodes[place + 1 :], body.results))


def _used_later(body: Region, place: int) -> tuple[Operand, ...]:
    """What the nodes after the check use: it is not to be freed before it."""
    return tuple(Ref(number) for node in body.nodes[place + 1 :] for number in inside(node))
