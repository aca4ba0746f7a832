"""A block like those of traces, but with nothing to run: what it saved has its value when it ends."""

from __future__ import annotations

import sys
from typing import Any

from nnsight_graph.record.exchange.blocks import exchange


class StandIn:
    """Stands for a value; equals nothing but itself, and has a hash even where its value has none."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self) if isinstance(self.value, list) else hash(self.value)


class Block:
    """``with Block() as block: x = block.save(3)``: below it, ``x`` is 3."""

    __module__ = "nnsight_graph"  # its objects are no business of anybody's, as those of a trace

    def __init__(self) -> None:
        self.saved: dict[int, StandIn] = {}
        self.looked = 0

    def save(self, value: Any) -> Any:
        made = self.saved[len(self.saved)] = StandIn(value)
        return made

    def __enter__(self) -> Block:
        self.offset = sys._getframe(1).f_lasti
        return self

    def value(self, stand_in: StandIn) -> Any:
        self.looked += 1
        return stand_in.value

    def __exit__(self, *_: object) -> None:
        offset = None if sys._getframe(1).f_code.co_filename.endswith("contextlib.py") else self.offset
        exchange(sys._getframe(1), offset, frozenset((StandIn,)), self.value, list(self.saved.values()))
