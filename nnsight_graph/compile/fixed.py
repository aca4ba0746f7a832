"""Values that are the same in every run: literals, and groups and numbers that belong to the structure."""

from __future__ import annotations

from typing import Any

from ..graph import Group
from ..ops.evaluate import GROUPS, literal
from .plan import Slot


class FixedSlots:
    """The part of the analysis that gives them their slots."""

    fixed: list[Any]
    _fixed_slots: dict[str, Slot]

    def literal(self, name: str) -> Slot:
        """The slot of a value that is the same in every run."""
        if name not in self._fixed_slots:
            self._fixed_slots[name] = Slot(index=len(self.fixed))
            self.fixed.append(literal(name))
        return self._fixed_slots[name]

    def number(self, value: int) -> Slot:
        """The slot of a number that belongs to the structure."""
        name = f"#{value}"
        if name not in self._fixed_slots:
            self._fixed_slots[name] = Slot(index=len(self.fixed))
            self.fixed.append(value)
        return self._fixed_slots[name]

    def fixed_group(self, group: Group) -> Slot:
        """The slot of a group of literals."""
        name = repr(group)
        if name not in self._fixed_slots:
            self._fixed_slots[name] = Slot(index=len(self.fixed))
            self.fixed.append(GROUPS[group.kind](*(literal(item.name) for item in group.items)))  # type: ignore[union-attr]
        return self._fixed_slots[name]
