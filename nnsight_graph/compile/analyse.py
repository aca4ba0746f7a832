"""Graph -> steps: what each line depends on, by value and by the edits that stand above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..graph import Const, Graph, Group, Literal, Node, Operand, Ref, Region, unused_methods, walk
from ..ops.ambient import without_modes
from ..ops.effect import Effect, parse, shared, written
from ..ops.evaluate import GROUPS, literal, put_back, resolve, same
from ..ops.passing import as_passed, as_tuple
from ..ops.table import function_of
from .bodies import analyse_loop
from .branches import BranchAnalysis
from .containers import CONTAINERS, contain, stored_operands
from .detours import DetourAnalysis
from .edits import prepare_edit
from .fixed import FixedSlots
from .gradients import GradientAnalysis
from .meaning import Meaning
from .plan import Guard, LayoutKey, Slot, Step
from .sites import CellKey, SiteWriter, edits_rows, rows_touched, written_cells
from .steps import Latest, StepAnalysis, Turn
from .storage import Cell, Root, RowsKey, Value, opened

_PURE, VIEW, _PUT_IN = parse("pure"), parse("view:0"), parse("mutates:0 maybe:1")
_PLAIN_PARTS = (function_of("getitem"), as_tuple)
_OWN = {"grad": "gradient", **{name: name for name in ("write", "backward", "merge", "skip", "stop", "replace", "copied")}}
_IN_PLACE = frozenset("iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift setitem".split())
_TAKES_OUT = frozenset((".pop", ".popitem", ".setdefault"))  # their result is something that the container held


class Analysis(SiteWriter, BranchAnalysis, StepAnalysis, FixedSlots, GradientAnalysis, DetourAnalysis, Meaning):
    """The walk over a graph; afterwards :attr:`steps`, :attr:`cells` and :attr:`saved` describe the program."""

    def __init__(self, graph: Graph, bound: int = 1, by_calls: bool = False) -> None:
        GradientAnalysis.__init__(self)
        DetourAnalysis.__init__(self)
        self.graph = graph
        self.bound, self.by_calls = bound, by_calls
        self.turn = 0
        self.turns: list[Turn] = []
        self.came: dict[tuple[int, int], Cell] = {}
        self.begins: dict[int, tuple[int, ...]] = {}
        self.touched_roots: list[Root] = []
        self.ends: list[int] = []
        self._turns: dict[int, Latest] = {}
        self.carried_out: dict[Operand, list[Value]] = {}
        self.steps: list[Step] = []
        self.values: dict[int, Value] = {}
        self.by_step: dict[int, Value] = {}
        self.cells: dict[CellKey, Cell] = {}
        self.saved: list[tuple[int, Slot]] = []
        self.any_kept = False
        self.edited: dict[int, None] = {}
        self.fixed: list[Any] = []
        self.modules: dict[tuple[str, bool], Slot] = {}
        self._fixed_slots: dict[str, Slot] = {}
        self._constants: dict[int, Value] = {}
        self._written = written_cells(graph)
        self._whose = rows_touched(graph)
        self._pieces = edits_rows(graph)
        self._listens = any(node.target == "grad" for node in walk(graph.body))
        self._notes_edits = any(node.target in ("backward", "call") for node in walk(graph.body))  # torch.autograd.grad is a call
        given = any(node.target == "backward" and "inputs" in dict(node.keywords) for node in walk(graph.body))
        self.derives = given or any(node.target == "call" for node in walk(graph.body))
        self.rows: RowsKey = None
        self.modes = ""
        self.guard: Guard | None = None
        self.edited_if: list[tuple[Step, tuple[Root, ...]]] = []
        self.sets = {node.number for node in walk(graph.body) if node.target == "set"}
        self.virtual: dict[Any, int] = {}
        self.layouts: dict[LayoutKey, Slot] = {}
        self._shared = {index: group[0] for group in graph.shared for index in group}
        self.dropped = unused_methods(graph.body)
        self.saves: list[Node] = []
        self.kept = {node.operands[0].node for node in walk(graph.body) if node.target == "save" and type(node.operands[0]) is Ref}
        self.caches: list[tuple[Node, Slot | None]] = []
        self.given: dict[int, Guard] = {}
        self.saved_in: dict[int, list[Guard | None]] = {}
        self._region(graph.body)
        self.join_all()
        self.refuse_inside()
        if self.listening:
            self.refuse_overlaps()
        for node in self.saves:
            self._save(node)
        self.saved += self.kept_turns()

    def _region(self, region: Region) -> None:
        for node in region.nodes:
            if node.target == "invoke":
                self.in_invoke(node, self._region)
            elif node.target == "if":
                self.branch(node)
            elif node.target in ("for", "while"):
                analyse_loop(self, node)
            elif node.target == "steps":
                self.all_steps(node)
            elif node.target == "under":
                self.modes = node.operands[0].name  # type: ignore[union-attr]
            elif node.target == "cache":
                self.caches.append((node, self.layout(self.rows) if self.rows else None))
            elif node.target == "save":
                self.saves.append(node)
                self.saved_in.setdefault(node.operands[0].node, []).append(self.guard)  # type: ignore[union-attr]
            elif node.number not in self.dropped and node.target != "param":
                self.node(node)

    def _save(self, node: Node) -> None:
        operand = node.operands[0]
        assert type(operand) is Ref
        if operand.node not in self.values or operand.node in self._turns:
            return  # of a loop: its last value was kept there
        value = self.current(self.values[operand.node], node.number)
        value.slot.saved = True
        self.saved.append((operand.node, value.slot))
        inside = self.saved_in.get(operand.node, [None])
        if value.step is not None and value.step.guard is not None:
            self.given[operand.node] = value.step.guard
        elif len(inside) == 1 and inside[0] is not None:
            self.given[operand.node] = inside[0]

    # ------------------------------------------------------------------ nodes

    def node(self, node: Node) -> None:
        """Analyse a node without regions."""
        if node.target == "read":
            self.values[node.number] = self.read(node)
        elif node.target in _OWN:
            getattr(self, _OWN[node.target])(node)
        elif node.target == "parameter":
            assert node.site is not None
            root = Root()
            root.parameter = True
            self.values[node.number] = Value(node.number, self.module(node.site.path, True), 0, (root,))
        elif node.target == "result" and node.operands[0] in self.carried_out:
            self.values[node.number] = self.carried_out[node.operands[0]][int(node.operands[1].name)]  # type: ignore[union-attr]
        else:
            self._operation(node)

    def module(self, path: str, parameter: bool) -> Slot:
        """The slot in which a run puts a module, or a parameter, of the model."""
        return self.modules.setdefault((path, parameter), Slot())

    def constant(self, index: int) -> Value:
        """A lifted constant; constants that share storage share a root."""
        if index not in self._constants:
            first = self._shared.get(index, index)
            roots = (Root(),) if first == index else self.constant(first).roots
            self._constants[index] = Value(-1, Slot(), 0, roots)
            self._constants[index].plain = type(self.graph.constants[index]) in (int, str)
        return self._constants[index]

    def constants(self) -> Iterator[tuple[int, Slot]]:
        """Index and slot of every constant that is used."""
        return ((index, value.slot) for index, value in self._constants.items())

    # ------------------------------------------------------------------ operations

    def _operation(self, node: Node) -> None:
        function, effect = self.meaning(node)
        if effect is _PURE and not node.keywords and not any(type(operand) is Group for operand in node.operands):
            self._pure(node, function)
            return
        operands = [*node.operands, *(operand for _, operand in node.keywords)]
        step = Step(node.number, function, [], 0, tuple(name for name, _ in node.keywords))
        step.opaque = node.target in ("call", "module", "listening")
        if node.target in ("module", "listening"):
            assert node.site is not None
            step.leaves.append(self.module(node.site.path, False))
        inside = [list(self._inside(operand, node.number)) for operand in operands]
        mutated, viewed = self.touched(node, effect)
        copies = bool(effect.maybe) or not mutated <= set(effect.mutates)
        stored = stored_operands(node, effect, mutated, viewed)
        step.needs = self._needs(inside, mutated, viewed if not copies else stored, effect)
        self.guarded(step)
        base = self._base(inside, viewed)
        if base is not None and not effect.metadata:
            step.needs |= base.own_edit_needs
            copies = copies or bool(step.needs & ~base.needs)
        for place, operand in enumerate(operands):
            reading = not effect.metadata and place not in mutated and place not in stored and (place not in viewed or copies)
            step.leaves.append(self._leaf(operand, step, reading, len(step.leaves)))
        for place in sorted(mutated):
            for value in inside[place]:
                if any(root.cell for root in value.roots):
                    self.refuse_below_stop(node)
                prepare_edit(self, step, value)
        self.steps.append(step)
        for place in sorted(mutated) if self._notes_edits else ():
            self._note_edit(step, inside[place])
        self.settle_edits()
        if effect.mutates and mutated:
            if stored:
                contain(self, step, inside[min(mutated)], [value for place in sorted(stored) for value in inside[place]])
            self._edited(node, step, inside[min(mutated)][0])
        else:
            self._result(node, step, inside, viewed, base, copies and bool(viewed))

    def _note_edit(self, step: Step, edited: list[Value]) -> None:
        """Should a backward fail for an edit in place, the run can tell which line it was."""
        for value in edited:
            note = Step(step.node, None, [value.slot], step.needs)
            note.special, note.after = "note edit", [step]
            self.guarded(note)
            self.steps.append(note)

    def _pure(self, node: Node, function: Callable[..., Any] | None) -> None:
        """The short way for most operations: they read their operands and make something new."""
        step = Step(node.number, function, [], 0)
        leaves = step.leaves
        for place, operand in enumerate(node.operands):
            kind = type(operand)
            if kind is Literal:
                leaves.append(self.literal(operand.name))  # type: ignore[union-attr]
                continue
            value = self.values[operand.node] if kind is Ref else self.constant(operand.index)  # type: ignore[union-attr]
            if self.any_kept:
                value = self.current(value, node.number)
            step.needs |= value.needs
            for root in opened(value.roots):
                step.needs |= root.edit_needs
                root.readers.append((step, place))
                if root.edits:
                    step.after.extend(root.edits)
            leaves.append(value.slot)
        if self.guard is not None or self.turns:
            self.guarded(step)
        self.steps.append(step)
        step.output = Slot(step)
        self.values[node.number] = Value(node.number, step.output, step.needs, (Root(),), step)

    @staticmethod
    def touched(node: Node, effect: Effect) -> tuple[set[int], set[int]]:
        """Which operands are written into, and which the result may share storage with."""
        places = iter(range(len(node.operands) + len(node.keywords)))
        args = [_seen(operand, next(places)) for operand in node.operands]
        named = {name: _seen(operand, next(places)) for name, operand in node.keywords}
        mutated = {place for place in written(effect, args, named) if type(place) is int}
        return mutated, {place for place in shared(effect, args, named) if type(place) is int}

    def _inside(self, operand: Operand, number: int) -> Iterator[Value]:
        if type(operand) is Ref:
            yield self.current(self.values[operand.node], number)
        elif type(operand) is Const:
            yield self.constant(operand.index)
        elif type(operand) is Group:
            for item in operand.items:
                yield from self._inside(item, number)

    @staticmethod
    def _needs(inside: list[list[Value]], mutated: set[int], viewed: set[int], effect: Effect) -> int:
        needs = 0
        for place, values in enumerate(inside):
            for value in values:
                needs |= value.needs
                if place in mutated:
                    needs |= value.own_edit_needs
                elif not effect.metadata and place not in viewed:
                    needs |= value.edit_needs
        return needs

    @staticmethod
    def _base(inside: list[list[Value]], viewed: set[int]) -> Value | None:
        values = [value for place in sorted(viewed) for value in inside[place] if value.node >= 0]
        return values[0] if values else None

    def _leaf(self, operand: Operand, step: Step, reading: bool, place: int) -> Slot:
        """The slot an operand lies in; groups are packed by a step of their own right before."""
        if type(operand) is Literal:
            return self.literal(operand.name)
        if type(operand) is Group:
            return self._pack(operand, step, reading)
        value = self.current(self.values[operand.node], step.node) if type(operand) is Ref else self.constant(operand.index)  # type: ignore[union-attr]
        if reading:
            self._read_by(step, place, value)
        return value.slot

    @staticmethod
    def _read_by(step: Step, place: int, value: Value) -> None:
        for root in opened(value.roots):
            root.readers.append((step, place))
            step.after.extend(root.edits)

    def _pack(self, group: Group, step: Step, reading: bool) -> Slot:
        if group.kind in ("tuple", "slice") and all(type(item) is Literal for item in group.items):
            return self.fixed_group(group)
        pack = Step(step.node, GROUPS[group.kind], [], step.needs)
        for place, item in enumerate(group.items):
            pack.leaves.append(self._leaf(item, pack, reading, place))
        pack.output = Slot(pack)
        self.guarded(pack)
        self.steps.append(pack)
        return pack.output

    # ------------------------------------------------------------------ results

    def _result(self, node: Node, step: Step, inside: list[list[Value]], viewed: set[int], base: Value | None, maybe: bool) -> None:
        shared_with = [value for place in sorted(viewed) for value in inside[place]]
        own = dict.fromkeys(root for value in shared_with for root in value.roots)
        roots = opened(tuple(own))
        maybe = maybe or len(roots) > len(own)
        if node.target in CONTAINERS:
            made = Root()
            made.hold(roots)
            roots, maybe, base = (made,), False, None
        value = Value(node.number, Slot(step), step.needs, (*roots, Root()) if maybe or not roots else roots, step)
        step.output = value.slot
        value.base, value.maybe = base, maybe or (base is not None and base.maybe)
        value.slot.cells = tuple(dict.fromkeys(cell for other in shared_with for cell in other.slot.cells))
        value.slot.unchecked = any(root.detached for root in roots)
        for root in roots:
            root.aliases.append(value)
            step.after.extend([root.retired] if root.detached and root.retired else [])
        self.values[node.number] = value
        self.by_step[id(step)] = value

    def _edited(self, node: Node, step: Step, target: Value) -> None:
        """The value of an edit is its target; an edit of what a site delivered may also replace it (a tuple's element)."""
        if node.target in _IN_PLACE and self._read_of(target) is not None:
            step.output = target.slot
            self._replace_upwards(step, target)
        elif node.target not in ("setitem", "setattr", "delitem"):
            step.output = Slot(step)
            step.output.cells = target.slot.cells
            step.output.unchecked = any(root.detached for root in target.roots)
        name = Step(node.number, same, [target.slot], step.needs)  # a tensor's edit returns the tensor itself
        roots = opened(target.roots) if node.target in _TAKES_OUT else target.roots
        result = Value(node.number, step.output or target.slot, step.needs, roots, name)
        result.maybe, result.read, result.base = target.maybe, target.read, target
        if result.slot is not target.slot:
            for root in roots:
                root.aliases.append(result)
        self.values[node.number] = result

    def _read_of(self, value: Value) -> Value | None:
        """The read that ``value`` is, or is an element of, by plain indexing."""
        while value.base is not None and value.step is not None and without_modes(value.step.function) in _PLAIN_PARTS:
            value = value.base
        return value if value.read is not None else None

    def _replace_upwards(self, step: Step, target: Value) -> None:
        """Where an element of a tuple was replaced, replace it in the tuple, and in turn up to what the site passes on."""
        last = step
        while target.read is None and target.base is not None and target.step is not None:
            shown = without_modes(target.step.function) is as_tuple  # the tuple is only how a tensor is shown
            leaves = [target.base.slot, target.slot] if shown else [target.base.slot, target.step.leaves[1], target.slot]
            back = Step(step.node, as_passed if shown else put_back, leaves, step.needs)
            back.output = target.base.slot
            back.after.append(last)
            self.guarded(back)
            self.steps.append(back)
            last, target = back, target.base
        self.pass_on(target, last)

    def current(self, value: Value, number: int) -> Value:
        """``value`` as a line at ``number`` sees it: a view that is known later than an edit above is applied again."""
        base = value.base
        if not self.any_kept or base is None or value.step is None:
            return value
        now = self.current(base, number)
        kept = value.kept if now is base else {**now.kept, **value.kept}
        if not kept:
            return value
        made = value.step
        assert made.function is not None
        function = partial(resolve, made.function, len(kept))
        step = Step(number, function, [value.slot, *kept], value.needs | now.needs | base.edit_needs, made.names)
        again = Value(number, Slot(step), step.needs, value.roots, step)
        for leaf in made.leaves:
            really = kept.get(leaf, leaf)
            step.leaves.append(now.slot if really is base.slot else really)
            if really is base.slot:
                self._read_by(step, len(step.leaves) - 1, now)
        step.output = again.slot
        step.output.cells = value.slot.cells
        self.steps.append(step)
        again.maybe, again.kept = value.maybe, kept
        return again


def _seen(operand: Operand, place: int) -> Any:
    """An operand for the effect's eyes: its place, or the literal that it is."""
    return literal(operand.name) if type(operand) is Literal and operand.name in ("None", "True", "False") else place
