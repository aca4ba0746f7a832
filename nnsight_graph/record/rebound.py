"""Names that a loop hands on from turn to turn, in code that was not rewritten: there it cannot."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ..errors import RecordError
from ..source_location import is_users
from .recorder import IN_PLACE

_ADVICE = (
    "`{0}` is bound again in a loop that is recorded once, from what it was before: in a function that the block calls, or where the block "
    "has no source, the next turn would not see it. Write the loop in the block itself, or keep the value in nnsight_graph.list()."
)


class Rebound:
    """Watches the names of one loop's body, from where it begins to where it ends."""

    __slots__ = ("_first", "_frame")

    def __init__(self, frame: FrameType | None) -> None:
        while frame is not None and not is_users(frame.f_code):
            frame = frame.f_back
        self._frame = frame
        self._first = frame.f_lasti if frame is not None else 0

    def check(self, recorder: Any, opened: int) -> None:
        """Refuse the loop if a name that it reads first holds, at its end, what a line of it made.

        Raises:
            RecordError: names the name; no ``except`` of the user's own lets the trace run all the same.
        """
        frame, self._frame = self._frame, None
        if frame is None:
            return
        for name in _handed_on(frame, self._first):
            value: Any = frame.f_locals.get(name, frame.f_globals.get(name))
            made = hasattr(type(value), "_trace") and value._trace is recorder and value._index > opened
            if made and recorder.entries[value._index][0] not in IN_PLACE:
                recorder.poison = RecordError(_ADVICE.format(name))
                raise recorder.poison


def _handed_on(frame: FrameType, first: int) -> list[str]:
    """The names that the instructions of a loop's body read before they bind them."""
    read: dict[str, bool] = {}
    bound: set[str] = set()
    for name, binds in _accesses(frame, first):
        read.setdefault(name, not binds)
        if binds:
            bound.add(name)
    return [name for name in bound if read[name]]


def _accesses(frame: FrameType, first: int) -> Iterator[tuple[str, bool]]:
    """Names, and whether they are bound, from the beginning of a loop to the instruction that runs now, or the loop's end."""
    last = frame.f_lasti
    for one in dis.get_instructions(frame.f_code):
        if one.offset == first and one.opname == "FOR_ITER":
            last = one.argval
        if not first < one.offset <= max(last, first):
            continue
        kinds = [part for part in one.opname.split("_") if part in ("LOAD", "STORE", "DELETE")]
        names = one.argval if isinstance(one.argval, tuple) else (one.argval,)
        if one.opname.partition("_")[2].split("_")[0] in ("FAST", "NAME", "GLOBAL", "DEREF"):
            yield from ((name, kind != "LOAD") for name, kind in zip(names, kinds, strict=False) if isinstance(name, str))
