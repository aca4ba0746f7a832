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
    batch: bool = False,
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
            edits=recording.edits_constants, traces=traces, batch=batch,
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
    named: dict[str, list[int]] = {}
    taken_up = {inner for node, (_, inside) in recording.variables.items() if node in lines for inner in inside}
    order = [node for node in dict.fromkeys(saved) if node in recording.names or node not in taken_up]
    for place, node in enumerate(order):
        variable = recording.variables[node][0] if node in recording.variables else assigned_name(recording.places[lines[node]])
        name = recording.names.get(node) or (f"{variable}{recording.parts.get(node, '')}" if variable else f"value_{place}")
        named.setdefault(name, []).append(node)
    names = {nodes[-1]: name for name, nodes in named.items()}
    for name, nodes in named.items():
        given = [node for node in nodes if recording.names.get(node) == name]
        if given:  # a name that was given is not a variable's
            names.pop(nodes[-1])
            names[given[-1]] = name
        count = 0
        for node in nodes:
            if node not in names:
                count += 1
                while f"{name}_{count}" in named:
                    count += 1
                names[node] = f"{name}_{count}"
    return [(node, names[node]) for node in order]
