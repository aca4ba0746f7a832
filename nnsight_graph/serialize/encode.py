"""A program as entries -> the text of its document; equal programs give equal bytes. Free of torch: what makes constants data is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..errors import FunctionWhitelistError, NNsightError
from ..graph import Site
from ..graph.laws import law_of
from ..ops.portable import version
from .allowed import refusal
from .document import FORMAT, Document, FileConstant, FileRows, FileTrace

Entry = tuple[Any, ...]


def encode(
    entries: Sequence[Entry], indices: Sequence[int], constants: Sequence[Any], constant: Callable[[Any], FileConstant], kind: str, *,
    function: str = "", saves: Sequence[tuple[int, str]] = (), open_ended: bool = False, edits: bool = False,
    traces: Sequence[tuple[int, int, bool]] = (), batch: bool = False, rows: Sequence[tuple[str, int | None, bool, int]] = (),
) -> bytes:  # fmt: skip
    """The document of a program.

    Args:
        entries: The program, see :mod:`nnsight_graph.graph.build`.
        indices: The constants' positions in order of use.
        constants: The lifted values.
        constant: What stands for a value in the file.
        kind: What the program is: ``"trace"``, ``"session"`` or ``"edit"``.
        function: The method that a trace calls, where it is not the model itself.
        saves: Entry and name of each saved value.
        open_ended: Whether it has a loop over an open range of steps.
        edits: Whether it edits a constant in place.
        traces: Entry, number of the model and open range, for each trace of a session.
        batch: Whether traces of a session may be run as one batch.
        rows: What was declared about rows: path, dimension, whether as tokens, number of the model.

    Raises:
        FunctionWhitelistError: a function of the user's, or an operation that may not stand in a file; it has an ``entry``.
        GraphFormatError: a constant that cannot be data; it has an ``entry``.
    """
    writer = _Writer(indices, constants, constant)
    body = writer.body(entries)
    tables: list[list[Any]] = [writer.made, sorted(saves), sorted(writer.parameters.items()), [FileTrace(*trace) for trace in traces]]
    tables.append([FileRows(*one) for one in sorted(rows, key=lambda one: (one[3], one[0]))])
    made, named, parameters, runs, declared = [tuple(table) or () for table in tables]  # the one empty tuple is left out, not just any
    document = Document(FORMAT, version(), kind, body, made, function, named, parameters, open_ended, edits, runs, batch, declared)  # type: ignore[arg-type]
    return msgspec.json.encode(document)


_INSTEAD = {
    "torch.autograd.grad": "For a graph that leaves this process, name value.grad, and write loss.backward() below it",
    "torch.autograd.backward": "For a graph that leaves this process, write loss.backward()",
}


def not_portable(name: str, why: str = "") -> FunctionWhitelistError:
    """The error about a function that may not stand in a file.

    >>> print(not_portable("__main__.mine", "It is yours"))
    Function with name `__main__.mine` not in function whitelist. It is yours.
    """
    advice = _INSTEAD.get(name, "What it does has to be written with torch's operations, in the trace, for a graph that is to leave")
    return FunctionWhitelistError(f"Function with name `{name}` not in function whitelist. {why or advice}.")


def name_of(function: Any) -> str:
    """The module and the name of a function."""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}".lstrip(".")


class _Writer:
    """Numbers constants in program order. What it makes are tuples in the shape of ``document.py``'s types, without trailing defaults."""

    def __init__(self, indices: Sequence[int], constants: Sequence[Any], constant: Callable[[Any], FileConstant]) -> None:
        self.made: list[FileConstant] = []
        self.parameters: dict[str, int] = {}
        self._indices, self._constants, self._constant = indices, constants, constant
        self._used = 0
        self._known: dict[int, int] = {}

    def body(self, entries: Sequence[Entry]) -> Any:
        """The top region."""
        opened: list[tuple[Any, list[Any]]] = []  # a node that holds regions, and those that are whole
        levels: list[list[Any]] = [[]]
        for number, entry in enumerate(entries):
            target = entry[0]
            try:
                if target == "end" or target == "else":
                    results = tuple(map(self._operand, entry[1:]))
                    opened[-1][1].append((levels.pop(), results) if results else (levels.pop(),))
                    if target == "else":
                        levels.append([])
                    else:
                        node, regions = opened.pop()
                        levels[-1].append((*node, *((), None, ())[len(node) - 1 :], regions))
                    continue
                node = self._node(entry)
            except NNsightError as error:
                error.entry = number  # type: ignore[attr-defined]
                raise
            if law_of(target).regions:
                opened.append((node, []))
                levels.append([])
            else:
                levels[-1].append(node)
        return (levels[0],)

    def _node(self, entry: Entry) -> Any:
        """A node, if it may stand in a file."""
        target, site = entry[0], None
        operands: list[Any] = []
        named: tuple[tuple[str, Any], ...] = ()
        for raw in entry[1:]:
            kind = type(raw)
            if kind is int or kind is str:
                operands.append(raw)
            elif kind is Site:
                site = raw[:2] if raw[2] == raw[3] == 0 else raw
            elif kind is tuple and raw[0] == "**":
                named = tuple([(raw[i], self._operand(raw[i + 1])) for i in range(1, len(raw), 2)])
            else:
                operands.append(self._operand(raw))
        self._refuse(target, operands, tuple([name for name, _ in named]) if named else ())
        if named:
            return (target, operands, site, named)
        return (target, operands, site) if site is not None else (target, operands) if operands else (target,)

    def _refuse(self, target: str, operands: list[Any], names: tuple[str, ...]) -> None:
        why = refusal(target, names, len(operands))
        if why:
            raise not_portable("__call__" if target == "call" else target, "" if target == "call" else why)
        if target == "named" and type(operands[0]) is str and operands[1][0] == "c":
            self.parameters[operands[0]] = operands[1][1]

    def _operand(self, raw: Any) -> Any:
        """An operand; constants are numbered in the order in which they are met."""
        kind = type(raw)
        if kind is int or kind is str:
            return raw
        if kind is tuple and type(raw[0]) is str:
            return ("g", raw[0], list(map(self._operand, raw[1:])))
        index = self._indices[self._used]
        self._used += 1
        place = self._known.get(index)
        if place is None:
            made = self._constant(self._constants[index])
            place = self._known[index] = len(self.made)
            self.made.append(made)
        return ("c", place)
