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
from .storage import Cell, Root, RowsKey, Value

_RESHAPE = frozenset(map(function_of, (".reshape", "torch.reshape", ".flatten", "torch.flatten", ".ravel", ".reshape_as")))
_LEAVES = frozenset(map(function_of, (".detach", "torch.detach", ".requires_grad_", "@data")))
"""What ends a path of gradients: where the result requires some, it is a leaf of its own."""

Level = tuple[Callable[..., Any], list[Slot], tuple[str, ...], Slot | None]
"""Function, further operands, the names of the last of them, and where the result lies."""

Version = tuple[tuple[Root, tuple[Step, ...]], ...]
"""The storage of a value, and the edits that it has seen."""

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


def _last_line(cell: Cell, other: Cell) -> int:
    """The last line that reads or changes what passes at a visit; an assignment to the ``other``, which comes next, may read it."""
    root = cell.part(None).root
    reading = [step.node for step, _ in root.readers if other.write is None or step.node != other.write.node]
    return max([*cell.nodes, *reading, *(step.node for step in root.edits)])


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
        self._named: list[tuple[Node, Cell, Version]] = []
        self.gradients_meant: dict[Any, str] = {}
        self._versions: dict[Any, tuple[str, Version]] = {}

    def gradient(self, node: Node) -> None:
        """A gradient is named: listen to its tensor from here on."""
        assert node.site is not None
        operand = node.operands[0]
        assert type(operand) is Ref
        rows, self.rows = self.rows, None
        value, heard = self.values[operand.node], (node.site.path, self._pass())
        if heard not in self._heard:
            self._heard.add(heard)
            version = tuple((root, tuple(root.edits)) for root in value.roots)
            named = (operand.node, node.site.call, heard[1])
            before = self._versions.get(named)
            if before is not None and before[1] == version:  # nothing was edited between the two lines: it is one gradient
                self.gradients_meant[heard] = before[0]
            else:
                self._versions[named] = node.site.path, version
                self._listen(node, value)
                self._named.append((node, self.cell(node), version))
        self.values[node.number] = self.read(node)
        self.rows = rows

    def meant_gradient(self, path: str) -> str:
        """The site of a gradient that was named again, under the name that it got first."""
        return self.gradients_meant.get((path, self._pass()), path)

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
        for place, (node, cell, version) in enumerate(self._named):
            for _, beside, other in self._named[:place]:
                if cell.turn[1] != beside.turn[1] or not set(version) & set(other):
                    continue
                changed = any(each.index in self.edited or each.write is not None for each in (cell, beside))
                if changed and _last_line(beside, cell) > node.number:
                    raise self._refused(node, _INTERLEAVED)

    def _refused(self, node: Node, text: str) -> RecordError:
        error = RecordError(f"{text}.")
        error.node = node.number  # type: ignore[attr-defined]
        return error

    def _listen(self, node: Node, value: Value) -> None:
        assert node.site is not None
        start, levels, source = self._path(value)
        step = Step(node.number, None, [start], value.needs)
        shapes = []
        for function, others, names, made in levels:
            shapes.append((function, len(others), names, made is not None))
            step.leaves += [*others, *([made] if made is not None else [])]
        for root in value.roots:
            root.readers.append((step, 0))
            step.after.extend(root.edits)
        cell = self.cell(node)
        step.special, step.extra = "listen", (cell.index, cell.turn[1], source, tuple(shapes))
        if value.step is not None and value.step.output is not None:  # else it only says how the result of an edit is made again
            step.after.append(value.step)
        self.guarded(step)
        self.steps.append(step)
        self.listening.setdefault(cell.turn[1], []).append(step)

    def _path(self, value: Value) -> tuple[Slot, list[Level], int]:
        """From what the model, or a line, made to ``value``, which is a view of it; and what tells where it was made."""
        levels: list[Level] = []
        while value.step is not None and value.step.special is None and value.step.function is not None:
            made = value.step
            if value.read is not None and value.base is None:
                if made.function is rows_of:  # what an invoke sees are views, of which the model knows nothing
                    levels.append((rows_of, made.leaves[1:], (), value.slot))
                    return made.leaves[0], levels[::-1], value.read[0].index
                if made.function is rows_of_first:
                    levels += [(first_argument, [], (), value.slot), (rows_of, made.leaves[1:], (), None)]
                    return made.leaves[0], levels[::-1], value.read[0].index
                break
            copies = value.base is not None and value.maybe and not value.base.maybe and made.function not in _RESHAPE
            if value.base is None or copies or made.leaves[:1] != [value.base.slot] or made.function in _LEAVES:
                break
            levels.append((made.function, made.leaves[1:], made.names, value.slot))  # type: ignore[arg-type]
            value = value.base
        return value.slot, levels[::-1], -1 - value.node if value.read is None else value.read[0].index

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
