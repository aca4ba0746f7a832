"""The state of one run: counts visits down, runs segments, and keeps what was read as it was read."""

from __future__ import annotations

import sys
from bisect import insort
from collections.abc import Callable
from typing import Any

import torch

from ..compile import Plan, Segment
from ..errors import NNsightError, OutOfOrderError
from ..ops.evaluate import CLEAR, run_code
from ..ops.nested import shares
from .checkpoints import apart, in_checkpoint, saves_are_counted
from .detours import VOID, Detours, Leave
from .driving import Driving
from .gradients import UNKNOWN, Gradients


class Run(Detours):
    """One execution of a plan.

    Attributes:
        slots: Where values lie.
        waits: For each segment what it still waits for; ``-1`` when it has run, far below when its branch was not taken.
        seen: For each visit, whether it was.
        busy: Whether a segment runs that may call modules: hooks are deaf meanwhile.
        error: What went wrong inside a segment.
        grad: Whether gradients were on when it was made.
        failed: The instruction at fault, or ``("late", node, visit, segment)``, ``("overwritten", slot)``, ``("checkpoint", visit)``.
        step: The forward of what drives the run that goes on, counted from 0.
        forwards: How many have begun.
        driving: Which module's forwards are the steps, where that is found out while it runs.
        tick: Called when a step begins.
        latest: The visits that mean the last step and of which something has passed: their slots hold what passed last.
        pieces: Rows that are copies of the batch's, by identity; what was edited of them goes back.
        joined: Batches that stand for another because rows were replaced, in a plan that also edits in place.
        outside: What brings values that pass outside modules (the tokens of a generation), by path.
        overdue: Edits that are too late for their visit, if the step that they wait for comes: that step, or, where steps are calls, the
            visits of that turn as a bit mask; and the failure.
        gradients: The gradients that it listens to.
        modules: The model's, where it runs on one.
        meter: Executes its code within limits, where it has some.
        captures: What caches have kept.
        contained: What was read and lies in containers.
        lost: The slot of a saved value that the model has overwritten.
    """

    # What most runs never change stays on the class.
    step = forwards = 0
    latest: dict[int, Any] = {}  # noqa: RUF012  (replaced, never filled)
    outside: dict[str, Any] = {}  # noqa: RUF012  (replaced, never filled)
    overdue: tuple[tuple[int, Any], ...] = ()
    gradients: Gradients | None = None
    meter: Any = None
    driving: Driving | None = None
    tick: Callable[[int], Any] | None = None
    busy = False

    def __init__(self, plan: Plan, slots: list[Any]) -> None:
        self.plan = plan
        self.slots = slots
        self.waits = plan.waits.copy()
        self.seen = [False] * len(plan.visits)
        for index in plan.virtual:
            self.seen[index] = True
        self.grad = torch.is_grad_enabled()
        self.uses: dict[int, int] = dict(plan.uses)
        self.held: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        self.noted: dict[int, tuple[int, ...] | None] = {}

    def arrive(self, index: int, value: Any) -> Any:
        """A value passes at visit ``index``: run what waited for it; the value to pass on, or ``None`` to leave it."""
        self.seen[index] = True
        visit = self.plan.visits[index]
        if self.grad and (visit.changes or index in self.plan.edited) and in_checkpoint(sys._getframe(2)):
            self.failed, self.error, self.busy = ("checkpoint", index), NNsightError("checkpoint"), True
            raise Leave
        slots, waits = self.slots, self.waits
        slots[visit.slot] = value
        fresh = [visit.held] if visit.held else []
        ready = []
        for segment in visit.triggers:
            waits[segment] -= 1
            if not waits[segment]:
                ready.append(segment)
        try:
            if ready and self.grad and saves_are_counted():
                with apart():
                    self.fire(ready, fresh)
            elif ready:
                self.fire(ready, fresh)
            if visit.musts:
                self._check_late(visit.musts, visit.slot, index)
            for stand_in in reversed(self.joined):
                stand_in.share(self.joined, self.part)
            result = slots[visit.slot] if visit.changes else None
            if fresh:
                self._note(fresh[0] if len(fresh) == 1 else tuple(held for group in fresh for held in group))
            if self.contained is not None and self.contained.fresh:
                self.contained.note()
        except Exception as error:
            self.error = error
            self.busy = True  # a model that goes on all the same is no longer listened to
            raise Leave from None
        if visit.clears:
            slots[visit.slot] = None
        elif visit.counted:
            self._release((visit.slot,))
        if (self.left or self.stopped >= 0) and visit.direction != "grad":  # a backward that has begun goes on to its end
            self.left -= 1
            if not self.left or self.stopped >= 0:
                for capture in self.captures:
                    capture.take_last(visit.path, visit.direction, value if result is None else result)
                raise Leave
        return result

    def fire(self, ready: list[int], fresh: list[tuple[tuple[int, tuple[int, ...]], ...]]) -> None:
        """Run segments that wait for nothing more, and what they complete."""
        segments, slots, waits = self.plan.segments, self.slots, self.waits
        while ready:
            index = ready.pop(0)
            segment = segments[index]
            if segment.checks:
                self.check(segment.checks)
            self.busy = segment.calls
            try:
                run_code(segment.code, slots, self)
            finally:
                self.busy = False
            waits[index] = -1
            if segment.held:
                self._register(segment.held)
                fresh.append(segment.held)
            if segment.releases:
                self._release(segment.releases)
            if segment.voids:
                self._give_up(segment, ready)
            for other in segment.downstream:
                waits[other] -= 1
                if not waits[other]:
                    insort(ready, other)

    def _give_up(self, segment: Segment, ready: list[int]) -> None:
        """A branch is decided: what stands in one that is not taken is done with, and nobody waits for it."""
        for truth, polarity, index in segment.voids:
            if self.slots[truth] is polarity or self.waits[index] < 0:
                continue
            self.waits[index] = VOID
            given_up = self.plan.segments[index]
            for instruction in given_up.code:
                if instruction[0] == CLEAR:
                    self.slots[instruction[2]] = None
            if given_up.releases:
                self._release(given_up.releases)
            self._give_up(given_up, ready)
            for other in given_up.downstream:
                self.waits[other] -= 1
                if not self.waits[other]:
                    insort(ready, other)

    def _release(self, slots: tuple[int, ...]) -> None:
        for slot in slots:
            self.uses[slot] -= 1
            if not self.uses[slot]:
                self.slots[slot] = None

    def begin_step(self, step: int = -1) -> None:
        """A forward of what drives the run begins: the next step, or the one that is told."""
        first = step < 0 or step >= self.forwards
        self.step = self.forwards if step < 0 else step
        self.forwards = max(self.forwards, self.step + 1)
        if not first:
            return
        if self.tick is not None:
            self.tick(self.step)
        self.grad = self.grad and torch.is_grad_enabled()  # transformers' generate runs without
        if self.plan.limit and self.forwards > self.plan.limit:
            self.exceed()
        for step, late in self.overdue:
            if step == self.step:
                self.failed, self.error, self.busy = late, OutOfOrderError("late"), True
                raise Leave
        index = self.plan.came.get(self.step, -1)
        if index >= 0 and not self.seen[index]:
            self.arrive(index, None)

    def exceed(self) -> None:
        """There are more steps than loops over all of them were made for."""
        self.failed, self.error, self.busy = ("limit",), NNsightError("limit"), True
        raise Leave

    def begin_turns(self, index: int) -> None:
        """Where steps are calls: a call comes that not all loops count on; turns begin with the first call that they name."""
        turns = [turn for turn in self.plan.begins.get(index, ()) if not self.seen[turn]]
        for awaited, late in self.overdue:
            if any(awaited >> came & 1 for came in (index, *turns)):
                self.failed, self.error, self.busy = late, OutOfOrderError("late"), True
                raise Leave
        for turn in turns:
            self.arrive(turn, None)

    def _may_not_come(self, segment: int) -> int:
        """Bit mask of what a segment still needs and may not get, since its turn may not come."""
        needs, visits = self.plan.segments[segment].needs, self.plan.visits
        return sum(1 << index for index, visit in enumerate(visits) if visit.optional and needs >> index & 1 and not self.seen[index])

    def _awaited(self, segment: int) -> int:
        """The latest step of which a segment still needs something."""
        needs = self.plan.segments[segment].needs
        later = [visit.step for index, visit in enumerate(self.plan.visits) if needs >> index & 1 and not self.seen[index]]
        return max([step for step in later if isinstance(step, int)], default=0)

    def keep_last(self, index: int, value: Any) -> None:
        """A value passes that may be the last step's."""
        slot = self.plan.visits[index].slot
        self.slots[slot] = value
        self.latest = {**self.latest, index: None}
        self._note(((slot, (index,)),))

    def end(self) -> None:
        """The last step is over: what means the last one, or the end, is there."""
        for index in self.latest:
            slot = self.plan.visits[index].slot
            try:
                self.check((slot,))
            except NNsightError as error:
                self.error, self.busy = error, True
                raise Leave from None
            self.arrive(index, self.slots[slot])
        for index in self.plan.ends:
            self.arrive(index, None)
        self.latest = {}

    def let_go(self) -> None:
        """The values are given out: whatever still has the run, a traceback or a graph for gradients, has none of them."""
        self.slots.clear()
        self.contained, self.joined, self.latest = None, (), {}

    def listen(self, index: int, ordinal: int, source: int, shapes: tuple[Any, ...], leaves: tuple[int, ...]) -> None:
        """The gradient of a value passes at visit ``index`` when backward ``ordinal`` runs."""
        start, *others = [self.slots[leaf] for leaf in leaves]
        levels = []
        for function, count, names, known in shapes:
            given, others = others[:count], others[count:]
            split = count - len(names)
            made = others.pop(0) if known else UNKNOWN
            levels.append(((function, tuple(given[:split]), dict(zip(names, given[split:], strict=True))), made))
        self.gradients = self.gradients or Gradients(self)
        self.gradients.listen(index, ordinal, source, start, levels)

    def backward(self, ordinal: int, names: tuple[str, ...], leaves: tuple[int, ...]) -> None:
        """Run a backward."""
        loss, *given = [self.slots[leaf] for leaf in leaves]
        split = len(given) - len(names)
        self.gradients = self.gradients or Gradients(self)
        self.gradients.backward(ordinal, loss, tuple(given[:split]), dict(zip(names, given[split:], strict=True)))

    def _check_late(self, musts: list[tuple[int, int, int]], passing: int, index: int) -> None:
        for segment, node, target in musts:
            if self.waits[segment] < 0:
                continue
            if target >= 0 and self.slots[target] is not None and not shares(self.slots[target], self.slots[passing]):
                continue
            if self.plan.by_calls and (awaited := self._may_not_come(segment)):
                self.overdue += ((awaited, ("late", node, index, segment)),)
                continue
            step = self._awaited(segment)
            if step > self.step:  # it may never come
                self.overdue += ((step, ("late", node, index, segment)),)
                continue
            self.failed = ("late", node, index, segment)
            raise OutOfOrderError("late")
