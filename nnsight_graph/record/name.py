"""Words in a graph."""

from __future__ import annotations

from typing import Any


class Name(str):
    """A string that belongs to the structure of a graph: it is recorded as a literal, not lifted."""

    __slots__ = ()

    def _record_as_operand(self, _recorder: Any) -> str:
        return str(self)
