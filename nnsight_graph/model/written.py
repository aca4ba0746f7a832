"""A recorded program -> what its file holds."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType

from ..errors import GraphFormatError, NNsightError
from ..graph import fold
from ..graph.flat import Flat, flatten
from ..ops.nested import versions_of
from ..record import Recording
from ..serialize.content import Content, content
from ..source_location import assigned_name, traceback_at


def content_of(
    recording: Recording, kind: str, function: str = "", traces: Sequence[tuple[int, int, bool]] = (), frame: FrameType | None = None,
    batch: bool = False, rows: Sequence[tuple[str, int | None, bool, int]] = (),
) -> Content:  # fmt: skip
    """What a file of a recorded program holds.

    Raises:
        FunctionWhitelistError: it uses a function of the user's; on that line.
        GraphFormatError: it uses a constant that cannot be data; on that line.
    """
    if recording.shared:
        raise GraphFormatError("the program edits a captured tensor that shares storage with another: give it copies")
    if any(version is None or versions_of(recording.constants[index]) != version for index, version in recording.versions):
        raise GraphFormatError(
            "the program edits a captured tensor, and did so when it ran: what it began with is gone. Record it with run=False, or let it "
            "edit a tensor.clone() that it makes itself"
        )
    flat = _loops(recording) if kind != "session" and (recording.open_ended or recording.turns) else None
    entries, indices = (recording.entries, recording.indices) if flat is None else (flat.entries, flat.indices)
    saves = _saves(recording, [entry[1] for entry in recording.entries if entry[0] == "save"])
    if flat is not None:
        saves = [(flat.places[node], name) for node, name in saves]
    try:
        return content(
            entries, indices, recording.constants, kind, function=function, saves=saves, open_ended=recording.open_ended,
            edits=recording.edits_constants, traces=traces, batch=batch, rows=rows,
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
    """The names of what is saved: given, of the variable that it was assigned to, or a number.

    Of several with one name the last has it, as a variable would; those before it are numbered.
    """
    lines = {entry[1]: number for number, entry in enumerate(recording.entries) if entry[0] == "save"}
    taken_up = {
        inner
        for node, (name, inside) in recording.variables.items()
        for inner in inside
        if node in lines
        and (recording.entries[inner][0] != "assigned" or assigned_name(recording.places[lines[inner]]) in ("", None, name))
    }
    uses: list[tuple[int, str, bool]] = []  # node, name, whether it was given
    for place, node in enumerate(dict.fromkeys(saved)):
        given = recording.names.get(node, ())
        variable = recording.variables[node][0] if node in recording.variables else assigned_name(recording.places[lines[node]])
        uses += [(node, name, True) for name in given]
        if not given and node not in taken_up:
            uses.append((node, f"{variable}{recording.parts.get(node, '')}" if variable else f"value_{place}", False))
    found = {(node, name) for node, name, _ in uses}
    again = dict.fromkeys((node, assigned_name(place)) for node, place in recording.again if node in lines)
    uses += [(node, name, False) for node, name in again if name and (node, name) not in found]
    return _numbered(uses)


def _numbered(uses: Sequence[tuple[int, str, bool]]) -> list[tuple[int, str]]:
    """Of several values with one name the last has it, or the last to which it was given; the others are numbered."""
    last: dict[str, int] = {}
    for place, (_, name, given) in enumerate(uses):
        if given or name not in last or not uses[last[name]][2]:
            last[name] = place
    made, counts = [], dict.fromkeys(last, 0)
    for place, (node, name, _) in enumerate(uses):
        if last[name] != place:
            counts[name] += 1
            while f"{name}_{counts[name]}" in last:
                counts[name] += 1
            name = f"{name}_{counts[name]}"
        made.append((node, name))
    return made
