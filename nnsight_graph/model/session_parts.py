"""The traces of a session as programs of their own: what they take from outside becomes their constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..graph import Node, references_of
from ..graph.build import build_entry
from ..graph.laws import law_of
from ..ops.nested import storage_of
from ..ops.table import effect_of
from ..record import Recording
from ..source_location import Place
from .session_liveness import Liveness

Entry = tuple[Any, ...]
_CONSTANT, _CAPTURED = "constant", "captured"


class Part:
    """One trace of a session.

    Attributes:
        captured: The nodes outside whose values it uses.
        exports: The nodes in it whose values are used outside, or saved.
        inputs: The inputs of its invokes.
        prelude: Lines of the trace that these are made by.
        invokes: Whether it has any.
        numbers: The session's number of each of its entries.
    """

    def __init__(self, recording: Recording, first: int, end: int, used: int, wanted: Sequence[int]) -> None:
        self._entries = recording.entries
        self._places = recording.places
        self._constants = recording.constants
        self._indices = recording.indices
        self.numbers: list[int] = []
        self.inputs: list[Node] = []
        self._first_constant: list[int] = []  # for each entry, how many constants were named before it
        for number in range(first, end):
            entry = recording.entries[number]
            if entry[0] == "input":
                self.inputs.append(build_entry(number, entry, recording.indices, used)[0])
            else:
                self.numbers.append(number)
                self._first_constant.append(used)
            used += _count(entry)
        needed = inside_closure(recording.entries, first, [number for node in self.inputs for number in references_of(node)])
        entries, indices = recording.entries, recording.indices
        self.prelude = [build_entry(number, entries[number], indices, self._constant_of(number))[0] for number in needed]
        self._own = {number: place for place, number in enumerate(self.numbers)}
        self.invokes = any(recording.entries[number][0] == "invoke" for number in self.numbers)
        self.exports = tuple(wanted)
        found = dict.fromkeys(ref for number in self.numbers for ref in _references(recording.entries[number]))
        self.captured = [number for number in found if number not in self._own]
        self._edits = any(_edits(recording.entries[number]) for number in self.numbers)

    def _constant_of(self, number: int) -> int:
        return self._first_constant[self.numbers.index(number)]

    def recording(self, values: Sequence[Any]) -> Recording:
        """The trace alone, with ``values`` of what it captures."""
        return assembled([self], [values])

    def entries(self, start: int, values: Sequence[Any], constants: list[Any], indices: list[int]) -> Iterator[tuple[Entry, Place]]:
        """Its entries, numbered from ``start``; what they lift is appended to ``constants`` and ``indices``."""
        known: dict[tuple[str, int], int] = {}
        markers = {number: marker(value) for number, value in zip(self.captured, values, strict=True)}
        given = dict(zip(self.captured, values, strict=True))
        used = 0

        def constant(kind: str, key: int, value: Any) -> None:
            if (kind, key) not in known:
                known[kind, key] = len(constants)
                constants.append(value)
            indices.append(known[kind, key])

        def placed(operand: Any) -> Any:
            nonlocal used
            if type(operand) is int:
                if operand in self._own:
                    return self._own[operand] + start
                constant(_CAPTURED, operand, given[operand])
                return markers[operand]
            if _is_constant(operand):
                index = self._indices[used]
                used += 1
                constant(_CONSTANT, index, self._constants[index])
                return operand
            if type(operand) is tuple:
                return (operand[0], *map(placed, operand[1:]))
            return operand

        for number, first in zip(self.numbers, self._first_constant, strict=True):
            used = first
            target, *operands = self._entries[number]
            yield (target, *map(placed, operands)), self._places[number]
        for number in self.exports:
            yield ("save", self._own[number] + start), self._places[number]
        given.clear()  # a function that knows itself would keep them until Python looks for cycles


def inside_closure(entries: Sequence[Entry], first: int, wanted: Sequence[int]) -> list[int]:
    """The lines from ``first`` on that ``wanted`` ones are made by, themselves among them, in their order."""
    found: set[int] = set()
    ahead = [number for number in wanted if number >= first]
    while ahead:
        number = ahead.pop()
        if number not in found:
            found.add(number)
            ahead += [other for other in _references(entries[number]) if other >= first]
    return sorted(found)


def assembled(parts: Sequence[Part], values: Sequence[Sequence[Any]], invokes: bool = False) -> Recording:
    """One program of several traces; with ``invokes`` each is one of its inputs."""
    entries: list[Entry] = []
    places: list[Place] = []
    constants: list[Any] = []
    indices: list[int] = []
    for number, (part, given) in enumerate(zip(parts, values, strict=True)):
        here = part._places[part.numbers[0]] if part.numbers else None
        if invokes and here is not None:
            entries.append(("invoke", f"rows:{number}"))
            places.append(here)
        for entry, place in part.entries(len(entries), given, constants, indices):
            entries.append(entry)
            places.append(place)
        if invokes and here is not None:
            entries.append(("end",))
            places.append(here)
    edits = any(part._edits for part in parts)
    return Recording.of(entries, constants, indices, places, shared_groups(constants) if edits else (), edits)


def batched(parts: Sequence[Part], values: Sequence[Sequence[Any]]) -> tuple[Recording, list[int]]:
    """The traces as the invokes of one, and the session's number of each entry."""
    numbers: list[int] = []
    for part in parts:
        if part.numbers:
            numbers += [-1, *part.numbers, *part.exports, -1]
    return assembled(parts, values, True), numbers


def shared_groups(constants: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Groups of constants that lie on one storage."""
    groups: dict[int, list[int]] = {}
    for index, value in enumerate(constants):
        if isinstance(value, torch.Tensor) and (address := storage_of(value)):
            groups.setdefault(address, []).append(index)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def marker(value: Any) -> Any:
    """What stands for a constant in an entry: what a plan depends on."""
    return (torch.Tensor, value.ndim, str(value.dtype)) if isinstance(value, torch.Tensor) else type(value)


def parts_of(recording: Recording, saved: frozenset[int], liveness: Liveness) -> dict[int, Part]:
    """The traces of a session, by the number of their node."""
    bounds = dict(_bounds(recording.entries))
    inside: dict[int, int] = {number: first for first, end in bounds.items() for number in range(first + 1, end)}
    wanted: dict[int, dict[int, None]] = {first: {} for first in bounds}
    loops: list[int] = []
    for number, entry in enumerate(recording.entries):
        if law_of(entry[0]).regions:
            loops.append(number)
        for reference in _references(_looked_at(number, entry, loops, liveness)):
            owner = inside.get(reference)
            if owner is not None and inside.get(number) != owner:
                wanted[owner][reference] = None
        if entry[0] == "end":
            loops.pop()
    for number in sorted(saved):
        if number in inside:
            wanted[inside[number]][number] = None
    parts, used = {}, 0
    for number, entry in enumerate(recording.entries):
        used += _count(entry)
        if number in bounds:
            parts[number] = Part(recording, number + 1, bounds[number], used, list(wanted[number]))
    return parts


def _looked_at(number: int, entry: Entry, opened: list[int], liveness: Liveness) -> Entry:
    """The operands of an entry that anything depends on: of names that are only handed on there may be none."""
    if entry[0] == "merge":
        return entry[1:] if number in liveness.live else ()
    carried = liveness.carried.get(opened[-1]) if opened and entry[0] in ("for", "while", "check", "end") else None
    if carried is None:
        return entry[1:]
    first = 1 if entry[0] == "while" else 2
    return (*entry[1:first], *(entry[first + place] for place in sorted(carried)))


def _bounds(entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """The first and the last entry of each trace."""
    opened: list[tuple[str, int]] = []
    for number, entry in enumerate(entries):
        if entry[0] in ("invoke", "if", "for", "while", "steps", "trace"):
            opened.append((entry[0], number))
        elif entry[0] == "end":
            kind, first = opened.pop()
            if kind == "trace":
                yield first, number


def _is_constant(operand: Any) -> bool:
    return isinstance(operand, type) or (type(operand) is tuple and bool(operand) and isinstance(operand[0], type))


def _count(operand: Any) -> int:
    """How many constants an entry, or an operand, names."""
    if _is_constant(operand):
        return 1
    return sum(map(_count, operand)) if type(operand) is tuple else 0


def _references(operand: Any) -> Iterator[int]:
    """The nodes that an entry, or an operand, refers to."""
    if type(operand) is int:
        yield operand
    elif type(operand) is tuple and not _is_constant(operand):
        for item in operand:
            yield from _references(item)


def _edits(entry: Entry) -> bool:
    effect = effect_of(entry[0]) if entry[0] not in _WITHOUT else None
    return effect is not None and bool(effect.mutates or effect.writes)


_WITHOUT = frozenset(
    "read write parameter module listening save log cache bound unpack trace input stop invoke if merge for while steps param check "
    "result end else raise assigned under".split()
)
