"""Loops over steps: their body is analysed once per step, with the sites of that step.

How many steps an open range has is known as a bound when the plan is made (a run may have fewer): what stands in a step that
never comes simply does not run. Lines below an open loop wait for the end of the run, when its last step is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..graph import Const, Group, Literal, Node, Operand, Ref, Region, references_of, walk
from ..graph.walk import references_in
from ..ops.control import never
from ..ops.evaluate import nothing, same
from .edits import refused
from .gradients import backwards_in
from .plan import Guard, Slot, Step
from .sites import CellKey
from .storage import Cell, Root, Value, freeze, opened

LIMIT = 4096
"""Steps that an open loop is analysed for at most."""


def steps_of(text: str, bound: int) -> list[int]:
    """The steps that a loop names, where at most ``bound`` can come.

    >>> steps_of("1:None:2", 6), steps_of("0:2:1", 6), steps_of("0,3", 6)
    ([1, 3, 5], [0, 1], [0, 3])
    """
    if ":" not in text:
        return [int(part) for part in text.split(",") if part]
    start, stop, step = text.split(":")
    return list(range(int(start), min(bound, LIMIT) if stop == "None" else int(stop), int(step)))


class Turn:
    """One turn of a loop over steps while its body is analysed.

    Attributes:
        number: The step; 0 if its lines run whether or not it comes, as those of plain Python's loops do.
        key: Which turn of which loop it is.
        visits: Bit mask of the visits of that step that its lines have named so far.
    """

    __slots__ = ("key", "number", "visits")

    def __init__(self, number: int, key: tuple[int, int]) -> None:
        self.number = number
        self.key = key
        self.visits = 0


class Latest:
    """A slot that each turn fills anew."""

    __slots__ = ("slot", "steps")

    def __init__(self) -> None:
        self.slot = Slot()
        self.slot.saved = True  # it is filled again and again
        self.steps: list[Step] = []


class StepAnalysis:
    """The part of the analysis that knows steps."""

    steps: list[Step]
    values: dict[int, Value]
    cells: dict[CellKey, Cell]
    saves: list[Node]
    kept: set[int]
    guard: Guard | None
    turn: int
    turns: list[Turn]
    came: dict[tuple[int, int], Cell]
    begins: dict[int, tuple[int, ...]]
    by_calls: bool
    bound: int
    touched_roots: list[Root]
    backwards: dict[int, set[int]]
    ends: list[int]
    guarded: Callable[[Step], None]
    current: Callable[[Value, int], Value]
    mark: Callable[..., Cell]
    number: Callable[[int], Slot]
    _leaf: Callable[..., Slot]
    _inside: Callable[[Operand, int], Iterator[Value]]
    _region: Callable[[Region], None]
    _pure: Callable[..., None]
    _turns: dict[int, Latest]
    carried_out: dict[Operand, list[Value]]
    constant: Callable[[int], Value]

    def all_steps(self, node: Node) -> None:
        """Analyse a loop over steps: its body for each of them."""
        text, region = node.operands[0], node.regions[0]
        assert type(text) is Literal
        open_range = ":None:" in text.name
        results = region.results[1:]
        plainly = not open_range and not self._may_leave(region)
        carried = [self._carried(operand, node, plainly) for operand in node.operands[1:]]
        if text.name.startswith("0:"):  # its first turn always comes: what is not looked at before it is assigned is not needed
            carried = [self._nothing(node) if place in _unread(node) else value for place, value in enumerate(carried)]
        latest = [] if plainly else [self._first(value, node) for value in carried]
        self.backwards[node.number] = backwards_in(region)
        outer, touched = (self.turn, self.guard), len(self.touched_roots)
        for place, turn in enumerate(steps_of(text.name, self.bound)):
            self.turn = turn
            self.turns.append(Turn(turn if open_range else 0, (node.number, place)))
            self._bind(node, place, carried)
            self._region(region)
            self._keep_saved(region)
            carried = [self._carried(operand, node, plainly) for operand in results]
            for kept, value in zip(latest, carried, strict=False):
                self._fill(kept, value, node.number)
            self._may_end(node, region)
            self._begun_by(self.turns.pop())
        self.turn, self.guard = outer
        if open_range:
            self._end(node, latest, self.touched_roots[touched:])
        elif plainly:
            self.carried_out[Ref(node.number)] = carried
        else:
            self.values[node.number] = self._tuple(node, [self._of(kept, node) for kept in latest])

    def in_turn(self, step: Step) -> None:
        """A line of a turn runs only if its step comes, even if nothing that it uses says so."""
        for turn in self.turns:
            if turn.number and not step.needs & turn.visits:
                key = (turn.key[0] if self.by_calls else 0, turn.number)
                if key not in self.came:
                    self.came[key] = self.mark("step", turn.number)
                    self.came[key].nodes.append(step.node)
                step.needs |= self.came[key].bit

    def _begun_by(self, turn: Turn) -> None:
        """Where steps are calls, a turn begins with the first call that one of its lines names."""
        came = self.came.get((turn.key[0], turn.number)) if self.by_calls else None
        for cell in self.cells.values() if came is not None else ():
            if came is not None and cell.bit & turn.visits:
                self.begins[cell.index] = (*self.begins.get(cell.index, ()), came.index)

    def _may_leave(self, region: Region) -> bool:
        return bool(region.results) and region.results[0] != Literal("False")

    def _bind(self, node: Node, place: int, carried: list[Value]) -> None:
        """What the parameters of the loop are in the turn at ``place``."""
        for param in node.regions[0].nodes:
            if param.target == "param" and param.operands[0] == Ref(node.number):
                what = param.operands[1]
                if type(what) is Group:
                    self.values[param.number] = self._of_turn(param, what, place)
                elif what == Literal("item"):
                    self.values[param.number] = Value(param.number, self.number(self.turn), 0, ())
                    self.values[param.number].plain = True
                else:
                    self.values[param.number] = carried[int(what.name)]  # type: ignore[union-attr]

    def _of_turn(self, param: Node, given: Group, place: int) -> Value:
        if place >= len(given.items):
            count = f"{len(given.items)} turn" + ("s" if len(given.items) > 1 else "")
            raise refused(param.number, f"has values for {count} of its loop, and none for the one after, step {self.turn}")
        return self._carried(given.items[place], param, True)

    def _carried(self, operand: Operand, node: Node, plainly: bool = False) -> Value:
        """The value of an operand: itself where it can only be named ``plainly``, else under a name of its own."""
        if type(operand) is Ref:
            value = self.values[operand.node]
            return value if plainly else self.current(value, node.number)
        if type(operand) is Const and plainly:
            return self.constant(operand.index)
        step = Step(node.number, same, [], 0)
        inside = list(self._inside(operand, node.number))
        for value in inside:
            step.needs |= value.needs | value.edit_needs
        step.leaves = [self._leaf(operand, step, True, 0)]
        self.guarded(step)
        self.steps.append(step)
        roots = tuple(dict.fromkeys(root for value in inside for root in value.roots))
        step.output = Slot(step)
        return Value(node.number, step.output, step.needs, (*roots, Root()), step)

    def _nothing(self, node: Node) -> Value:
        step = Step(node.number, never, [], 0)
        step.output = Slot(step)
        self.steps.append(step)
        return Value(node.number, step.output, 0, (Root(),), step)

    def _may_end(self, node: Node, region: Region) -> None:
        """What follows a turn that may leave the loop stands in a branch."""
        if self._may_leave(region):
            truth = self._carried(region.results[0], node)
            test = Step(node.number, bool, [truth.slot], truth.needs)
            test.output = Slot(test)
            test.output.saved = True
            self.guarded(test)
            self.steps.append(test)
            self.guard = Guard(test, test.output, False, self.guard)

    # ------------------------------------------------------------------ what outlives a turn

    def _first(self, value: Value, node: Node) -> Latest:
        place = Latest()
        self._fill(place, value, node.number)
        return place

    def _fill(self, place: Latest, value: Value, number: int) -> None:
        step = Step(number, same, [value.slot], value.needs | value.edit_needs)
        step.output = place.slot
        step.after = place.steps[-1:] + [edit for root in opened(value.roots) for edit in root.edits]
        self.guarded(step)
        place.steps.append(step)
        place.slot.makers.append((step, value.slot.cells))
        self.steps.append(step)

    def _of(self, place: Latest, node: Node) -> Value:
        """What the last turn left, in a bounded loop that may be left before its end."""
        step = Step(node.number, same, [place.slot], 0)
        for filled in place.steps:
            step.needs |= filled.needs
            step.after.append(filled)
        step.output = Slot(step)
        self.steps.append(step)
        value = Value(node.number, step.output, step.needs, (Root(),), step)
        value.maybe = True
        return value

    def _keep_saved(self, region: Region) -> None:
        """Of a value that is saved in a loop over steps, that of the last turn stays."""
        inside = {node.number: node for node in walk(region)}
        lines = {node.operands[0].node: node.number for node in self.saves if node.number in inside}  # type: ignore[union-attr]
        self.saves[:] = [node for node in self.saves if node.number not in inside or node.operands[0].node not in inside]  # type: ignore[union-attr]
        for number in inside if self.kept else ():
            if number in self.kept and number in self.values:
                self._keep_turn(number, lines.get(number, number))

    def _keep_turn(self, number: int, line: int) -> None:
        if number not in self._turns:
            first = Step(line, never, [], 0)
            self._turns[number] = place = Latest()
            first.output = place.slot
            place.steps.append(first)
            self.steps.append(first)
        outer, value = self.guard, self.current(self.values[number], line)
        freeze(value)
        self.guard = value.step.guard if value.step is not None and value.step.guard is not None else outer
        self._fill(self._turns[number], value, line)
        self.guard = outer

    def kept_turns(self) -> list[tuple[int, Slot]]:
        """The saved values of loops over steps."""
        return [(number, place.slot) for number, place in self._turns.items()]

    def _end(self, node: Node, latest: list[Latest], touched: list[Root]) -> None:
        """Below an open loop: its results, and what it has edited, are there when the run ends."""
        end = self.mark("end")
        end.nodes.append(node.number)
        self.ends.append(end.index)
        done = Step(node.number, nothing, [], end.bit)
        self.steps.append(done)
        begun = sum(cell.bit for cell in self.came.values())
        for root in dict.fromkeys(touched):
            own = self._began(root.cell, node.number) if root.cell is not None else None
            if root.cell is not None and not root.edit_needs & begun & ~(own.bit if own is not None else 0):
                continue  # what passes at a visit was edited while it did
            root.edits, root.readers = [done], []
            root.edit_needs = end.bit
        values = []
        for place in latest:
            step = Step(node.number, same, [place.slot], end.bit)
            step.output = Slot(step)
            self.steps.append(step)
            values.append(Value(node.number, step.output, end.bit, (Root(),), step))
        self.values[node.number] = self._tuple(node, values)

    def _began(self, cell: Cell, loop: int) -> Cell | None:
        """What stands for the beginning of the turn that a visit belongs to."""
        step, call = cell.turn
        return self.came.get((loop, call) if self.by_calls else (0, step))  # type: ignore[arg-type]

    def _tuple(self, node: Node, values: list[Value]) -> Value:
        step = Step(node.number, lambda *items: items, [value.slot for value in values], 0)
        for value in values:
            step.needs |= value.needs
        step.output = Slot(step)
        self.steps.append(step)
        roots = tuple(dict.fromkeys(root for value in values for root in value.roots))
        made = Value(node.number, step.output, step.needs, roots or (Root(),), step)
        made.maybe = True
        return made


def _unread(node: Node) -> set[int]:
    """The carried values that no line of a loop's body looks at."""
    region = node.regions[0]
    used = {number for inner in walk(region) for number in references_of(inner) if inner.target != "param"}
    used |= {number for result in region.results for number in references_in(result)}
    params = [inner for inner in region.nodes if inner.target == "param" and inner.operands[0] == Ref(node.number)]
    names = {inner.operands[1].name: inner.number for inner in params if type(inner.operands[1]) is Literal}
    return {int(name) for name, number in names.items() if name.isdigit() and number not in used}
