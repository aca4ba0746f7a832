"""Steps -> segments: what runs together, and what each group waits for."""

from __future__ import annotations

from .analyse import Analysis
from .plan import Guard, Segment, Step, Visit


def make_segments(steps: list[Step], virtual: int) -> tuple[list[Segment], list[list[Step]]]:
    """Group steps that wait for the same visits, and link the groups."""
    by_needs: dict[tuple[int, Guard | None, int, int], Segment] = {}
    members: list[list[Step]] = []
    parted = any(step.guard is not None or step.scope for step in steps)
    for step in steps:
        guard = known_before(step)
        if parted:
            step.level = _level(step, guard)
        key = (step.needs, guard, step.scope, step.level)
        segment = by_needs.get(key)
        if segment is None:
            segment = by_needs[key] = Segment(len(members), *key[:3])
            members.append([])
        step.segment = segment.index
        segment.calls = segment.calls or step.opaque
        members[segment.index].append(step)
    segments = list(by_needs.values())
    for segment, group in zip(segments, members, strict=True):
        _link(segment, group, segments, virtual)
        guard = segment.guard
        if guard is not None:
            segments[guard.step.segment].undecided.append((guard.slot, guard.polarity, segment.index))
    return segments, members


def _level(step: Step, guard: Guard | None) -> int:
    """How often one segment waits for another, among those with the same needs, before this step: else two could wait for each other."""
    level = 0
    for other in (*(leaf.producer for leaf in step.leaves if leaf.producer is not None), *step.after):
        if other.needs == step.needs:
            level = max(level, other.level + (known_before(other) is not guard or other.scope != step.scope))
    return level


def known_before(step: Step) -> Guard | None:
    """The innermost branch around ``step`` that is decided before everything else ``step`` needs is there."""
    guard = step.guard
    while guard is not None and guard.needs == step.needs:
        guard = guard.parent
    return guard


def _link(segment: Segment, group: list[Step], segments: list[Segment], virtual: int) -> None:
    upstream: dict[int, None] = {}
    for step in group:
        for leaf in step.leaves:
            if leaf.producer is not None:
                upstream[leaf.producer.segment] = None
        for other in step.after:
            upstream[other.segment] = None
    upstream.pop(segment.index, None)
    covered = 0
    for index in upstream:
        segments[index].downstream.append(segment.index)
        guard = segments[index].guard
        covered |= segments[index].needs if guard is None or guard.around(segment.guard) else 0
    segment.own = segment.needs & ~covered & ~virtual
    segment.waits = len(upstream) + segment.own.bit_count()


def make_visits(analysis: Analysis, segments: list[Segment]) -> list[Visit]:
    """The visits, each with the segments that wait for it and the edits that must be done when it ends."""
    visits = []
    for cell in analysis.cells.values():
        visit = Visit(cell.path, cell.direction, cell.slot.index, cell.turn)
        visit.nodes = cell.nodes
        known = [(guard.slot.index, guard.polarity) for guard in cell.guards if guard is not None]
        visit.guards = tuple(known) if cell.guards and len(known) == len(cell.guards) else None
        for step, slot in cell.musts:
            if step.needs & ~cell.bit:
                visit.musts.append((step.segment, step.node, -1 if slot is None else slot.index))
        visits.append(visit)
    for segment in segments:
        own = segment.own
        while own:
            low = own & -own
            visits[low.bit_length() - 1].triggers.append(segment.index)
            own ^= low
    return visits
