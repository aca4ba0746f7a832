"""A graph against the table of laws."""

from __future__ import annotations

from ..errors import CheckError
from .laws import law_of
from .nodes import Const, Graph, Node
from .walk import operands_of, references_of, walk


def verify(graph: Graph) -> None:
    """Check every node against its law, and every reference against what stands above it.

    Raises:
        CheckError: names the node, its line and the rule it breaks.
    """
    defined: set[int] = set()
    last = -1
    for node in walk(graph.body):
        problem = _problem(node, defined, len(graph.constants)) if node.number > last else f"stands below %{last}"
        last = node.number
        if problem:
            where = f" ({graph.lines[node.number][0]}:{graph.lines[node.number][1]})" if graph.lines else ""
            raise CheckError(f"node %{node.number} {node.target}{where}: {problem}")
        if law_of(node.target).value:
            defined.add(node.number)


def _problem(node: Node, defined: set[int], constants: int) -> str | None:
    law = law_of(node.target)
    if bool(law.points) != (node.site is not None):
        return "needs a site" if law.points else "may not have a site"
    if node.site is not None and node.site.point not in law.points:
        return f"may not stand on {node.site}"
    if law.operands is not None and len(node.operands) != law.operands:
        return f"takes {law.operands} operands, has {len(node.operands)}"
    if len(node.regions) != law.regions:
        return f"holds {law.regions} regions, has {len(node.regions)}"
    for reference in references_of(node):
        if reference not in defined:
            return f"uses %{reference}, which is not a value above it"
    for operand in operands_of(node):
        if type(operand) is Const and not 0 <= operand.index < constants:
            return f"uses constant {operand.index} of {constants}"
    return None
