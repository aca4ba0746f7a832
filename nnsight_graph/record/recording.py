"""What a finished trace wrote, and the graph that it makes."""

from __future__ import annotations

import copy
import types
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..graph import Graph, Site, Turn, build_graph
from ..graph.laws import law_of
from ..ops.nested import versions_of
from ..source_location import Location, Place, locate, place_of
from .every import EVERY, gather

if TYPE_CHECKING:
    from .recorder import Recorder


class Hashed:
    """A key whose hash is computed once; equal to the key itself.

    >>> {("read", 1): "plan"}[Hashed(("read", 1))]
    'plan'
    """

    __slots__ = ("_hash", "_key")

    def __init__(self, key: Hashable) -> None:
        self._key, self._hash = key, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: Any) -> bool:
        return bool(self._key == (other._key if type(other) is Hashed else other))


_NOTHING: Mapping[str, Any] = {}  # never filled


class Recording:
    """What a finished trace wrote: entries, constants, places.

    Attributes:
        entries: One tuple per node, see :mod:`nnsight_graph.graph.build`.
        constants: Lifted values.
        indices: The constants' positions in order of use.
        shared: Groups of constants on one storage, where the program edits a constant.
        places: Where each node was written.
        edits_constants: Whether the program edits a captured tensor in place.
        open_ended: Whether it has a loop over an open range of steps.
        foreign: Whether lines of it may come from somebody else.
        strange: The paths of the sites that those name; ``None`` for all.
        declared: What its file declares about the rows of the model, by path.
        versions: Of the captured tensors that it edits: the place among the constants, and the version counter before a run, where
            there is one.
        outside: Models and arguments of its run: what it has not made itself.
        replaced: What stands for parameters at the end, by path.
        names, variables, parts, again: What saved values are called, see :class:`Recorder`.
        turns: The turns of bounded loops over steps, see :class:`nnsight_graph.graph.Turn`; each with the loop's place.
    """

    __slots__ = (
        "_key", "again", "constants", "declared", "edits_constants", "entries", "foreign", "indices", "names", "open_ended",
        "outside", "parts", "places", "repeats", "replaced", "shared", "strange", "turns", "variables", "versions",
    )  # fmt: skip

    strange: frozenset[str] | None

    def __init__(self, recorder: Recorder) -> None:
        self.entries = recorder.entries
        self.constants = recorder.constants
        self.indices = recorder.indices
        self.repeats = recorder.repeats
        self.places = recorder.places
        self.edits_constants = recorder.edits_constants
        self.open_ended, self.foreign, self.strange = recorder.open_ended, recorder.foreign, recorder.strange
        self.turns = recorder.turns
        self.names, self.variables, self.parts, self.again = recorder.names, recorder.variables, recorder.parts, recorder.again
        self.replaced = {path: proxy._index for path, proxy in recorder.replaced.items()}
        self.outside: tuple[Any, ...] = ()
        self._key: Hashed | None = None
        self.declared: Mapping[str, Any] = _NOTHING
        self.versions = tuple([(index, versions_of(self.constants[index])) for index in sorted(recorder._edited)])
        self.shared = recorder.shared_constants() if recorder.edits_constants else ()

    @classmethod
    def of(
        cls, entries: list[tuple[Any, ...]], constants: list[Any], indices: list[int], places: list[Place], shared: Any, edits: bool
    ) -> Recording:
        """A program made of parts of others."""
        made = cls.__new__(cls)
        made.entries, made.constants, made.indices, made.places = entries, constants, indices, places
        made.repeats, made.edits_constants, made.open_ended, made.turns, made.shared = True, edits, False, (), shared
        made.names, made.variables, made.parts, made.replaced, made._key, made.versions, made.again = {}, {}, {}, {}, None, (), ()
        made.foreign, made.strange, made.declared = True, None, _NOTHING
        return made

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle has of it: hashes are those of one process, and code is no data."""
        state = {name: getattr(self, name) for name in Recording.__slots__}
        places = [tuple(locate(place).named) for place in self.places]
        return {**state, "_key": None, "places": places, "entries": [_exchanged(entry, _NAMED) for entry in self.entries]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self.places = [place_of(Location(*at)) for at in state["places"]]
        self.entries = [_exchanged(entry, _KINDS) for entry in state["entries"]]

    def __deepcopy__(self, memo: dict[int, Any]) -> Recording:
        made = memo[id(self)] = Recording.__new__(Recording)
        for name in Recording.__slots__:
            setattr(made, name, getattr(self, name))
        made.constants = [_apart(value, memo) for value in self.constants]
        return made

    def plain(self) -> Graph:
        """The program as it was written, lines about every step where they stand."""
        return build_graph(self.entries, self.indices, self.constants, self.shared, tuple(map(_line_of, self.places)))

    @property
    def key(self) -> Hashable:
        """The program's structure: equal for programs that differ in numbers and tensors only."""
        return self._key or (tuple(self.entries), (len(self.constants), *self.indices) if self.repeats else None, self.shared)

    def keep_key(self) -> None:
        """From here on its entries stay as they are, and its key is made once."""
        self._key = Hashed(self.key)

    def place(self, node: int) -> Place:
        """Where a node was written; for a loop that stands for lines about every step, where the first of them stands."""
        if node < len(self.places):
            return self.places[node]
        about = ((place, entry[1]) for place, entry in zip(self.places, self.entries, strict=True) if len(entry) > 1)
        return next(place for place, site in about if type(site) is Site and site.step == EVERY)

    def whole(self) -> Graph:
        """The program as far as it is written: its open branches and loops end here."""
        ends: list[tuple[Any, ...]] = []
        kinds: list[str] = []
        for entry in self.entries:
            if entry[0] == "end":
                kinds.pop()
            elif law_of(entry[0]).regions:
                kinds.append(entry[0])
            elif entry[0] == "else":
                kinds[-1] = "else"
        for kind in reversed(kinds):
            ends += [("else",), ("end",)] if kind == "if" else [("end",)]
        lined = tuple(map(_line_of, self.places))
        return build_graph([*self.entries, *ends], self.indices, self.constants, self.shared, lined)

    def graph(self, lines: bool = True) -> Graph:
        """The program as a graph."""
        lined = tuple(map(_line_of, self.places)) if lines else ()
        graph = build_graph(self.entries, self.indices, self.constants, self.shared, lined)
        if self.open_ended:
            graph = gather(graph, len(self.entries))
        if not self.turns:
            return graph
        turns = tuple(Turn(*turn[:5], _line_of(turn[5]) if lines else None) for turn in self.turns)
        return Graph(graph.body, graph.constants, graph.shared, graph.lines, turns)


class _Kind(str):
    """The name in ``types`` of a class that stands under none in its own module, where pickle would look for it."""

    __slots__ = ()


_KINDS = {_Kind(name): getattr(types, name) for name in types.__all__ if isinstance(getattr(types, name), type)}
_NAMED = {kind: name for name, kind in _KINDS.items()}


def _exchanged(part: Any, by: dict[Any, Any]) -> Any:
    """An entry with what it says of its constants exchanged."""
    if type(part) is tuple:
        return tuple([_exchanged(item, by) for item in part])
    return by[part] if isinstance(part, (type, _Kind)) and part in by else part


def _apart(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of a constant; a tensor that was computed from others stays with them, as torch has it."""
    if isinstance(value, torch.Tensor) and not value.is_leaf:
        return value
    return copy.deepcopy(value, memo)


def _line_of(place: Place) -> tuple[str, int, str]:
    at = locate(place)
    return at.named.file, at.line, at.text
