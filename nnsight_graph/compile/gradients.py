"""Gradients: each is a visit of its own, which a hook on a tensor brings while a backward runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import RecordError
from ..graph import Node, Ref, Region
from ..ops.evaluate import first_argument
from ..ops.rows import rows_of, rows_of_first
from ..ops.table import function_of
from .plan import Guard, Slot, Step
from .storage import Cell, RowsKey, Value

_RESHAPE = frozenset(map(function_of, (".reshape", "torch.reshape", ".flatten", "torch.flatten", ".ravel", ".reshape_as")))
Level = tuple[Callable[..., Any], list[Slot], tuple[str, ...]]


_FIRST = 1 << 20  # numbers of backwards in turns of loops begin here

_INTERLEAVED = (
    "the gradients of this value and of one above are parts of one tensor, one of them is changed, and lines about the first come after "
    "this one. Take one gradient, and slice it: h.grad[:, 1]"
)


def backwards_in(region: Region) -> set[int]:
    """The backwards of a loop's body, without those of loops in it."""
    found: set[int] = set()
    for node in region.nodes:
        if node.target == "backward":
            found.add(int(node.operands[0].name))  # type: ignore[union-attr]
        elif node.target != "steps":
            found.update(*map(backwards_in, node.regions))
    return found


def _last_line(cell: Cell) -> int:
    """The last line that reads or changes what passes at a visit."""
    root = cell.part(None).root
    return max([*cell.nodes, *(step.node for step, _ in root.readers), *(step.node for step in root.edits)])


class GradientAnalysis:
    """The part of the analysis that knows gradients."""

    values: dict[int, Value]
    steps: list[Step]
    rows: RowsKey
    turn: int
    turns: list[Any]
    edited: dict[int, None]
    guard: Guard | None
    guarded: Callable[[Step], None]
    cell: Callable[[Node], Cell]
    read: Callable[[Node], Value]
    _leaf: Callable[..., Slot]
    _inside: Callable[..., Any]

    def __init__(self) -> None:
        self.listening: dict[int, list[Step]] = {}
        self._heard: set[tuple[str, tuple[Any, ...]]] = set()
        self.backwards: dict[int, set[int]] = {}
        self._ordinals: dict[tuple[int, tuple[Any, ...]], int] = {}
        self._last: Step | None = None
        self._named: list[tuple[Node, Value, Cell]] = []

    def gradient(self, node: Node) -> None:
        """A gradient is named: listen to its tensor from here on."""
        assert node.site is not None
        operand = node.operands[0]
        assert type(operand) is Ref
        rows, self.rows = self.rows, None
        heard = (node.site.path, self._pass())
        if heard not in self._heard:
            self._heard.add(heard)
            self._listen(node, self.values[operand.node])
            self._named.append((node, self.values[operand.node], self.cell(node)))
        self.values[node.number] = self.read(node)
        self.rows = rows

    def _pass(self) -> tuple[tuple[int, int], ...]:
        """In which turns of which loops the analysis is."""
        return tuple([turn.key for turn in self.turns])

    def gradient_turn(self, node: Node) -> tuple[int, int]:
        """The step of a gradient in a loop, and a number for its backward in this turn."""
        assert node.site is not None
        if node.site.call not in self.backwards[self.turns[-1].key[0]]:
            raise self._refused(node, "a gradient in a loop that is recorded once belongs to a backward below it in the same loop")
        return self.turn, self._numbered(node.site.call)

    def _numbered(self, ordinal: int) -> int:
        """A number for a backward in these turns."""
        here = self._pass()
        return self._ordinals.setdefault((ordinal, here), _FIRST + len(self._ordinals)) if here else ordinal

    def refuse_overlaps(self) -> None:
        """Gradients of one tensor in one backward come one after the other: lines about the first may not go on below the second.

        Raises:
            RecordError: names the second; nothing is refused where neither is changed.
        """
        for place, (node, value, cell) in enumerate(self._named):
            for _, theirs, beside in self._named[:place]:
                if cell.turn[1] != beside.turn[1] or not set(value.roots) & set(theirs.roots):
                    continue
                changed = any(each.index in self.edited or each.write is not None for each in (cell, beside))
                if changed and _last_line(beside) > node.number:
                    raise self._refused(node, _INTERLEAVED)

    def _refused(self, node: Node, text: str) -> RecordError:
        error = RecordError(f"{text}.")
        error.node = node.number  # type: ignore[attr-defined]
        return error

    def _listen(self, node: Node, value: Value) -> None:
        assert node.site is not None
        start, levels = self._path(value)
        self._listen_at(node, value, start, levels)
        taken = start.producer
        if taken is not None and taken.special == "piece":  # a copy, that only takes part if it is edited; the rows of the batch do else
            self._listen_at(node, value, taken.leaves[0], [(rows_of, taken.leaves[1:], ()), *levels])

    def _listen_at(self, node: Node, value: Value, start: Slot, levels: list[Level]) -> None:
        assert node.site is not None
        step = Step(node.number, None, [start], value.needs)
        shapes = []
        for function, others, names in levels:
            shapes.append((function, len(others), names))
            step.leaves += others
        for root in value.roots:
            root.readers.append((step, 0))
            step.after.extend(root.edits)
        cell = self.cell(node)
        step.special, step.extra = "listen", (cell.index, cell.turn[1], tuple(shapes))
        if value.step is not None:
            step.after.append(value.step)
        self.guarded(step)
        self.steps.append(step)
        self.listening.setdefault(cell.turn[1], []).append(step)

    def _path(self, value: Value) -> tuple[Slot, list[Level]]:
        """From what the model, or a line, made to ``value``, which is a view of it."""
        levels: list[Level] = []
        while value.step is not None and value.step.special is None and value.step.function is not None:
            made = value.step
            if value.read is not None:
                others = made.leaves[1:]
                if made.function is rows_of_first:
                    levels += [(rows_of, others, ()), (first_argument, [], ())]
                elif others or made.function is first_argument:
                    levels.append((made.function, others, ()))  # type: ignore[arg-type]
                return made.leaves[0], levels[::-1]
            copies = value.base is not None and value.maybe and not value.base.maybe and made.function not in _RESHAPE
            if value.base is None or copies or made.leaves[:1] != [value.base.slot]:
                break
            levels.append((made.function, made.leaves[1:], made.names))  # type: ignore[arg-type]
            value = value.base
        return value.slot, levels[::-1]

    def backward(self, node: Node) -> None:
        """A backward runs when its loss is there, and all that listens to it does."""
        ordinal = self._numbered(int(node.operands[0].name))  # type: ignore[union-attr]
        step = Step(node.number, None, [], 0)
        operands = [*node.operands[1:], *(operand for _, operand in node.keywords)]
        for operand in operands:
            for value in self._inside(operand, node.number):
                step.needs |= value.needs | value.edit_needs
        for listening in self.listening.get(ordinal, ()):
            step.needs |= listening.needs
            step.after.append(listening)
        self.guarded(step)
        for operand in operands:
            step.leaves.append(self._leaf(operand, step, True, len(step.leaves)))
        if self._last is not None:  # one after the other: what they make a graph of may be used by the next
            step.needs |= self._last.needs
            step.after.append(self._last)
        self._last = step
        names = tuple(name for name, _ in node.keywords)
        step.special, step.extra, step.opaque = "backward", (ordinal, names), True
        self.steps.append(step)
