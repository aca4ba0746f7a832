"""Steps -> instructions over numbered slots; a value's slot is emptied, or taken over, at its last use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..graph import Graph
from ..ops.evaluate import CLEAR, MANY, ONE, SPECIAL, THREE, TWO
from .analyse import Analysis
from .plan import Instruction, Plan, Segment, Slot, Step
from .schedule import make_segments, make_visits
from .storage import Cell

_SPECIAL: dict[str, Callable[[Any, Any], None]] = {
    "protect": lambda run, rest: run.protect(*rest) if rest[1] or type(run.slots[rest[0]]) is not torch.Tensor else None,
    "snapshot": lambda run, rest: run.snapshot(*rest),
    "detach": lambda run, rest: run.detach(*rest),
}


def lower(graph: Graph) -> Plan:
    """Compile a graph.

    Raises:
        KeyError: a target that neither the op table nor the laws know.
    """
    analysis = Analysis(graph)
    analysis.steps = [step for step in analysis.steps if step.function is not None or step.special]
    segments, members = make_segments(analysis.steps)
    plan = Plan()
    used = _note_users(members)
    numbering = _Numbering(plan, analysis, len(graph.constants))
    numbering.place_shared(used, segments)
    plan.edited = tuple(analysis.edited)
    plan.guards = _meets_others(plan, analysis, segments)
    for segment, steps in zip(segments, members, strict=True):
        _Emitter(segment, steps, numbering).emit()
    plan.blanks = numbering.next - len(analysis.fixed) - len(graph.constants) - len(analysis.modules) - len(analysis.layouts)
    plan.segments, plan.waits = segments, [segment.waits for segment in segments]
    plan.unchecked = frozenset(numbering.unchecked)
    plan.uses = tuple(numbering.uses)
    plan.prologue = [segment.index for segment in segments if segment.waits == 0]
    plan.visits = make_visits(analysis, segments)
    plan.saved = tuple((node, slot.index, _segment_of(slot), _visit_of(slot, analysis)) for node, slot in analysis.saved)
    plan.needs = {step.node: step.needs for step in analysis.steps}
    _finish_visits(plan, analysis, segments)
    return plan


def _meets_others(plan: Plan, analysis: Analysis, segments: list[Segment]) -> bool:
    """Whether an edited value may share storage with something that was read at another site and is still held."""
    held = {cells for segment in segments for _, cells in segment.held}
    held |= {cell.slot.cells for cell in analysis.cells.values() if cell.slot.saved or len(cell.slot.segments) > 1}
    return any(set(cells) != {index} for cells in held for index in plan.edited)


def _segment_of(slot: Slot) -> int:
    return slot.producer.segment if slot.producer else -1


def _visit_of(slot: Slot, analysis: Analysis) -> int:
    return next((cell.index for cell in analysis.cells.values() if cell.slot is slot), -1)


def _note_users(members: list[list[Step]]) -> dict[Slot, None]:
    used: dict[Slot, None] = {}
    for index, steps in enumerate(members):
        for step in steps:
            for slot in (*step.leaves, *([step.output] if step.output else [])):
                slot.segments.add(index)
                used[slot] = None
    return used


class _Numbering:
    """Gives slots their numbers: fixed, constants, modules, values that outlive a segment; the rest is per segment."""

    def __init__(self, plan: Plan, analysis: Analysis, constants: int) -> None:
        self.plan = plan
        self.plan.fixed = tuple(analysis.fixed)
        self.plan.modules = tuple(analysis.modules)
        self.plan.layouts = tuple(analysis.layouts)
        start = len(analysis.fixed)
        for index, slot in analysis.constants():
            slot.index = start + index
        for offset, slot in enumerate(analysis.modules.values()):
            slot.index = start + constants + offset
        self.next = start + constants + len(analysis.modules)
        for slot in analysis.layouts.values():
            slot.index = self.next
            self.next += 1
        self.cells: dict[Slot, Cell] = {cell.slot: cell for cell in analysis.cells.values()}
        self.uses: list[tuple[int, int]] = []
        self.unchecked: set[int] = set()
        self._saved = [slot for _, slot in analysis.saved]

    def place_shared(self, used: dict[Slot, None], segments: list[Segment]) -> None:
        """Number what lives longer than one segment, and say who empties it."""
        for slot in dict.fromkeys((*self.cells, *self._saved, *used)):
            if slot.index < 0 and (slot in self.cells or slot.saved or len(slot.segments) > 1):
                slot.index = self.next
                self.next += 1
                self._share(slot, segments)

    def _share(self, slot: Slot, segments: list[Segment]) -> None:
        cell = self.cells.get(slot)
        if cell is not None:
            users = {index for index in slot.segments if segments[index].needs != cell.bit}
        else:
            users = slot.segments - ({slot.producer.segment} if slot.producer else set())
        if slot.cells:
            if slot.unchecked:
                self.unchecked.add(slot.index)
            if (users or slot.saved) and cell is None and slot.producer is not None:
                segments[slot.producer.segment].held += ((slot.index, slot.cells),)
            for index in users:
                segments[index].checks += (slot.index,)
        if slot.saved:
            return
        count = len(users) + (cell is not None)
        if users and count > 1:
            self.uses.append((slot.index, count))
            for index in users:
                segments[index].releases += (slot.index,)


def _finish_visits(plan: Plan, analysis: Analysis, segments: list[Segment]) -> None:
    counted = {slot for slot, _ in plan.uses}
    outputs = {step.output for step in analysis.steps}
    for index, (cell, visit) in enumerate(zip(analysis.cells.values(), plan.visits, strict=True)):
        slot = cell.slot
        visit.changes = slot in outputs
        visit.counted = slot.index in counted
        visit.clears = not slot.saved and not visit.counted
        visit.only_kept = slot.saved and not (visit.triggers or visit.musts or visit.changes or slot.index in plan.unchecked)
        if slot.saved or visit.counted:
            visit.held = ((slot.index, slot.cells),)
        if cell.direction == "result":
            plan.result = index
        else:
            before = plan.hooks.get(cell.path, (-1, -1))
            plan.hooks[cell.path] = (index, before[1]) if cell.direction == "in" else (before[0], index)


class _Emitter:
    """Writes the code of one segment."""

    def __init__(self, segment: Segment, steps: list[Step], numbering: _Numbering) -> None:
        self.segment = segment
        self.steps = steps
        self.numbering = numbering
        self.pool: list[int] = []
        self.last: dict[Slot, int] = {}
        for place, step in enumerate(steps):
            for slot in step.leaves:
                self.last[slot] = place
            if step.output is not None:
                self.last[step.output] = place
        here = {segment.index}
        cells = numbering.cells
        self.local = {s for s in self.last if s.segments == here and not s.saved and s not in cells and s.producer is not None}

    def emit(self) -> None:
        """Fill the segment's code."""
        for place, step in enumerate(self.steps):
            ending = [slot for slot in dict.fromkeys(step.leaves) if self.last[slot] == place and slot is not step.output]
            dying = [slot for slot in ending if self._mine(slot)]
            free = [slot.index for slot in dying if slot in self.local]
            leaves = [slot.index for slot in step.leaves]
            out, dead = (0, False) if step.special else self._output(step, place, free)
            self.segment.code.append(self._instruction(step, leaves, out))
            for index in (*free, *(slot.index for slot in dying if slot not in self.local), *([out] if dead else [])):
                if index != out or dead:
                    self.segment.code.append((CLEAR, None, index, 0, 0, None, step.node))
            self.pool += [index for index in free if index != out]
            if dead:
                self.pool.append(out)

    def _mine(self, slot: Slot) -> bool:
        """Whether this segment is the one that empties ``slot``."""
        if slot in self.local:
            return True
        if slot.saved or slot in self.numbering.cells or slot.producer is None:
            return False
        here, made_in = self.segment.index, slot.producer.segment
        return here != made_in and slot.segments == {made_in, here}

    def _output(self, step: Step, place: int, free: list[int]) -> tuple[int, bool]:
        """Where the result goes, and whether nobody wants it."""
        slot = step.output
        if slot is None or (slot in self.local and slot.index < 0 and self.last[slot] == place):
            return self._take(free), True
        if slot.index < 0:
            slot.index = self._take(free)
        return slot.index, False

    def _take(self, free: list[int]) -> int:
        if free:
            return free[0]
        if self.pool:
            return self.pool.pop()
        self.numbering.next += 1
        return self.numbering.next - 1

    def _instruction(self, step: Step, leaves: list[int], out: int) -> Instruction:
        if step.special:
            return (SPECIAL, _SPECIAL[step.special], 0, 0, 0, self._special(step, leaves), step.node)
        return instruction(step, leaves, out)

    def _special(self, step: Step, leaves: list[int]) -> tuple[Any, ...]:
        if step.special == "protect":
            return leaves[0], step.extra if self.numbering.plan.guards else ()
        if step.special == "snapshot":
            return leaves[0], step.extra.segment
        reads, views = step.extra
        made = [instruction(again, [leaf.index for leaf in again.leaves], slot.index) for slot, _, again in views]
        places = [(slot.index, base.index) for slot, base, _ in views]
        return tuple(slot.index for slot in reads), tuple((*place, again) for place, again in zip(places, made, strict=True))


def instruction(step: Step, leaves: list[int], out: int) -> Instruction:
    """The instruction that calls a step's function on the slots ``leaves``."""
    count = len(leaves)
    if step.names or count not in (1, 2, 3):
        split = count - len(step.names)
        return (MANY, step.function, out, 0, 0, (tuple(leaves[:split]), tuple(zip(step.names, leaves[split:], strict=True))), step.node)
    kind = (ONE, TWO, THREE)[count - 1]
    return (kind, step.function, out, leaves[0], leaves[1] if count > 1 else 0, leaves[2] if count > 2 else 0, step.node)
