"""Slots -> numbers: fixed values, constants, modules, and what outlives a segment; the rest is numbered per segment."""

from __future__ import annotations

from .analyse import Analysis
from .plan import Plan, Segment, Slot
from .storage import Cell


class Numbering:
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
        self.scopes: dict[int, tuple[int, ...]] = {}
        self.invokes = 0
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
            made = slot.producer if slot.producer is not None and slot not in slot.producer.leaves else None
            users = slot.segments - ({made.segment} if made else set())
        if slot.cells:
            if slot.unchecked:
                self.unchecked.add(slot.index)
            if (users or slot.saved) and cell is None and slot.producer is not None:
                segments[slot.producer.segment].held += ((slot.index, slot.cells),)
            for index in users:
                segments[index].checks += (slot.index,)
        for step, cells in slot.makers:
            if cells:
                segments[step.segment].held += ((slot.index, cells),)
        if slot.saved:
            return
        count = len(users) + (cell is not None)
        if users and count > 1:
            self.uses.append((slot.index, count))
            for index in users:
                segments[index].releases += (slot.index,)
