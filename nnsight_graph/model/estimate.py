"""How much memory a trace will hold, and how far the forward matters to it: found on fake tensors, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ..graph import Graph, Node, Site, node_text, references_of, walk
from ..ops.nested import tensors_in
from ..run.rehearsal import Rehearsal
from ..run.scan import Scan, Unknown

_END = float("inf")


class NodeEstimate(NamedTuple):
    """What one line holds.

    Attributes:
        text: The line, as in the printed graph.
        held: Bytes of its value, 0 for a view of another; ``None`` where that is not known.
    """

    text: str
    held: int | None


class Estimate(msgspec.Struct, frozen=True):
    """What a trace holds beside the model's own memory.

    Attributes:
        saved: Bytes of what is saved.
        peak: The most bytes that are held at one time while the forward runs.
        last: The last site of the forward that the trace needs; ``None`` if it needs none, or where the order is not known.
        nodes: What each line holds.
        reasons: The lines whose value is not known, with why not; they are left out of the sums.
    """

    saved: int
    peak: int
    last: Site | None
    nodes: tuple[NodeEstimate, ...]
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        text = f"{_bytes(self.saved)} saved, {_bytes(self.peak)} at the peak"
        text += f"; nothing is needed after {self.last}" if self.last is not None else ""
        return text + (f"; {len(self.reasons)} values of unknown size" if self.reasons else "")


def estimate(graph: Graph, rehearsal: Rehearsal, scan: Scan) -> Estimate:
    """The estimate for a program that was rehearsed.

    Args:
        graph: The program.
        rehearsal: Its values.
        scan: The forward it takes part in.
    """
    nodes = list(walk(graph.body))
    places = _places(nodes, scan)
    sizes, first, until = _lives(nodes, places, rehearsal)
    saved = {storage for storage, end in until.items() if end == _END}
    events = sorted({*first.values(), *(end for end in until.values() if end != _END)})
    held = [sum(size for storage, size in sizes.items() if first[storage] <= now <= until[storage]) for now in events]
    needed = max((place for place in places.values() if place >= 0), default=-1)
    shown, unknown = _shown(nodes, rehearsal, graph)
    last = None if needed < 0 else next((site for site, place in scan.places.items() if place == needed), None)
    return Estimate(sum(sizes[storage] for storage in saved), max(held, default=0), last, shown, unknown)


def _places(nodes: list[Node], scan: Scan) -> dict[int, float]:
    """When each node can run: the number of the visit that it waits for; -1 before the first."""
    places: dict[int, float] = {}
    for node in nodes:
        place: float = max((places.get(number, -1) for number in references_of(node)), default=-1)
        if node.site is not None and node.target in ("read", "write"):
            visited = scan.place(node.site._replace(step=0))
            place = max(place, -1 if visited is None else visited)
        places[node.number] = place
    return places


def _lives(nodes: list[Node], places: dict[int, float], rehearsal: Rehearsal) -> tuple[dict[int, int], dict[int, float], dict[int, float]]:
    """For each storage its size, and from when to when it is held; forever where it is saved."""
    sizes: dict[int, int] = {}
    first: dict[int, float] = {}
    until: dict[int, float] = {}
    for node in nodes:
        users = [node.number] if node.target not in ("save", "write", "log", "assume") else []
        for number in (*users, *references_of(node)):
            for storage, size in _storages(rehearsal.values.get(number)):
                sizes[storage] = size
                first[storage] = min(first.get(storage, _END), places.get(number, -1))
                end = _END if node.target == "save" else places[node.number]
                until[storage] = max(until.get(storage, -1), end)
    return sizes, first, until


def _storages(value: Any) -> Iterator[tuple[int, int]]:
    for tensor in tensors_in(value):
        storage = tensor.untyped_storage()
        yield storage._cdata, storage.nbytes()


def _shown(nodes: list[Node], rehearsal: Rehearsal, graph: Graph) -> tuple[tuple[NodeEstimate, ...], tuple[tuple[str, str], ...]]:
    rows: list[NodeEstimate] = []
    unknown: list[tuple[str, str]] = []
    seen: set[int] = set()
    for node in nodes:
        value = rehearsal.values.get(node.number)
        if type(value) is Unknown:
            unknown.append((node_text(node, graph.constants), value.reason))
            rows.append(NodeEstimate(node_text(node, graph.constants), None))
            continue
        own = {storage: size for storage, size in _storages(value) if storage not in seen}
        seen.update(own)
        rows.append(NodeEstimate(node_text(node, graph.constants), sum(own.values())))
    return tuple(rows), tuple(unknown)


def _bytes(count: int) -> str:
    """A number of bytes, short.

    >>> _bytes(12), _bytes(1500), _bytes(2_500_000)
    ('12 B', '1.5 kB', '2.5 MB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{int(size)} B" if unit == "B" else f"{size:.1f} {unit}"
