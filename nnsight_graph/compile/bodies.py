"""The body of a loop over data -> nested steps: it runs as one unit, turn after turn, in program order.

Whatever the body takes from outside (values, sites, parameters) is there before the first turn, so nothing inside waits.
What the compiler has to know of it is which outer storage it may write into: that is found here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..graph import Const, Group, Literal, Node, Operand, Ref, Region, references_of, walk
from ..graph.walk import references_in
from ..ops.evaluate import GROUPS
from .edits import prepare_edit, refused
from .plan import Slot, Step
from .storage import Root, Value, opened

if TYPE_CHECKING:
    from .analyse import Analysis

_OUTSIDE = ("read", "parameter")
_GRADIENTS = frozenset(("grad", "backward"))
_IN_A_LOOP = (
    "takes a gradient in a loop over values: take it outside, or tell how many there are where shapes do not: a, b = values, or values[0]"
)


class Inner:
    """A value in a body: where it lies, and the outer storage it may be on."""

    __slots__ = ("roots", "slot")

    def __init__(self, slot: Slot, roots: set[Root]) -> None:
        self.slot = slot
        self.roots = roots


class Outside:
    """What a loop takes from outside: each value gets a slot of its own for the time of the loop."""

    __slots__ = ("analysis", "captured", "constants", "mutated")

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.captured: list[tuple[Value, Slot]] = []
        self.constants: dict[int, Inner] = {}
        self.mutated: set[Root] = set()

    def take(self, value: Value) -> Inner:
        """A value of the surroundings, as the body knows it."""
        self.captured.append((value, Slot()))
        return Inner(self.captured[-1][1], set(value.roots))

    def constant(self, index: int) -> Inner:
        """A lifted constant, as the body knows it."""
        if index not in self.constants:
            self.constants[index] = self.take(self.analysis.constant(index))
        return self.constants[index]


class LoopCode:
    """What a loop step needs to be written out; slots get their numbers when code is emitted."""

    __slots__ = ("captures", "check", "head", "inits", "item", "leave", "nexts", "params", "prelude", "saved", "shares", "source", "tail")

    def __init__(self) -> None:
        self.source: Slot | None = None
        self.item = Slot()
        self.params: list[Slot] = []
        self.inits: list[Slot] = []
        self.captures: list[tuple[int, Slot]] = []
        self.prelude: list[Step] = []
        self.head: list[Step] = []
        self.check: tuple[Slot, list[Slot]] | None = None
        self.tail: list[Step] = []
        self.leave = Slot()
        self.nexts: list[Slot] = []
        self.saved: list[Slot] = []
        self.shares: set[Root] = set()  # storage that what it hands on may be on


class Body:
    """Lowers one loop of a graph; nested loops and branches become nested code."""

    def __init__(self, outside: Outside, values: dict[int, Inner], saved: list[Slot]) -> None:
        self.analysis = outside.analysis
        self.outside = outside
        self.values = values
        self.saved = saved
        self.steps: list[Step] = []
        self.check: tuple[list[Step], Slot, list[Slot]] | None = None

    def region(self, region: Region) -> None:
        """Lower nodes in program order."""
        for node in region.nodes:
            if node.target in ("for", "while"):
                self._loop(node)
            elif node.target == "if":
                self._branch(node)
            elif node.target == "check":
                self.check = self.steps, self.leaf(node.operands[0], node.number), [self.leaf(o, node.number) for o in node.operands[1:]]
                self.steps = []
            elif node.target == "save":
                self._save(node)
            elif node.target == "under":
                self.analysis.modes = node.operands[0].name  # type: ignore[union-attr]
            elif node.target in _GRADIENTS:
                raise refused(node.number, _IN_A_LOOP)
            elif node.target in ("stop", "skip", "replace"):
                raise refused(node.number, f"is a {node.target} in a loop over values: write it outside")
            elif node.target in ("write", "invoke"):
                what = "assigns to a site of the model in a loop over values" if node.target == "write" else "opens an invoke in a loop"
                raise refused(node.number, f"{what}; edit the site's value in place in the loop, or collect in it and assign below it")
            elif node.target not in (*_OUTSIDE, "param") and node.number not in self.analysis.dropped:
                self._operation(node)

    def _save(self, node: Node) -> None:
        """The value of the last turn outlives the loop."""
        (reference,) = references_of(node)
        if reference in self.analysis.values:  # of a value from outside
            self.analysis.saves.append(node)
            return
        self._keep(reference)

    def _keep(self, reference: int) -> None:
        slot = self.values[reference].slot
        if (reference, slot) in self.analysis.saved:
            return
        if not slot.saved:
            slot.saved = True
            self.saved.append(slot)
        self.analysis.saved.append((reference, slot))

    # ------------------------------------------------------------------ operands

    def inside(self, operand: Operand) -> Iterator[Inner]:
        """The values an operand holds."""
        if type(operand) is Ref:
            yield self.values[operand.node]
        elif type(operand) is Const:
            yield self.outside.constant(operand.index)
        elif type(operand) is Group:
            for item in operand.items:
                yield from self.inside(item)

    def leaf(self, operand: Operand, number: int) -> Slot:
        """Where an operand lies; groups are packed right before."""
        if type(operand) is Literal:
            return self.analysis.literal(operand.name)
        if type(operand) is Ref:
            return self.values[operand.node].slot
        if type(operand) is Const:
            return self.outside.constant(operand.index).slot
        assert type(operand) is Group
        return self._step(number, GROUPS[operand.kind], [self.leaf(item, number) for item in operand.items])

    def _step(self, number: int, function: Callable[..., Any] | None, leaves: list[Slot], names: tuple[str, ...] = ()) -> Slot:
        step = Step(number, function, leaves, 0, names)
        step.output = Slot()
        self.steps.append(step)
        return step.output

    # ------------------------------------------------------------------ nodes

    def _operation(self, node: Node) -> None:
        function, effect = self.analysis.meaning(node)
        operands = [*node.operands, *(operand for _, operand in node.keywords)]
        inside = [list(self.inside(operand)) for operand in operands]
        mutated, shared = self.analysis.touched(node, effect)
        leaves = [self.leaf(operand, node.number) for operand in operands]
        if node.target in ("module", "listening"):
            assert node.site is not None
            leaves.insert(0, self.analysis.module(node.site.path, False))
        output = self._step(node.number, function, leaves, tuple(name for name, _ in node.keywords))
        self.steps[-1].opaque = node.target in ("call", "module", "listening")
        roots = {root for place in shared for value in inside[place] for root in value.roots}
        for place in mutated:
            for value in inside[place]:
                self.outside.mutated |= value.roots
                for root in value.roots if node.target not in ("setitem", "setattr") else ():
                    root.hold(roots - value.roots)
                value.roots |= roots  # a container holds what is put into it
        changed = bool(mutated) and node.target in ("setitem", "setattr", "delitem")
        self.values[node.number] = inside[min(mutated)][0] if changed else Inner(output, roots)
        if node.number in self.analysis.kept:  # the line that saves it may stand below the loop
            self._keep(node.number)

    def _branch(self, node: Node) -> None:
        truth = self._step(node.number, operator.truth, [self.leaf(node.operands[0], node.number)])
        self.values[node.number] = Inner(truth, set())
        outer = self.steps
        for polarity, region in zip((True, False), node.regions, strict=True):
            self.steps = []
            self.region(region)
            if self.steps:
                step = Step(node.number, None, [truth], 0)
                step.special, step.extra = "branch", (polarity, self.steps)
                outer.append(step)
        self.steps = outer

    def _loop(self, node: Node) -> None:
        step = Step(node.number, None, [], 0)
        step.special, step.output = "loop", Slot()
        code, roots = lower_loop(self, node)
        step.extra = code
        step.leaves = [*([code.source] if code.source else []), *code.inits]
        self.steps.append(step)
        self.values[node.number] = Inner(step.output, roots)


def lower_loop(body: Body, node: Node) -> tuple[LoopCode, set[Root]]:
    """The code of a loop whose surroundings ``body`` knows, and the storage that what it carries out may be on."""
    code = LoopCode()
    inits = list(node.operands)
    item_roots: set[Root] = set()
    if node.target == "for":
        source = inits.pop(0)
        code.source = body.leaf(source, node.number)
        item_roots = {root for value in body.inside(source) for root in value.roots}
    code.inits = [body.leaf(init, node.number) for init in inits]
    roots = [{root for value in body.inside(init) for root in value.roots} for init in inits]
    known, saves, saved = dict(body.values), len(body.analysis.saves), len(body.analysis.saved)
    while True:  # until what is carried from turn to turn brings no storage that was not thought of
        body.analysis.saves[saves:], body.analysis.saved[saved:] = [], []
        code.saved, code.item, code.params = [], Slot(), [Slot() for _ in inits]
        inner = Body(body.outside, dict(known), code.saved)
        _name_parameters(inner, node, code, item_roots, roots)
        inner.region(node.regions[0])
        code.nexts = [inner.leaf(following, node.number) for following in node.regions[0].results[1:]]
        code.leave = inner.leaf(node.regions[0].results[0], node.number) if node.regions[0].results else body.analysis.literal("False")
        after = [{r for v in inner.inside(following) for r in v.roots} for following in node.regions[0].results[1:]]
        if all(new <= old for new, old in zip(after, roots, strict=True)):
            break
        roots = [old | new for old, new in zip(roots, after, strict=True)]
    code.head = inner.check[0] if inner.check else []
    code.check = inner.check[1:] if inner.check else None
    code.tail = inner.steps
    body.saved.extend(code.saved)
    return code, set().union(*roots)


def _name_parameters(inner: Body, node: Node, code: LoopCode, item_roots: set[Root], roots: list[set[Root]]) -> None:
    for param in node.regions[0].nodes:
        if param.target == "param" and param.operands[0] == Ref(node.number):
            place = param.operands[1].name  # type: ignore[union-attr]
            at = -1 if place == "item" else int(place)
            inner.values[param.number] = Inner(code.item, item_roots) if at < 0 else Inner(code.params[at], set(roots[at]))


def analyse_loop(analysis: Analysis, node: Node) -> None:
    """Make the step of a loop that stands outside loops: it waits for all that its body takes from outside."""
    step = Step(node.number, None, [], 0)
    step.special = "loop"
    for other in walk(node.regions[0]):
        if other.target in _OUTSIDE:
            analysis.node(other)
    outside = Outside(analysis)
    above = {ref: analysis.values[ref] for ref in _references(node) if ref in analysis.values}
    body = Body(outside, {ref: outside.take(analysis.current(value, node.number)) for ref, value in above.items()}, [])
    code, roots = lower_loop(body, node)
    step.extra, code.prelude, code.shares = code, body.steps, roots if not code.saved else set(outside_roots(outside))
    for place, (value, slot) in enumerate(outside.captured):
        step.leaves.append(value.slot)
        code.captures.append((place, slot))
        step.needs |= value.needs | value.edit_needs
    analysis.guarded(step)
    edited = [value for value, _ in outside.captured if outside.mutated.intersection(value.roots)]
    for value in edited:
        prepare_edit(analysis, step, value)
    for place, (value, _) in enumerate(outside.captured):
        for root in () if value in edited else opened(value.roots):
            root.readers.append((step, place))
            step.after.extend(root.edits)
    step.opaque = any(other.opaque for other in _all(code.prelude + code.head + code.tail))
    passing = tuple(dict.fromkeys(cell for value, _ in outside.captured for cell in value.slot.cells))
    for slot in code.saved:
        slot.producer, slot.cells = step, passing
    step.output = Slot(step)
    step.output.cells = passing if roots else ()
    analysis.steps.append(step)
    analysis.settle_edits()
    made = Value(node.number, step.output, step.needs, (*roots, Root()), step)
    made.maybe = True
    for root in roots:
        root.aliases.append(made)
    analysis.values[node.number] = made


def outside_roots(outside: Outside) -> Iterator[Root]:
    """All storage that a loop takes from outside."""
    for value, _ in outside.captured:
        yield from value.roots


def _references(node: Node) -> dict[int, None]:
    found: dict[int, None] = dict.fromkeys(references_of(node))
    for region in node.regions:
        found.update(dict.fromkeys(ref for result in region.results for ref in references_in(result)))
        for inner in walk(region):
            found.update(dict.fromkeys(references_of(inner)))
            found.update(dict.fromkeys(r for i in inner.regions for result in i.results for r in references_in(result)))
            if inner.target in _OUTSIDE:
                found[inner.number] = None
    return found


def _all(steps: list[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        if step.special == "branch":
            yield from _all(step.extra[1])
        elif step.special == "loop":
            yield from _all(step.extra.head + step.extra.tail)
