"""Modules that are skipped, forwards that are stopped, parameters that are others for one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import msgspec
import torch

from ..errors import MissedSiteError
from ..graph import Graph, Node, Operand, Region
from .edits import refused
from .plan import Guard, Slot, Step
from .sites import rows_key
from .storage import Cell, Root, RowsKey, Value

FORWARD = -1
"""The scope of a stop that ends the forward, whatever the invokes still want."""


class DetourAnalysis:
    """The part of the analysis that knows stops, skips and replaced parameters."""

    graph: Graph
    steps: list[Step]
    cells: dict[Any, Cell]
    rows: RowsKey
    guard: Guard | None
    guarded: Callable[[Step], None]
    cell: Callable[[Node], Cell]
    layout: Callable[..., Slot]
    module: Callable[[str, bool], Slot]
    values: dict[int, Value]
    _inside: Callable[[Operand, int], Iterator[Value]]
    _leaf: Callable[..., Slot]

    def __init__(self) -> None:
        self.skips: list[tuple[Node, Cell, RowsKey, Guard | None]] = []
        self.scopes: list[Node] = []
        self.replaced: dict[str, int] = {}
        self.copies: list[int] = []
        self._scope = 0
        self._stopped_at = 0
        self._begun = 0

    # ------------------------------------------------------------------ stops

    def stop(self, node: Node) -> None:
        """End the forward when a value is there, or, without one, when everything above has its value."""
        step = Step(node.number, None, [], 0)
        step.special = "stop"
        if node.operands:
            for value in self._inside(node.operands[0], node.number):
                step.needs |= value.needs | value.edit_needs
            step.leaves.append(self._leaf(node.operands[0], step, True, 0))
            step.extra = (FORWARD, node.number)
        else:
            above = self.steps[self._begun :]
            for other in above:
                step.needs |= other.needs
            step.after += [other for other in above if other.function is not None or other.special]
            for cell in self.cells.values():
                step.needs |= cell.bit if self._is_named_above(cell, node) else 0
            step.extra = (FORWARD if self.rows is None else len(self.scopes) + 1, node.number)
        self.guarded(step)
        self.steps.append(step)
        if step.extra[0] != FORWARD:
            self.scopes.append(node)
            self._scope, self._stopped_at = len(self.scopes), len(self.steps)

    def _is_named_above(self, cell: Cell, node: Node) -> bool:
        return any(line < node.number and (self.rows is None or self._row_of.get(line) == self.rows) for line in cell.nodes)

    @cached_property
    def _row_of(self) -> dict[int, RowsKey]:
        return dict(_rows_of_lines(self.graph.body, None))

    def in_invoke(self, node: Node, analyse: Callable[[Region], None]) -> None:
        """Analyse the lines of an invoke; those below a stop in it are given up when it comes."""
        self.rows, self._begun, self._scope = rows_key(node), len(self.steps), 0
        analyse(node.regions[0])
        if self._scope:
            for step in self.steps[self._stopped_at :]:
                if step.scope == 0:
                    step.scope = self._scope
        self.rows, self._begun, self._scope = None, 0, 0

    def refuse_below_stop(self, node: Node) -> None:
        """A line that would change something in an invoke that has ended.

        Raises:
            RecordError: names the line.
        """
        if self._scope and self.rows is not None:
            raise refused(node.number, "stands below the stop of its invoke, and could change nothing")

    # ------------------------------------------------------------------ parameters

    def copied(self, node: Node) -> None:
        """A copy of a parameter, which stands for it in this run: edits of it have to be done when its module's turn comes."""
        assert node.site is not None
        owner = node.site.path.rpartition(".")[0]
        cell = self.cell(msgspec.structs.replace(node, site=node.site._replace(path=owner, point="inputs")))
        self.copies.append(node.number)
        step = Step(node.number, torch.clone, [], 0)
        if node.operands:  # of a value that was assigned
            for value in self._inside(node.operands[0], node.number):
                step.needs |= value.needs | value.edit_needs
            step.leaves.append(self._leaf(node.operands[0], step, True, 0))
        else:
            step.leaves.append(self.module(node.site.path, True))
        self.guarded(step)
        self.steps.append(step)
        step.output = Slot(step)
        self.values[node.number] = Value(node.number, step.output, step.needs, (Root(cell),), step)

    def replace(self, node: Node) -> None:
        """A value that stands for a parameter from the first call of its module on."""
        assert node.site is not None
        cell = self.cell(node)
        step = Step(node.number, None, [], 0)
        step.special, step.extra = "replace", (node.site.path, node.operands[0].name)  # type: ignore[union-attr]
        for value in self._inside(node.operands[1], node.number):
            step.needs |= value.needs | value.edit_needs
        step.leaves.append(self._leaf(node.operands[1], step, False, 0))
        cell.musts.append((step, None))
        self.guarded(step)
        self.steps.append(step)
        self.replaced[node.site.path] = node.number

    # ------------------------------------------------------------------ skips

    def skip(self, node: Node) -> None:
        """A module that does not run: what is there when its input passes is its output."""
        assert node.site is not None
        self.refuse_below_stop(node)
        cell = self.cell(node)
        step = Step(node.number, None, [], cell.bit)
        step.special, step.extra = "skip", node.site.path
        for value in self._inside(node.operands[0], node.number):
            step.needs |= value.needs | value.edit_needs
        step.leaves.append(self._leaf(node.operands[0], step, True, 0))
        if self.rows is not None:
            step.leaves.append(self.layout(self.rows, cell, "out"))
        cell.musts.append((step, None))
        self.guarded(step)
        self.steps.append(step)
        self.skips.append((node, cell, self.rows, self.guard))

    def refuse_inside(self) -> None:
        """Lines about what is inside a module that never runs.

        Raises:
            MissedSiteError: names the line, and the module.
        """
        for node, skipped, rows, guard in self.skips:
            path = node.site.path  # type: ignore[union-attr]
            if guard is not None:
                continue
            for cell in self.cells.values():
                if cell.path != path and cell.path.startswith(f"{path}." if path else "") and cell.turn[0] == skipped.turn[0]:
                    number = next((line for line in cell.nodes if rows is None or self._row_of.get(line) == rows), None)
                    if number is not None:
                        error = MissedSiteError(f"{cell.path} does not run: {path or 'the model'} is skipped.")
                        error.node = number  # type: ignore[attr-defined]
                        raise error


def _rows_of_lines(region: Region, rows: RowsKey) -> Iterator[tuple[int, RowsKey]]:
    for node in region.nodes:
        yield node.number, rows
        for inner in node.regions:
            yield from _rows_of_lines(inner, rows_key(node) if node.target == "invoke" else rows)
