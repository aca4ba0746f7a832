"""Segments -> instructions over numbered slots; a value's slot is emptied, or taken over, at its last use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..ops.control import Loop, run_branch, run_loop
from ..ops.evaluate import CLEAR, MANY, ONE, SPECIAL, THREE, TWO
from .bodies import LoopCode
from .numbering import Numbering
from .plan import Instruction, Segment, Slot, Step

_SPECIAL: dict[str, Callable[[Any, Any], None]] = {
    "protect": lambda run, rest: run.protect(*rest),
    "snapshot": lambda run, rest: run.snapshot(*rest),
    "join": lambda run, rest: run.join(*rest),
    "piece": lambda run, rest: run.piece(*rest),
    "loop": run_loop,
    "branch": run_branch,
    "detach": lambda run, rest: run.detach(*rest),
    "listen": lambda run, rest: run.listen(*rest),
    "backward": lambda run, rest: run.backward(*rest),
    "contain": lambda run, rest: run.contain(*rest),
    "skip": lambda run, rest: run.skip(*rest),
    "stop": lambda run, rest: run.stop(*rest),
    "replace": lambda run, rest: run.replace(*rest),
}

COPYING = frozenset(_SPECIAL[name] for name in ("protect", "snapshot", "join", "piece"))
"""Those that make copies of values."""


class Emitter:
    """Writes the code of one segment."""

    def __init__(self, segment: Segment, steps: list[Step], numbering: Numbering) -> None:
        self.segment = segment
        self.steps = steps
        self.numbering = numbering
        self.pool: list[int] = []
        self.group: tuple[int, bool] | None = None
        self.grouped: list[Instruction] = []
        self.emptied: list[tuple[int, int]] = []
        self.freed: list[int] = []
        self.last: dict[Slot, int] = {}
        for place, step in enumerate(steps):
            for slot in step.leaves:
                self.last[slot] = place
            if step.output is not None:
                self.last[step.output] = place
        here = {segment.index}
        cells = numbering.cells
        self.local = {s for s in self.last if s.segments == here and not s.saved and s not in cells and s.producer is not None}

    def emit(self) -> None:
        """Fill the segment's code."""
        for place, step in enumerate(self.steps):
            guard = step.guard if step.guard is not self.segment.guard else None
            group = None if guard is None else (guard.slot.index, guard.polarity)
            if group != self.group:
                self._end_group()
                self.group = group
            self._step(step, place)
        self._end_group()

    def _step(self, step: Step, place: int) -> None:
        ending = [slot for slot in dict.fromkeys(step.leaves) if self.last[slot] == place and slot is not step.output]
        dying = [slot for slot in ending if self._mine(slot)]
        free = [slot.index for slot in dying if slot in self.local]
        leaves = [slot.index for slot in step.leaves]
        out, dead = (0, False) if step.special and step.output is None else self._output(step, place, [] if self.group else free)
        code = self.segment.code if self.group is None else self.grouped
        code.append(self._instruction(step, leaves, out))
        emptied = [index for index in (*free, *(s.index for s in dying if s not in self.local)) if index != out or dead] + [out] * dead
        if self.group is not None:  # it may be skipped: slots are emptied, and used again, only below the group
            self.emptied += [(index, step.node) for index in emptied]
            self.freed += free + [out] * dead
            return
        code.extend((CLEAR, None, index, 0, 0, None, step.node) for index in emptied)
        self.pool += [index for index in free if index != out] + [out] * dead

    def _end_group(self) -> None:
        if self.group is None:
            return
        code = self.segment.code
        code.append((SPECIAL, run_branch, 0, 0, 0, (*self.group, tuple(self.grouped)), self.grouped[0][6]))
        code.extend((CLEAR, None, index, 0, 0, None, node) for index, node in self.emptied)
        self.pool += self.freed
        self.group, self.grouped, self.emptied, self.freed = None, [], [], []

    def _mine(self, slot: Slot) -> bool:
        """Whether this segment is the one that empties ``slot``."""
        if slot in self.local:
            return True
        if slot.saved or slot in self.numbering.cells or slot.producer is None:
            return False
        here, made_in = self.segment.index, slot.producer.segment
        return here != made_in and slot.segments == {made_in, here}

    def _output(self, step: Step, place: int, free: list[int]) -> tuple[int, bool]:
        """Where the result goes, and whether nobody wants it."""
        slot = step.output
        if slot is None or (slot in self.local and slot.index < 0 and self.last[slot] == place):
            return self._take(free), True
        if slot.index < 0:
            slot.index = self._take(free)
        return slot.index, False

    def _take(self, free: list[int]) -> int:
        if free:
            return free[0]
        if self.pool:
            return self.pool.pop()
        self.numbering.next += 1
        return self.numbering.next - 1

    def _instruction(self, step: Step, leaves: list[int], out: int) -> Instruction:
        if step.special == "join" and not self.numbering.plan.edited:
            return instruction(step, leaves, out)
        if step.special:
            return (SPECIAL, _SPECIAL[step.special], 0, 0, 0, self._special(step, leaves, out), step.node)
        return instruction(step, leaves, out)

    def _special(self, step: Step, leaves: list[int], out: int) -> tuple[Any, ...]:
        if step.special == "loop":
            return LoopEmitter(self.numbering).loop(step.extra, leaves, out)
        if step.special == "join":
            return out, tuple(leaves), (step.extra,)
        if step.special == "piece":
            return out, tuple(leaves)
        if step.special == "listen":
            return (*step.extra, tuple(leaves))
        if step.special == "backward":
            return (*step.extra, tuple(leaves))
        if step.special == "skip":
            return step.extra, tuple(leaves)
        if step.special == "replace":
            return (*step.extra, leaves[0])
        if step.special == "stop":
            return (*step.extra, self.numbering.scopes.get(step.extra[0], ()), self.numbering.invokes)
        if step.special == "protect":
            return leaves[0], step.extra if self.numbering.plan.guards else (), leaves[1] if len(leaves) > 1 else -1
        if step.special == "snapshot":
            return leaves[0], step.extra.segment
        if step.special == "contain":
            return leaves[0], tuple((leaf, slot.unchecked) for leaf, slot in zip(leaves[1:], step.leaves[1:], strict=True)), step.extra
        reads, views = step.extra
        made = [instruction(again, [leaf.index for leaf in again.leaves], slot.index) for slot, _, again in views]
        places = [(slot.index, base.index) for slot, base, _ in views]
        return tuple(slot.index for slot in reads), tuple((*place, again) for place, again in zip(places, made, strict=True))


class LoopEmitter:
    """Writes the code of a loop's body: every slot in it is the loop's own."""

    def __init__(self, numbering: Numbering) -> None:
        self.numbering = numbering
        self.blank: list[int] = []

    def loop(self, code: LoopCode, leaves: list[int], out: int) -> Loop:
        """The loop over ``leaves``, as it runs."""
        place = self._place
        captures = tuple((leaves[at], place(slot)) for at, slot in code.captures)
        prelude = self._code(code.prelude, {slot for slot in (code.source, *code.inits) if slot is not None})
        source, inits = -1 if code.source is None else place(code.source), tuple(map(place, code.inits))
        item, params = place(code.item), tuple(map(place, code.params))
        carried = {*code.nexts, code.leave, *code.params}
        check = {code.check[0], *code.check[1]} if code.check else set()
        used_below = {slot for step in code.tail for slot in _used(step)}
        head, tail = self._code(code.head, carried | check | used_below), self._code(code.tail, carried)
        test = (place(code.check[0]), tuple(map(place, code.check[1]))) if code.check else (-1, ())
        nexts, saved = tuple(map(place, code.nexts)), tuple(map(place, code.saved))
        leave = place(code.leave)
        return Loop(source, item, inits, params, captures, prelude, head, test, tail, leave, nexts, out, saved, tuple(self.blank))

    def _place(self, slot: Slot) -> int:
        if slot.index < 0:
            slot.index = self.numbering.next
            self.numbering.next += 1
            self.blank += [] if slot.saved else [slot.index]
        return slot.index

    def _code(self, steps: list[Step], kept: set[Slot]) -> tuple[Instruction, ...]:
        last = {slot: place for place, step in enumerate(steps) for slot in _used(step)}
        made = {step.output for step in steps if step.output is not None and not step.output.saved} - kept
        code: list[Instruction] = []
        for place, step in enumerate(steps):
            code.append(self._instruction(step, kept | set(last)))
            ending = {slot for slot in (*_used(step), step.output) if slot in made and last.get(slot, place) == place}
            code += [(CLEAR, None, slot.index, 0, 0, None, step.node) for slot in ending if slot is not None]
        return tuple(code)

    def _instruction(self, step: Step, kept: set[Slot]) -> Instruction:
        leaves = [self._place(slot) for slot in step.leaves]
        if step.special == "branch":
            polarity, inner = step.extra
            return (SPECIAL, run_branch, 0, 0, 0, (leaves[0], polarity, self._code(inner, kept)), step.node)
        assert step.output is not None
        out = self._place(step.output)
        if step.special == "loop":
            return (SPECIAL, run_loop, 0, 0, 0, LoopEmitter(self.numbering).loop(step.extra, leaves, out), step.node)
        return instruction(step, leaves, out)


def _used(step: Step) -> Iterator[Slot]:
    """The slots that a step reads, in nested code too."""
    yield from step.leaves
    if step.special == "branch":
        for inner in step.extra[1]:
            yield from _used(inner)
    elif step.special == "loop":
        code: LoopCode = step.extra
        yield from (*code.inits, *code.nexts, code.leave, *(code.check[1] if code.check else ()))
        for inner in (*code.head, *code.tail):
            yield from _used(inner)


def instruction(step: Step, leaves: list[int], out: int) -> Instruction:
    """The instruction that calls a step's function on the slots ``leaves``."""
    count = len(leaves)
    if step.names or count not in (1, 2, 3):
        split = count - len(step.names)
        return (MANY, step.function, out, 0, 0, (tuple(leaves[:split]), tuple(zip(step.names, leaves[split:], strict=True))), step.node)
    kind = (ONE, TWO, THREE)[count - 1]
    return (kind, step.function, out, leaves[0], leaves[1] if count > 1 else 0, leaves[2] if count > 2 else 0, step.node)
