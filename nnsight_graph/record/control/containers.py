"""Lists, dicts and sets that are changed inside a traced region: they become run-time containers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ...errors import RecordError
from .emitter import Emitter
from .frames import FrameNames
from .names import Names

_LIFTED = (list, dict, set)
_CHANGEABLE = (list, dict, set, bytearray, deque)


class Region:
    """One traced region that is open.

    Attributes:
        made: Containers made in it, by identity: changing them in it needs no lifting.
        ended: Whether its lines raise: what it leaves in names does not matter.
    """

    __slots__ = ("ended", "made")

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.ended = False


class Containers:
    """What rewritten code asks before it changes something in place.

    Attributes:
        emitter: What records.
        regions: The traced regions that are open, innermost last.
        variables: All names of the block.
        lifted: ``(traced container, original, variables in which the one stands for the other)``.
    """

    def __init__(self, emitter: Emitter, variables: FrameNames) -> None:
        self.emitter = emitter
        self.regions: list[Region] = []
        self.variables = variables
        self.lifted: list[tuple[Any, Any, Names]] = []
        self._same: dict[int, Any] = {}  # traced values that are lifted containers: themselves, or what a loop calls them

    def refuse(self, text: str) -> RecordError:
        """An error that also keeps the trace from running, even where the user's own ``except`` swallows it."""
        error = RecordError(text)
        self.emitter.poison(error)
        return error

    def lift(self, mentions: tuple[Callable[[], Any] | None, ...]) -> None:
        """Before a region that changes the containers in these variables: make them traced."""
        names = Names(*mentions)
        for value in {id(value): value for value in names.read()}.values():
            if getattr(type(value), "_stands_for", type(value)) in _LIFTED and (not self.regions or id(value) in self.regions[-1].made):
                traced = self.emitter.lift(value)
                self.lifted.append((traced, value, names))
                self._same[id(traced)] = traced
                self.variables.replace(value, traced)
                names.replace(value, traced)

    def call_alike(self, parameter: Any, value: Any) -> None:
        """A loop's parameter that stands for a lifted container is the container."""
        if id(value) in self._same:
            self._same[id(parameter)] = parameter

    def grew(self, before: Any, after: Any) -> Any:
        """What a name means after ``name += ...``: a container stays the same one."""
        return before if id(before) in self._same else after

    def restore(self) -> None:
        """Let all names mean the user's own containers again."""
        for traced, original, names in reversed(self.lifted):
            self.variables.replace(traced, original)
            names.replace(traced, original)

    def new(self, value: Any) -> Any:
        """A container that a line has just made."""
        if self.regions and isinstance(value, _CHANGEABLE):
            self.regions[-1].made[id(value)] = value
        return value

    def changed(self, value: Any) -> Any:
        """A value about to be changed by a method such as ``append``."""
        if self.regions and isinstance(value, _CHANGEABLE):
            return self.stored(value)
        return value

    def stored(self, value: Any) -> Any:
        """A value about to be changed by ``value[...] = ...``."""
        if not self.regions or id(value) in self.regions[-1].made or self._is_recorded(value):
            return value
        raise self.refuse(
            f"a {type(value).__name__} is changed inside a traced branch or loop, where only lists, dicts and sets with a name can be "
            "followed. Give it a name of its own above the branch, or compute the value with torch.where and change it after it."
        )

    def owner(self, value: Any) -> Any:
        """A value about to be changed by ``value.x = ...``."""
        if not self.regions or self._is_recorded(value):
            return value
        raise self.refuse(
            f"an attribute of a {type(value).__name__} is set inside a traced branch or loop, and would be set whatever the condition is. "
            "Assign to a plain name there and set the attribute after it."
        )

    def _is_recorded(self, value: Any) -> bool:
        return self.emitter.traced(value) or self.emitter.records(value)
