"""A recorded program -> what its file holds."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType

from ..errors import GraphFormatError, NNsightError
from ..graph import fold
from ..graph.flat import Flat, flatten
from ..record import Recording
from ..serialize.content import Content, content
from ..source_location import assigned_name, traceback_at


def content_of(
    recording: Recording, kind: str, function: str = "", traces: Sequence[tuple[int, int, bool]] = (), frame: FrameType | None = None
) -> Content:
    """What a file of a recorded program holds.

    Raises:
        FunctionWhitelistError: it uses a function of the user's; on that line.
        GraphFormatError: it uses a constant that cannot be data; on that line.
    """
    if recording.shared:
        raise GraphFormatError("the program edits a captured tensor that shares storage with another: give it copies")
    flat = _loops(recording) if kind != "session" and (recording.open_ended or recording.turns) else None
    entries, indices = (recording.entries, recording.indices) if flat is None else (flat.entries, flat.indices)
    saves = _saves(recording, [entry[1] for entry in recording.entries if entry[0] == "save"])
    if flat is not None:
        saves = [(flat.places[node], name) for node, name in saves]
    try:
        return content(
            entries, indices, recording.constants, kind, function=function, saves=saves, open_ended=recording.open_ended,
            edits=recording.edits_constants, traces=traces,
        )  # fmt: skip
    except NNsightError as error:
        place = getattr(error, "entry", None)
        node = place if flat is None or place is None else flat.origins[place].number
        raise error.with_traceback(None if node is None else traceback_at(recording.place(node), frame)) from None


def _loops(recording: Recording) -> Flat:
    """The entries of a program with loops over steps: as loops, but where its turns save values of their own."""
    graph = recording.graph(lines=False)
    inside = [range(turn[3], turn[4]) for turn in recording.turns]
    keeps = any(entry[0] == "save" and any(number in turn for turn in inside) for number, entry in enumerate(recording.entries))
    return flatten(graph if keeps else fold(graph), type)


def _saves(recording: Recording, saved: list[int]) -> list[tuple[int, str]]:
    """The names of what is saved: given, of the variable that it was assigned to, or a number."""
    named: dict[int, str] = {}
    lines = {entry[1]: number for number, entry in enumerate(recording.entries) if entry[0] == "save"}
    found = {node: recording.names.get(node) or assigned_name(recording.places[lines[node]]) for node in saved}
    taken = set(found.values())
    for place, (node, given) in enumerate(found.items()):
        name, count = given or f"value_{place}", 1
        while name in named.values() or (name != given and name in taken):  # a_2 may be a variable, too
            count += 1
            name = f"{given or f'value_{place}'}_{count}"
        named[node] = name
    return list(named.items())
