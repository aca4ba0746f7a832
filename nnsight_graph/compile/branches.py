"""Branches: steps that run only if a truth is what it has to be, and what lines below them wait for.

A step of a branch waits for the truth too. A line below the branch waits for the truth, and for the branch's own steps only
if they run: such an optional need is a bit of its own, a visit that no module brings.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from ..graph import Node, Operand, Region
from ..ops.control import select
from ..ops.evaluate import nothing, same
from .plan import Guard, Slot, Step
from .sites import CellKey
from .storage import Cell, Root, Value


class BranchAnalysis:
    """The part of the analysis that knows branches."""

    steps: list[Step]
    cells: dict[CellKey, Cell]
    values: dict[int, Value]
    by_step: dict[int, Value]
    guard: Guard | None
    turns: list[Any]
    in_turn: Callable[[Step], None]
    edited_if: list[tuple[Step, tuple[Root, ...]]]
    virtual: dict[Any, int]
    _pure: Callable[..., None]
    _region: Callable[[Region], None]
    _inside: Callable[[Operand, int], Iterator[Value]]
    _leaf: Callable[..., Slot]

    def branch(self, node: Node) -> None:
        """Analyse an ``if``."""
        self._pure(node, operator.truth)
        truth = self.values[node.number]
        truth.slot.saved = True  # it stays until the run ends
        assert truth.step is not None
        outer = self.guard
        for polarity, region in zip((True, False), node.regions, strict=True):
            self.guard = Guard(truth.step, truth.slot, polarity, outer)
            self._region(region)
            self.guard = outer

    def guarded(self, step: Step) -> None:
        """A step of the branch, and of the turn, that the line stands in."""
        if self.turns:
            self.in_turn(step)
        if self.guard is not None:
            step.guard = self.guard
            step.needs |= self.guard.needs
            step.after.append(self.guard.step)

    def settle(self, step: Step, slot: Slot, needs: int, after: list[Step | None]) -> Step:
        """A step below one of a branch: it runs when that has run, or when it is known that it will not."""
        settled = Step(step.node, same, [slot], needs)
        settled.needs |= self._optional(step.guard, step.needs, settled.needs)
        settled.output = slot
        settled.after = [step, *(other for other in after if other is not None)]
        self.steps.append(settled)
        slot.producer = slot.producer and settled
        return settled

    def wait_for(self, step: Step, other: Step) -> None:
        """Let ``step`` run after ``other``, which may stand in a branch that it does not stand in itself."""
        if other.guard is None or other.guard.around(step.guard):
            step.after.append(other)
            return
        waiting = Step(step.node, nothing, [], 0)
        waiting.needs = self._optional(other.guard, other.needs, step.needs)
        waiting.after = [other]
        self.steps.append(waiting)
        step.needs |= waiting.needs
        step.after.append(waiting)

    def _optional(self, guard: Guard | None, needs: int, known: int, here: Guard | None = None) -> int:
        """What a line that stands ``here`` depends on, below a branch: whether it is taken; and, if it is, on what it needs."""
        if guard is None:
            return needs
        while guard.parent is not None and not guard.parent.around(here):
            guard = guard.parent
        known |= guard.needs
        if not needs & ~guard.needs:  # it runs with the condition itself
            return guard.needs
        key = (guard.step, needs, known)
        if key not in self.virtual:
            self.virtual[key] = self.mark("branch").bit
        return guard.needs | self.virtual[key]

    def mark(self, what: str, step: int = 0) -> Cell:
        """A visit that no module brings: it stands for an event of the run."""
        number = len(self.cells)
        cell = self.cells["", f"{what} {number}", 0, 0] = Cell("", what, number, False, (), (step, 0))
        cell.optional = what == "step"
        return cell

    def merge(self, node: Node) -> None:
        """Analyse the choice between two values of an ``if``."""
        truth, *sides = (list(self._inside(operand, node.number)) for operand in node.operands)
        step = Step(node.number, select, [], truth[0].needs if truth else 0)
        for values in sides:
            for value in values:
                step.needs |= value.needs | value.edit_needs if self._is_around(value) else 0
        for values in sides:
            for value in values:
                if not self._is_around(value) and value.step is not None:
                    step.needs |= self._optional(value.step.guard, value.needs | value.edit_needs, step.needs, self.guard)
        step.leaves = [self._leaf(operand, step, False, place) for place, operand in enumerate(node.operands)]
        self.guarded(step)
        self.steps.append(step)
        self._merged(node, step, [value for values in sides for value in values])

    def _merged(self, node: Node, step: Step, everything: list[Value]) -> None:
        roots = tuple(dict.fromkeys(root for value in everything for root in value.roots))
        value = Value(node.number, Slot(step), step.needs, (*roots, Root()), step)
        step.output, value.maybe, value.merged = value.slot, True, True
        value.superseded = any(other.superseded for other in everything)
        value.slot.cells = tuple(dict.fromkeys(cell for other in everything for cell in other.slot.cells))
        for root in roots:
            root.aliases.append(value)
        self.values[node.number] = value
        self.by_step[id(step)] = value

    def _is_around(self, value: Value) -> bool:
        guard = value.step.guard if value.step is not None else None
        return guard is None or guard.around(self.guard)

    def settle_edits(self) -> None:
        """After an edit in a branch: lines below wait for it, or for its branch not to be taken."""
        for step, roots in self.edited_if:
            for root in roots:
                settled = Step(step.node, nothing, [], root.edit_needs)
                settled.needs |= self._optional(step.guard, step.needs, settled.needs)
                settled.after = [step, *root.edits]
                root.edits, root.edit_needs = [settled], settled.needs
                self.steps.append(settled)
        self.edited_if.clear()
