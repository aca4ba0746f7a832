"""What the compiler knows about memory: which values may share storage, and who still has to read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..ops.evaluate import same
from .plan import Guard, Slot, Step


class Root:
    """Storage that values are views of.

    Attributes:
        cell: The site whose passing value it is, if it is one.
        edit_needs: Visits that the edits so far depend on.
        edits: The last edit.
        readers: ``(step, leaf)`` of every read of its contents since the last edit.
        aliases: The values on it, in program order.
        parameter: Whether it is a parameter of the model.
        detached: Whether its names got storage of their own when it was replaced.
        loose: Whether a write in a branch may have replaced it.
        inside: What values of it hold, where they are containers.
        contained: Whether a container holds a value of it.
        frozen: Whether a loop above has put aside what an edit below would have to show.
        retired: Set when a write replaced it at its site: an empty step at the line of that write.
        above: How many of the aliases stand above that line.
    """

    __slots__ = (
        "above", "aliases", "cell", "contained", "detached", "edit_needs", "edits", "frozen", "inside", "loose", "parameter", "readers",
        "retired",
    )  # fmt: skip

    def __init__(self, cell: Cell | None = None) -> None:
        self.cell = cell
        self.inside = _NOTHING
        self.contained = False
        self.frozen = False
        self.detached = False
        self.loose = False
        self.parameter = False
        self.edit_needs = 0
        self.edits: list[Step] = []
        self.readers: list[tuple[Step, int]] = []
        self.aliases: list[Value] = []
        self.retired: Step | None = None
        self.above = 0

    def hold(self, roots: Iterable[Root]) -> None:
        """A value of this storage is a container, and is given something of ``roots``."""
        if self.inside is _NOTHING:
            self.inside = {}
        for root in roots:
            self.inside[root] = None
            root.contained = True


_NOTHING: dict[Root, None] = {}


def opened(roots: tuple[Root, ...]) -> tuple[Root, ...]:
    """``roots``, and those of what their containers hold."""
    for root in roots:
        if root.inside:
            break
    else:
        return roots
    found = dict.fromkeys(roots)
    pending = list(roots)
    while pending:
        fresh = [inner for inner in pending.pop().inside if inner not in found]
        found.update(dict.fromkeys(fresh))
        pending += fresh
    return tuple(found)


def freeze(value: Value) -> None:
    """A view that is known later than its base was put aside: it will not show an edit of the base that stands below."""
    while value.base is not None and value.step is not None and value.step.function is same:
        value = value.base  # another name
    if value.base is not None and value.needs & ~value.base.needs:
        for root in value.roots:
            root.frozen = True


RowsKey = tuple[str, int] | None
"""Whose rows: ``("rows", k)`` of invoke k, ``("before", n)`` of the first n, ``None`` for the whole batch."""


class Part:
    """The rows of an invoke in what passes at a visit: views of the whole until something is written there.

    Attributes:
        written: What was assigned to the rows.
        passed: What an edit may have put in their place: the same tensor, or a tuple made anew.
    """

    __slots__ = ("key", "passed", "root", "write", "write_needs", "written")

    def __init__(self, key: RowsKey, root: Root) -> None:
        self.key = key
        self.root = root
        self.written: Slot | None = None
        self.passed: Slot | None = None
        self.write: Step | None = None
        self.write_needs = 0

    @property
    def own(self) -> Slot | None:
        """Where the rows lie apart from the whole, if they do."""
        return self.passed or self.written


class Cell:
    """The value that passes at one visit, in versions: each write of the whole starts a new one."""

    __slots__ = (
        "direction", "guards", "index", "keys", "musts", "nodes", "optional", "parts", "path",
        "slot", "takes", "turn", "write", "write_needs",
        "written",
    )  # fmt: skip

    def __init__(
        self, path: str, direction: str, index: int, written: bool, keys: tuple[RowsKey, ...], turn: tuple[int | str, int] = (0, 0)
    ) -> None:
        self.keys = keys
        self.turn = turn
        self.takes: list[Step] = []
        self.parts: dict[RowsKey, Part] = {}
        self.path = path
        self.direction = direction
        self.index = index
        self.written = written
        self.slot = Slot()
        self.slot.cells = (index,)
        self.write: Step | None = None
        self.write_needs = 0
        self.musts: list[tuple[Step, Slot | None]] = []
        self.nodes: list[int] = []
        self.guards: list[Guard | None] = []
        self.optional = True

    def part(self, key: RowsKey) -> Part:
        """The rows of ``key`` in the present version."""
        if key not in self.parts:
            self.parts[key] = Part(key, Root(self))
        return self.parts[key]

    def renew(self) -> None:
        """Start a new version of the whole."""
        self.parts, self.takes = {}, []

    @property
    def bit(self) -> int:
        """The visit's bit in masks of needs."""
        return 1 << self.index


_NONE_KEPT: dict[Slot, Slot] = {}


class Value:
    """The value of a node.

    Attributes:
        slot: Where it lies.
        needs: Visits it depends on.
        roots: Storage it may be on.
        step: What makes it (``None`` for constants).
        base: The value it is, or may be, a view of.
        maybe: Whether a copy may stand between it and its roots.
        kept: Where operands are kept as they were before an edit, if the value is known too late for that edit; and
            where they really lie.
        read: For what a site delivered: its cell, point and version.
        plain: Whether it is surely a number or a string.
        merged: Whether a branch chose it.
        superseded: Whether a write in a branch may have put another in its place.
    """

    __slots__ = ("base", "kept", "maybe", "merged", "needs", "node", "plain", "read", "roots", "slot", "step", "superseded")

    def __init__(self, node: int, slot: Slot, needs: int, roots: tuple[Root, ...], step: Step | None = None) -> None:
        self.node = node
        self.slot = slot
        self.needs = needs
        self.roots = roots
        self.step = step
        self.base: Value | None = None
        self.maybe = False
        self.kept: dict[Slot, Slot] = _NONE_KEPT
        self.read: Any = None
        self.plain = False
        self.superseded = False
        self.merged = False

    @property
    def edit_needs(self) -> int:
        """Visits that the edits so far depend on: of its storage, and of what it holds."""
        needs = 0
        for root in opened(self.roots):
            needs |= root.edit_needs
        return needs

    @property
    def own_edit_needs(self) -> int:
        """The same, of its own storage alone."""
        needs = 0
        for root in self.roots:
            needs |= root.edit_needs
        return needs
