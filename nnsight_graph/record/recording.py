"""What a finished trace wrote, in the form by which plans are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..graph import Graph, Site, build_graph
from ..source_location import Place, locate
from .every import EVERY, gather

if TYPE_CHECKING:
    from .recorder import Recorder


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
    """

    __slots__ = ("constants", "edits_constants", "entries", "indices", "open_ended", "places", "repeats", "shared")

    def __init__(self, recorder: Recorder) -> None:
        self.entries = recorder.entries
        self.constants = recorder.constants
        self.indices = recorder.indices
        self.repeats = recorder.repeats
        self.places = recorder.places
        self.edits_constants = recorder.edits_constants
        self.open_ended = recorder.open_ended
        self.shared = recorder.shared_constants() if recorder.edits_constants else ()

    @property
    def key(self) -> tuple[Any, ...]:
        """The program's structure: equal for programs that differ in numbers and tensors only."""
        return (tuple(self.entries), tuple(self.indices) if self.repeats else None, self.shared)

    def place(self, node: int) -> Place:
        """Where a node was written; for a loop that stands for lines about every step, where the first of them stands."""
        if node < len(self.places):
            return self.places[node]
        about = ((place, entry[1]) for place, entry in zip(self.places, self.entries, strict=True) if len(entry) > 1)
        return next(place for place, site in about if type(site) is Site and site.step == EVERY)

    def graph(self, lines: bool = True) -> Graph:
        """The program as a graph."""
        places = [locate(place) for place in self.places] if lines else []
        lined = tuple((at.file, at.line, at.text) for at in places)
        graph = build_graph(self.entries, self.indices, self.constants, self.shared, lined)
        return gather(graph, len(self.entries)) if self.open_ended else graph
