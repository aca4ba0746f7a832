"""Going through a graph: the one walk that everything else uses."""

from __future__ import annotations

from collections.abc import Iterator

from .nodes import Group, Node, Operand, Ref, Region


def walk(region: Region) -> Iterator[Node]:
    """Every node of ``region`` and of the regions inside it, in program order."""
    for node in region.nodes:
        yield node
        for inner in node.regions:
            yield from walk(inner)


def operands_of(node: Node) -> Iterator[Operand]:
    """Every operand of ``node``, positional and named, groups opened (and not given themselves)."""
    for operand in (*node.operands, *(value for _, value in node.keywords)):
        yield from leaves_of(operand)


def leaves_of(operand: Operand) -> Iterator[Operand]:
    """An operand, or what stands in it if it is a group."""
    if type(operand) is Group:
        for item in operand.items:
            yield from leaves_of(item)
    else:
        yield operand


def references_of(node: Node) -> Iterator[int]:
    """The numbers of the nodes whose values ``node`` uses."""
    return (operand.node for operand in operands_of(node) if type(operand) is Ref)


def references_in(operand: Operand) -> Iterator[int]:
    """The numbers of the nodes that an operand names."""
    return (item.node for item in leaves_of(operand) if type(item) is Ref)


def unused_methods(region: Region) -> set[int]:
    """The nodes that took a method to call it: the call names the method itself, so nothing else needs them."""
    taken = {node.number for node in walk(region) if node.target == "bound"}
    if not taken:
        return taken
    used = {reference for node in walk(region) for reference in references_of(node)}
    used |= {ref for node in walk(region) for inner in node.regions for result in inner.results for ref in references_in(result)}
    return taken - used
