"""Reads and writes of sites: versions of what passes, by value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..graph import Graph, Node
from ..ops.evaluate import first_argument, put, put_first, put_inputs, same, with_first
from .plan import Slot, Step
from .storage import Cell, Root, Value

_DIRECTIONS = {"input": "in", "inputs": "in", "output": "out", "result": "result"}
_WRITERS = {"input": put_first, "inputs": put_inputs, "output": put}


def cell_key(node: Node) -> tuple[str, str]:
    """Path and direction of the visit that a read or write belongs to."""
    assert node.site is not None
    return node.site.path, _DIRECTIONS[node.site.point]


def written_cells(graph: Graph) -> set[tuple[str, str]]:
    """The visits at which something is written."""
    return {cell_key(node) for node in graph.body.nodes if node.target == "write"}


def read_function(point: str) -> Callable[[Any], Any]:
    """How a read takes its value from what passes."""
    return first_argument if point == "input" else same


class SiteWriter:
    """The part of the analysis that knows sites."""

    steps: list[Step]
    cells: dict[tuple[str, str], Cell]
    values: dict[int, Value]
    _written: set[tuple[str, str]]

    def cell(self, node: Node) -> Cell:
        """The cell of a read or a write."""
        key = cell_key(node)
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell(*key, len(self.cells), key in self._written)
        cell.nodes.append(node.number)
        return cell

    def read(self, node: Node) -> Value:
        """A value as it passes: the version that stands at this line."""
        assert node.site is not None
        cell = self.cell(node)
        point = node.site.point
        if point != "input" and not cell.written:
            value = Value(node.number, cell.slot, cell.bit, (cell.root,))
        else:
            step = Step(node.number, read_function(point), [cell.slot], cell.bit | cell.write_needs)
            if cell.write is not None:
                step.after.append(cell.write)
            step.output = Slot(step)
            step.output.cells = (cell.index,)
            self.steps.append(step)
            value = Value(node.number, step.output, step.needs, (cell.root,), step)
        value.read = (cell, point, cell.root)
        cell.root.aliases.append(value)
        return value

    def write(self, node: Node) -> None:
        """Put a value where another passed; names read above keep the old one."""
        assert node.site is not None
        cell = self.cell(node)
        step = Step(node.number, _WRITERS[node.site.point], [cell.slot], cell.bit | cell.write_needs | cell.root.edit_needs)
        operand = node.operands[0]
        values = list(self._inside(operand, node.number))  # type: ignore[attr-defined]
        for value in values:
            step.needs |= value.needs | value.edit_needs
        step.leaves.append(self._leaf(operand, step, True, 1))  # type: ignore[attr-defined]
        step.after += [*cell.root.edits, *([cell.write] if cell.write else [])]
        step.after = [other for other in step.after if other is not step]
        step.output = cell.slot
        cell.musts.append((step, None))
        retired = Step(node.number, None, [], cell.bit | cell.root.edit_needs)
        cell.root.retired = retired
        self.steps += [retired, step]
        cell.root, cell.write, cell.write_needs = Root(cell), step, step.needs

    def pass_on(self, read: Value, last: Step) -> None:
        """What a site delivered was replaced as a whole (a tuple with a new element): pass the new one on."""
        cell, point, root = read.read
        if cell.root is not root or read.slot is cell.slot:
            return
        step = Step(last.node, with_first if point == "input" else _second, [cell.slot, read.slot], last.needs)
        step.after.append(last)
        step.output = cell.slot
        self.steps.append(step)


def _second(_passing: Any, value: Any) -> Any:
    return value
