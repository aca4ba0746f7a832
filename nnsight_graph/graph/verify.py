"""A graph against the table of laws."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import CheckError
from ..source_location import Location
from .laws import law_of
from .nodes import Const, Graph, Group, Node, Operand, Ref, Region
from .walk import operands_of, references_in, references_of


def verify(graph: Graph) -> None:
    """Check every node against its law, and every reference against what stands above it and is seen from there.

    What is defined in a branch or in the body of a loop is seen only inside; a ``merge`` sees both branches of its ``if``.

    Raises:
        CheckError: names the node, its line and the rule it breaks; it has a ``node``.
    """
    _Verifier(graph).region(graph.body, set())


class _Verifier:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.numbers: set[int] = set()
        self.inside: dict[int, set[int]] = {}
        self.gone: set[int] = set()

    def region(self, region: Region, defined: set[int], loop: Node | None = None) -> list[int]:
        """Check the nodes of ``region``; what they define joins ``defined``, and is returned."""
        made: list[int] = []
        for node in region.nodes:
            problem = self.problem(node, defined) if node.number not in self.numbers else "stands there twice"
            self.numbers.add(node.number)
            if problem:
                raise self.error(node, problem)
            for inner in node.regions:
                made += self.inner(node, inner, defined)
            if law_of(node.target).value:
                defined.add(node.number)
                made.append(node.number)
        for result in region.results:
            if loop is not None and (missing := [ref for ref in references_in(result) if ref not in defined]):
                raise self.error(loop, f"carries %{missing[0]}, which is not a value of its body")
        return made

    def inner(self, node: Node, region: Region, defined: set[int]) -> list[int]:
        """Check a region of ``node``; what it defines that is seen below ``node``."""
        stays = node.target in ("invoke", "trace")
        if not stays:
            defined.add(node.number)
        made = self.region(region, defined, node)
        self.inside.setdefault(node.number, set()).update(made)
        self.gone.update(made)
        if stays:
            return made
        defined.difference_update(made)
        defined.discard(node.number)
        return []

    def error(self, node: Node, problem: str) -> CheckError:
        lines = self.graph.lines
        where = f" ({Location(*lines[node.number][:2], '').address})" if node.number < len(lines) else ""
        error = CheckError(f"node %{node.number} {node.target}{where}: {problem}")
        error.node = node.number  # type: ignore[attr-defined]
        return error

    def problem(self, node: Node, defined: set[int]) -> str | None:
        law = law_of(node.target)
        if bool(law.points) != (node.site is not None):
            return "needs a site" if law.points else "may not have a site"
        if node.site is not None and node.site.point not in law.points:
            return f"may not stand on {node.site}"
        if law.operands is not None and len(node.operands) != law.operands:
            return f"takes {law.operands} operands, has {len(node.operands)}"
        if len(node.regions) != law.regions:
            return f"holds {law.regions} regions, has {len(node.regions)}"
        return self.unseen(node, defined)

    def unseen(self, node: Node, defined: set[int]) -> str | None:
        if self.seen(node.operands, defined) and (not node.keywords or self.seen([value for _, value in node.keywords], defined)):
            return None
        branches: set[int] = set()
        if node.target == "merge" and type(node.operands[0]) is Ref:
            branches = self.inside.get(node.operands[0].node, branches)
        for reference in references_of(node):
            if reference not in defined and reference not in branches:
                if node.target == "save" and reference in self.gone:
                    continue  # of a branch or a loop: the value it had last, if there was one
                if reference in self.gone:
                    return (
                        f"uses %{reference}, which was made in a branch or a loop and may not exist here. "
                        "Use it inside, or write Python's if, else and for, which carry names out"
                    )
                return f"uses %{reference}, which is not a value above it"
        for operand in operands_of(node):
            if type(operand) is Const and not 0 <= operand.index < len(self.graph.constants):
                return f"uses constant {operand.index} of {len(self.graph.constants)}"
        return None

    def seen(self, operands: Sequence[Operand], defined: set[int]) -> bool:
        """Whether all that operands name is there; :meth:`unseen` says what is not."""
        for operand in operands:
            kind = type(operand)
            if kind is Ref:
                if operand.node not in defined:  # type: ignore[union-attr]
                    return False
            elif kind is Const:
                if not 0 <= operand.index < len(self.graph.constants):  # type: ignore[union-attr]
                    return False
            elif kind is Group and not self.seen(operand.items, defined):  # type: ignore[union-attr]
                return False
        return True
