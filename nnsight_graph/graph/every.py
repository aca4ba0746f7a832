"""Lines about every step -> the body of one loop over steps.

``module.all()`` makes the lines below it about every step of that module. What such a line reads, and every line that uses
its value, takes part in each step; the other lines run once. Here the former are put into one loop, in their order, where the
last of them stands.
"""

from __future__ import annotations

import msgspec

from .nodes import Literal, Node, Region, Site
from .walk import references_of, walk

EVERY = "every"
"""The step of a site that is meant in all steps."""


def gather(region: Region, free: int) -> Region:
    """``region`` with its lines about every step in loops; ``free`` is a number that no node has yet."""
    inside = _every_step(region)
    return _gathered(region, inside, free) if inside else region


def _every_step(region: Region) -> set[int]:
    """The nodes that take part in every step."""
    found: set[int] = set()
    for node in walk(region):
        if (node.site is not None and node.site.step == EVERY) or not found.isdisjoint(references_of(node)):
            found.add(node.number)
    return found


def _gathered(region: Region, inside: set[int], free: int) -> Region:
    nodes = [_opened(node, inside, free + 1 + place) if node.target == "invoke" else node for place, node in enumerate(region.nodes)]
    taking_part = [node.target != "invoke" and not inside.isdisjoint(inner.number for inner in _all(node)) for node in nodes]
    if not any(taking_part):
        return msgspec.structs.replace(region, nodes=tuple(nodes))
    end = len(taking_part) - taking_part[::-1].index(True)
    body = [_in_turn(node) for node, yes in zip(nodes, taking_part, strict=True) if yes]
    loop = Node(free, "steps", (Literal("0:None:1"),), regions=(Region(tuple(body), (Literal("False"),)),))
    before = [node for node, yes in zip(nodes[:end], taking_part, strict=False) if not yes]
    return msgspec.structs.replace(region, nodes=(*before, loop, *nodes[end:]))


def _opened(node: Node, inside: set[int], free: int) -> Node:
    return msgspec.structs.replace(node, regions=tuple(_gathered(inner, inside, free * 1000) for inner in node.regions))


def _all(node: Node) -> list[Node]:
    return [node, *(inner for region in node.regions for inner in walk(region))]


def _in_turn(node: Node) -> Node:
    """The node, about the step of the loop around it."""
    site = node.site
    if site is not None and site.step == EVERY:
        site = Site(site.path, site.point, site.call, "turn")
    regions = tuple(msgspec.structs.replace(region, nodes=tuple(map(_in_turn, region.nodes))) for region in node.regions)
    return msgspec.structs.replace(node, site=site, regions=regions)


