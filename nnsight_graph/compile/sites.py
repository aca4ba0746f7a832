"""Reads and writes of sites: versions of what passes, by value, whole or an invoke's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..graph import Graph, Node, Ref, walk
from ..graph.laws import LAWS
from ..ops.evaluate import first_argument, put, put_first, put_inputs, same, with_first
from ..ops.rows import join_rows, rows_of, rows_of_first
from ..ops.table import effect_of
from .plan import Guard, LayoutKey, Slot, Step
from .storage import Cell, Part, Root, RowsKey, Value

DIRECTIONS = {"input": "in", "inputs": "in", "output": "out", "result": "result", "grad": "grad"}
_WRITERS = {"input": put_first, "inputs": put_inputs, "output": put, "grad": put}
_READERS: dict[tuple[str, bool], Callable[..., Any]] = {
    ("input", False): first_argument, ("inputs", False): same, ("output", False): same, ("result", False): same, ("grad", False): same,
    ("input", True): rows_of_first, ("inputs", True): rows_of, ("output", True): rows_of, ("result", True): rows_of,
}  # fmt: skip


CellKey = tuple[str, str, int | str, int]
"""A visit: path, direction, step, call."""


def passing_key(node: Node) -> tuple[str, str]:
    """Path and direction of the visits that a read or write belongs to."""
    assert node.site is not None
    return node.site.path, DIRECTIONS[node.site.point]


def written_cells(graph: Graph) -> set[tuple[str, str]]:
    """The visits at which something is written; gradients that may be one are written together."""
    written = {passing_key(node) for node in walk(graph.body) if node.target == "write"}
    named = [(node.operands[0], node.site.call, passing_key(node)) for node in walk(graph.body) if node.target == "grad" and node.site]
    meant = {(value, call) for value, call, passing in named if passing in written}
    return written | {passing for value, call, passing in named if (value, call) in meant}


def rows_touched(graph: Graph) -> dict[tuple[str, str], set[RowsKey]]:
    """For each module's input or output, in whatever step, whose rows are read or written there."""
    touched: dict[tuple[str, str], set[RowsKey]] = {}

    def visit(nodes: tuple[Node, ...], rows: RowsKey) -> None:
        for node in nodes:
            if node.target == "copied" and node.site is not None:
                touched.setdefault((node.site.path.rpartition(".")[0], "in"), set()).add(None)
            elif node.target in ("read", "write", "grad", "skip", "replace"):
                touched.setdefault(passing_key(node), set()).add(rows if node.site is None or node.site.point != "grad" else None)
            for region in node.regions:
                visit(region.nodes, rows_key(node) if node.target == "invoke" else rows)

    visit(graph.body.nodes, None)
    return touched


def rows_key(node: Node) -> RowsKey:
    """Whose rows an invoke sees: its own, or all those before it."""
    kind, _, number = node.operands[0].name.partition(":")  # type: ignore[union-attr]
    return kind, int(number)


def edits_rows(graph: Graph) -> bool:
    """Whether several inputs share a batch in which something is edited in place."""
    nodes = list(walk(graph.body))
    invokes = {rows_key(node) for node in nodes if node.target == "invoke"}
    if len([key for key in invokes if key and key[0] == "rows"]) < 2:
        return False
    gradients: set[int] = set()
    for node in nodes:
        edited = node.operands[0].node if node.operands and type(node.operands[0]) is Ref else -1
        if node.target == "grad" or edited in gradients:
            gradients.add(node.number)  # a gradient, and what is made of it
        elif _edits(node.target):
            return True
    return False


def _edits(target: str) -> bool:
    if target in LAWS:
        return target in ("setattr", "call")
    effect = effect_of(target)
    return bool(effect.mutates or effect.writes)


def overlap(one: RowsKey, other: RowsKey) -> bool:
    """Whether two invokes may see the same rows."""
    return one is None or other is None or one == other or "before" in (one[0], other[0])


class SiteWriter:
    """The part of the analysis that knows sites."""

    steps: list[Step]
    cells: dict[CellKey, Cell]
    turn: int
    turns: list[Any]
    by_calls: bool
    gradient_turn: Callable[[Node], tuple[int, int]]
    meant_gradient: Callable[[str], str]
    refuse_below_stop: Callable[[Node], None]
    values: dict[int, Value]
    rows: RowsKey
    guard: Guard | None
    layouts: dict[LayoutKey, Slot]
    guarded: Callable[[Step], None]
    settle: Callable[..., Step]
    _listens: bool
    _pieces: bool
    _written: set[tuple[str, str]]
    _whose: dict[tuple[str, str], set[RowsKey]]

    def cell(self, node: Node) -> Cell:
        """The cell of a read or a write."""
        assert node.site is not None
        passing = passing_key(node)
        step = self.turn if node.site.step == "turn" else node.site.step
        turn = (step, node.site.call)
        if node.site.point == "grad":
            passing = self.meant_gradient(node.site.path), "grad"
            turn = self.gradient_turn(node) if self.turns else turn
            step = turn[0]
        elif self.by_calls:
            turn = (0, step + node.site.call) if isinstance(step, int) else ("last", 0)
        cell = self.cells.get((*passing, *turn))
        if cell is None:
            cell = Cell(*passing, len(self.cells), passing in self._written, tuple(self._whose[passing]), turn)
            self.cells[(*passing, *turn)] = cell
        optional = False
        for around in self.turns:
            if around.number == step:
                around.visits |= cell.bit
                optional = optional or step != 0
        cell.optional = cell.optional and optional
        cell.nodes.append(node.number)
        cell.guards.append(self.guard)
        return cell

    def layout(self, rows: tuple[str, int], cell: Cell | None = None, direction: str = "") -> Slot:
        """The slot in which a run puts which rows an invoke sees, and where they lie at a visit; steps after the first are alike."""
        if cell is None:
            return self.layouts.setdefault((*rows, "", "any", 0, 0), Slot())
        step, call = cell.turn
        return self.layouts.setdefault((*rows, cell.path, direction or cell.direction, int(step != 0), call), Slot())

    def read(self, node: Node) -> Value:
        """A value as it passes: the version that stands at this line."""
        assert node.site is not None
        cell, point = self.cell(node), node.site.point
        part = self._part(cell, node.number)
        roots = self._roots(cell, part)
        if self.rows is None and point != "input" and not cell.written and cell.write is None:
            value = Value(node.number, cell.slot, cell.bit, roots)
        else:
            step = self._take(node, cell, part, point)
            value = Value(node.number, step.output or cell.slot, step.needs, roots, step)
        value.read = (cell, point, part, part.root)
        for root in roots:
            root.aliases.append(value)
        return value

    def _part(self, cell: Cell, number: int) -> Part:
        """What is known of the rows that this line sees; written rows of others are joined first if they overlap."""
        others = [part for key, part in cell.parts.items() if key != self.rows and overlap(key, self.rows)]
        if any(part.written is not None for part in others):
            self._join(cell, number)
        elif any(part.passed is not None for part in others):
            self._put_together(cell, number)
        return cell.part(self.rows)

    def _roots(self, cell: Cell, part: Part) -> tuple[Root, ...]:
        others = (cell.part(key).root for key in cell.keys if key != self.rows and overlap(key, self.rows))
        return (part.root, *others)

    def _take(self, node: Node, cell: Cell, part: Part, point: str) -> Step:
        """The step that takes a read's value from what passes."""
        if self._pieces and part.own is None and cell.direction != "result" and all(key and key[0] == "rows" for key in cell.keys):
            self._take_piece(node, cell, part)
        leaves = [part.own or cell.slot]
        sliced = self.rows is not None and part.own is None
        if sliced and self.rows is not None:
            if self._listens:
                leaves[0] = self._whole(node, cell)
            leaves.append(self.layout(self.rows, cell))
        step = Step(node.number, _READERS[point, sliced], leaves, cell.bit | cell.write_needs | part.write_needs)
        step.after += [write for write in (cell.write, part.write) if write is not None]
        step.output = Slot(step)
        step.output.cells = (cell.index,)
        self.steps.append(step)
        if leaves[0] is cell.slot:
            cell.takes.append(step)
        return step

    def _whole(self, node: Node, cell: Cell) -> Slot:
        """The present version of what passes, under a name of its own: gradients of its rows are gradients of it, whatever is put there."""
        step = Step(node.number, same, [cell.slot], cell.bit | cell.write_needs)
        step.after += [cell.write] if cell.write is not None else []
        step.output = Slot(step)
        self.steps.append(step)
        cell.takes.append(step)
        return step.output

    def _take_piece(self, node: Node, cell: Cell, part: Part) -> None:
        """Rows that get storage of their own under autograd, where edits of the one would spoil the gradients of the other."""
        assert part.key is not None
        step = Step(node.number, None, [cell.slot, self.layout(part.key, cell)], cell.bit | cell.write_needs)
        step.special, step.extra = "piece", self._listens
        step.after += [cell.write] if cell.write is not None else []
        step.output = part.passed = Slot(step)
        step.output.cells = (cell.index,)
        part.write, part.write_needs = step, step.needs
        self.steps.append(step)
        cell.takes.append(step)

    def write(self, node: Node) -> None:
        """Put a value where another passed; names read above keep the old one."""
        assert node.site is not None
        if node.site.point == "grad" and self.rows is not None:  # it is of the rows already
            rows, self.rows = self.rows, None
            self.write(node)
            self.rows = rows
            return
        self.refuse_below_stop(node)
        cell, point = self.cell(node), node.site.point
        part = self._part(cell, node.number)
        if self._pieces and part.passed is not None:
            self._put_together(cell, node.number)  # what was edited above reaches the model's other uses of the rows
        step = Step(node.number, _WRITERS[point], [self._passing(node, cell, part, point)], cell.bit | cell.write_needs | part.write_needs)
        roots = self._roots(cell, part)
        for value in self._inside(node.operands[0], node.number):  # type: ignore[attr-defined]
            step.needs |= value.needs | value.edit_needs
        for root in roots:
            step.needs |= root.edit_needs
        step.leaves.append(self._leaf(node.operands[0], step, True, 1))  # type: ignore[attr-defined]
        step.after += [edit for root in roots for edit in root.edits] + [write for write in (cell.write, part.write) if write is not None]
        step.after = [other for other in step.after if other is not step]
        cell.musts.append((step, None))
        if self.guard is None:
            self._retire(roots, step)
            self.steps.append(step)
            self._put(cell, part, step)
        else:
            self._put_if(cell, part, step, roots)

    def _passing(self, node: Node, cell: Cell, part: Part, point: str) -> Slot:
        """What a write replaces, in whole or in part: the call of a module keeps its other arguments."""
        if self.rows is None or point == "output":
            return part.own or cell.slot
        return self._take(node, cell, part, "inputs").output or cell.slot

    def _put(self, cell: Cell, part: Part, step: Step) -> None:
        """A written value becomes the version that stands."""
        if self.rows is None:
            step.output = cell.slot
            step.after += cell.takes
            cell.write, cell.write_needs = step, step.needs
            cell.renew()
        else:
            step.output = part.written = Slot(step)
            part.write, part.write_needs, part.root, part.passed = step, step.needs, Root(cell), None
            cell.parts = {key: other for key, other in cell.parts.items() if key == self.rows or not overlap(key, self.rows)}

    def _put_if(self, cell: Cell, part: Part, step: Step, roots: tuple[Root, ...]) -> None:
        """A value that is written only if a branch is taken; the names of the old one stay the model's until that is known."""
        for root in roots:
            root.loose = True
            for value in root.aliases:
                value.superseded = True
        if self.rows is None:
            step.output = cell.slot
            step.after += cell.takes
            self.guarded(step)
            self.steps.append(step)
            cell.write = self.settle(step, cell.slot, cell.bit | cell.write_needs, [cell.write])
            cell.write_needs = cell.write.needs
            return
        before = self._prefill(cell, part, step.node)
        step.output = before.output
        step.after.append(before)
        self.guarded(step)
        self.steps.append(step)
        part.write = self.settle(step, before.output, before.needs, [before])
        part.written, part.write_needs, part.passed = before.output, part.write.needs, None

    def _prefill(self, cell: Cell, part: Part, number: int) -> Step:
        """What passes if the branch is not taken: the rows as they are."""
        leaves = [part.own or cell.slot]
        if part.own is None and part.key is not None:
            leaves.append(self.layout(part.key, cell))
        step = Step(number, same if len(leaves) == 1 else rows_of, leaves, cell.bit | cell.write_needs | part.write_needs)
        step.after += [write for write in (cell.write, part.write) if write is not None]
        step.output = Slot(step)
        step.output.cells = (cell.index,)
        self.steps.append(step)
        return step

    def _retire(self, roots: tuple[Root, ...], step: Step) -> None:
        """From this line on the names of these versions are no longer the model's."""
        for root in roots:
            if root.cell is not None:
                root.retired = Step(step.node, None, [], root.cell.bit | root.edit_needs)
                root.above = len(root.aliases)
                self.steps.append(root.retired)

    def pass_on(self, read: Value, last: Step) -> None:
        """What a site delivered was replaced as a whole (a tuple with a new element): pass the new one on."""
        cell, point, part, root = read.read
        if cell.parts.get(part.key) is not part or part.root is not root or read.slot is cell.slot:
            return
        if part.key is None:
            step = Step(last.node, with_first if point == "input" else _second, [cell.slot, read.slot], last.needs)
            step.output = cell.slot
            step.after.append(last)
            self.guarded(step)
            self.steps.append(step)
            if self.guard is not None:
                cell.write = self.settle(step, cell.slot, cell.bit | cell.write_needs, [cell.write])
                cell.write_needs = cell.write.needs
            return
        before = self._prefill(cell, part, last.node) if self.guard is not None else None
        passing = [self._rows_again(last, cell, part)] if point == "input" else []
        step = Step(last.node, with_first if point == "input" else same, [*passing, read.slot], last.needs)
        step.after.append(last)
        step.output = part.passed = before.output if before is not None else Slot(step)
        cell.musts.append((step, None))
        self.guarded(step)
        self.steps.append(step)
        part.write = step if before is None else self.settle(step, before.output, before.needs, [before])
        part.write_needs = part.write.needs

    def _rows_again(self, last: Step, cell: Cell, part: Part) -> Slot:
        if part.own is not None or part.key is None:
            return part.own or cell.slot
        step = Step(last.node, rows_of, [cell.slot, self.layout(part.key, cell)], cell.bit | cell.write_needs)
        step.output = Slot(step)
        self.steps.append(step)
        return step.output

    def _join(self, cell: Cell, number: int) -> None:
        """Put written rows back among the others: a new version of the whole."""
        step = self._joining(cell, number)
        self._retire(tuple(part.root for part in cell.parts.values()), step)
        self.steps.append(step)
        cell.renew()

    def _put_together(self, cell: Cell, number: int) -> None:
        """As joining, where no rows were written: what was edited in place is there already, and its names stay the model's."""
        self.steps.append(self._joining(cell, number))
        for part in cell.parts.values() if not self._pieces else ():
            part.passed = None

    def _joining(self, cell: Cell, number: int) -> Step:
        step = Step(number, join_rows, [cell.slot], cell.bit | cell.write_needs)
        step.special, step.extra = "join", cell.index
        for part in cell.parts.values():
            if part.own is not None and part.key is not None:
                step.leaves += [self.layout(part.key, cell), part.own]
                step.needs |= part.write_needs
                step.after += [part.write] if part.write else []
            step.needs |= part.root.edit_needs
            step.after.extend(part.root.edits)
        step.after += ([cell.write] if cell.write else []) + cell.takes
        step.output = cell.slot
        cell.musts.append((step, None))
        cell.write, cell.write_needs = step, step.needs
        return step

    def join_all(self) -> None:
        """After the last line: what the model goes on with."""
        for cell in self.cells.values():
            if any(part.own is not None for part in cell.parts.values()):
                self._join(cell, max((part.write.node for part in cell.parts.values() if part.write), default=cell.nodes[-1]))


def _second(_passing: Any, value: Any) -> Any:
    return value
