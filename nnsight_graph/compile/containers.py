"""Lists and dicts of a program: they hold values themselves, so edits of those show in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..graph import Group, Node
from ..ops.effect import Effect
from .plan import Step
from .storage import Value, freeze

if TYPE_CHECKING:
    from .analyse import Analysis

CONTAINERS = frozenset(("list", "tuple", "dict", "set"))
"""Operations that make one."""


def stored_operands(node: Node, effect: Effect, mutated: set[int], viewed: set[int]) -> set[int]:
    """The operands that an edit of a container puts into it."""
    if not effect.mutates or not mutated:
        return set()
    grown = {1} if node.target == "iadd" and type(node.operands[1]) is Group else set()
    return (viewed - mutated) | grown


def contain(analysis: Analysis, step: Step, containers: list[Value], values: list[Value]) -> None:
    """A container holds values themselves, not copies: edits of theirs show in it, and what is read of it waits for them."""
    roots = [root for value in values for root in value.roots]
    for container in containers:
        for root in container.roots:
            root.hold(roots)
    for value in values:
        freeze(value)
    cells = tuple(dict.fromkeys(cell for value in values for cell in value.slot.cells))
    if cells:
        noting = Step(step.node, None, [containers[0].slot, *(value.slot for value in values)], step.needs)
        noting.special, noting.extra = "contain", cells
        noting.after.append(step)
        analysis.guarded(noting)
        analysis.steps.append(noting)
