"""Steps -> instructions over numbered slots; a value's slot is emptied, or taken over, at its last use."""

from __future__ import annotations

from ..graph import Graph, Group, Literal, Node
from .analyse import Analysis
from .emit import Emitter
from .numbering import Numbering
from .plan import CacheSpec, Plan, Segment, Slot, Step
from .schedule import make_segments, make_visits
from .steps import LIMIT


def lower(graph: Graph, bound: int = 1, by_calls: bool = False) -> Plan:
    """Compile a graph, for runs of at most ``bound`` steps; with ``by_calls`` a module's steps are its calls.

    Raises:
        KeyError: a target that neither the op table nor the laws know.
    """
    analysis = Analysis(graph, bound, by_calls)
    analysis.steps = [step for step in analysis.steps if step.function is not None or step.special]
    virtual = sum(analysis.virtual.values())
    segments, members = make_segments(analysis.steps, virtual)
    plan = Plan()
    used = _note_users(members)
    numbering = Numbering(plan, analysis, len(graph.constants))
    numbering.place_shared(used, segments)
    plan.edited = frozenset(analysis.edited)
    plan.virtual = tuple(cell.index for cell in analysis.cells.values() if cell.bit & virtual)
    plan.by_calls = by_calls
    plan.came = {} if by_calls else {step: cell.index for (_, step), cell in analysis.came.items()}
    plan.begins = analysis.begins
    plan.ends, plan.derives = tuple(analysis.ends), analysis.derives
    plan.limit = min(bound, LIMIT) if plan.ends else 0
    plan.caches = tuple(_cache_spec(node, slot) for node, slot in analysis.caches)
    plan.skips = {cell.path: node.number for node, cell, _, _ in analysis.skips}
    plan.replaced, plan.copied = analysis.replaced, frozenset(analysis.copies)
    for segment in segments if analysis.scopes else ():
        numbering.scopes[segment.scope] = (*numbering.scopes.get(segment.scope, ()), segment.index)
    numbering.invokes = sum(node.target == "invoke" for node in graph.body.nodes)
    plan.guards = _meets_others(plan, analysis, segments)
    for segment, steps in zip(segments, members, strict=True):
        segment.voids = tuple((slot.index, polarity, index) for slot, polarity, index in segment.undecided)
        Emitter(segment, steps, numbering).emit()
    plan.blanks = numbering.next - len(analysis.fixed) - len(graph.constants) - len(analysis.modules) - len(analysis.layouts)
    plan.segments, plan.waits = segments, [segment.waits for segment in segments]
    plan.unchecked = frozenset(numbering.unchecked)
    plan.uses = tuple(numbering.uses)
    plan.prologue = [segment.index for segment in segments if segment.waits == 0]
    plan.visits = make_visits(analysis, segments)
    plan.saved = tuple((node, slot.index, _segment_of(slot), _visit_of(slot, analysis)) for node, slot in analysis.saved)
    plan.given = {node: (guard.slot.index, guard.polarity) for node, guard in analysis.given.items()}
    plan.needs = {step.node: step.needs for step in analysis.steps}
    _finish_visits(plan, analysis, segments)
    to_the_end = plan.repeats or plan.ends or plan.came or plan.caches or plan.result >= 0 or plan.hooks.get("", ({}, {}))[1]
    plan.ends_early = bool(plan.hooks) and not to_the_end
    return plan


def _cache_spec(node: Node, rows: Slot | None) -> CacheSpec:
    points, modules = node.operands
    how = {name: operand.name for name, operand in node.keywords if isinstance(operand, Literal)}
    assert isinstance(points, Literal)
    paths = tuple(item.name for item in modules.items if isinstance(item, Literal)) if isinstance(modules, Group) else None
    flags = how["detach"] == "True", how["copy"] == "True"
    return CacheSpec(node.number, points.name, *flags, how["device"], how["dtype"], paths, rows.index if rows else -1)


def _meets_others(plan: Plan, analysis: Analysis, segments: list[Segment]) -> bool:
    """Whether an edited value may share storage with something that was read at another site and is still held, or stand for it."""
    if plan.edited and (plan.caches or any(step.special == "join" for step in analysis.steps)):
        return True
    held = {cells for segment in segments for _, cells in segment.held}
    kept = (cell for cell in analysis.cells.values() if cell.slot.saved or len(cell.slot.segments) > 1 or cell.turn[0] == "last")
    held |= {cell.slot.cells for cell in kept}
    held |= {step.extra for step in analysis.steps if step.special == "contain"}
    return any(set(cells) != {index} for cells in held for index in plan.edited)


def _segment_of(slot: Slot) -> int:
    return slot.producer.segment if slot.producer else -1


def _visit_of(slot: Slot, analysis: Analysis) -> int:
    return next((cell.index for cell in analysis.cells.values() if cell.slot is slot), -1)


def _note_users(members: list[list[Step]]) -> dict[Slot, None]:
    used: dict[Slot, None] = {}
    for index, steps in enumerate(members):
        for step in steps:
            for slot in (*step.leaves, *([step.output] if step.output else [])):
                slot.segments.add(index)
                used[slot] = None
    return used


def _finish_visits(plan: Plan, analysis: Analysis, segments: list[Segment]) -> None:
    counted = {slot for slot, _ in plan.uses}
    outputs = {step.output for step in analysis.steps}
    for index, (cell, visit) in enumerate(zip(analysis.cells.values(), plan.visits, strict=True)):
        slot = cell.slot
        visit.changes = slot in outputs
        visit.counted = slot.index in counted
        visit.optional = cell.optional
        visit.clears = not slot.saved and not visit.counted
        visit.only_kept = slot.saved and not (visit.triggers or visit.musts or visit.changes or slot.index in plan.unchecked)
        if slot.saved or visit.counted:
            visit.held = ((slot.index, slot.cells),)
        if cell.direction == "result":
            plan.result = index
        elif cell.direction in ("in", "out"):
            plan.repeats = plan.repeats or cell.turn != (0, 0)
            plan.hooks.setdefault(cell.path, ({}, {}))[cell.direction == "out"][cell.turn] = index
