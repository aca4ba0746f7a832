"""Steps of a run of several forwards: which of them the lines of a block stand in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import MisuseError, WrongTypeError
from ..source_location import Place, user_place

if TYPE_CHECKING:
    from .regions import RegionEmitter


class Steps:
    """A choice of steps: ``tracer.iter[2]``, ``tracer.iter[1:5]``, ``tracer.iter[2:]``, ``tracer.iter[[0, 3]]``, ``tracer.all()``.

    A ``for`` over a bounded range runs its body once per step while the trace is written, as plain Python. ``with``, and a
    ``for`` over an open range, record their body once; it takes part in each of the steps. Steps are counted from 0, the
    forward of the prompt.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> class Twice(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = torch.nn.Linear(2, 2)
        ...     def forward(self, x):
        ...         return self.fc(x)
        ...     def both(self, x):
        ...         return self(self(x))
        >>> model = nnsight.NNsight(Twice())
        >>> with model.trace(torch.ones(1, 2), fn="both") as tracer:
        ...     with tracer.iter[:] as step:
        ...         model.fc.output[:] = step
        ...     result = tracer.result.save()
        >>> result.tolist()
        [[1.0, 1.0]]
    """

    __slots__ = ("_before", "_emitter", "chosen")

    def __init__(self, emitter: RegionEmitter, chosen: Any) -> None:
        self._emitter = emitter
        self.chosen: Any = _checked(chosen)
        self._before: list[int | str] = []

    @property
    def bounded(self) -> bool:
        """Whether it is known which steps are meant."""
        return not isinstance(self.chosen, slice) or self.chosen.stop is not None

    @property
    def single(self) -> bool:
        """Whether one step is meant."""
        return isinstance(self.chosen, int)

    @property
    def numbers(self) -> list[int]:
        """The steps of a bounded choice."""
        if isinstance(self.chosen, slice):
            return list(range(self.chosen.start or 0, self.chosen.stop, self.chosen.step or 1))
        return [self.chosen] if isinstance(self.chosen, int) else list(self.chosen)

    @property
    def following(self) -> int | str:
        """The step that lines after a loop over these stand in."""
        if not self.bounded:
            return "last"
        return int(self.chosen.stop) if isinstance(self.chosen, slice) else max(self.numbers, default=-1) + 1

    def _record_as_operand(self, _recorder: Any) -> str:
        chosen = self.chosen
        if isinstance(chosen, slice):
            return f"{chosen.start or 0}:{chosen.stop}:{chosen.step or 1}"
        return ",".join(map(str, self.numbers))

    # ------------------------------------------------------------------ loops

    def __iter__(self) -> Iterator[Any]:
        if self.bounded:
            yield from self._turns(user_place(sys._getframe(1)))
            return
        item, _ = self._emitter.begin_loop("steps", self, ())
        self._emitter.watch(sys._getframe(1))
        yield item
        self._emitter.end_watched(True)

    def _turns(self, place: Place) -> Iterator[int]:
        recorder = self._emitter.recorder
        recorder.loops += 1
        loop, chosen, before = recorder.loops, self._record_as_operand(recorder), self._enter()
        try:
            for number in self.numbers:
                recorder.go_to(number)
                first = len(recorder.entries)
                try:
                    yield number
                finally:  # it may have been left by a break
                    if recorder.open:
                        recorder.leave_own(first)
                        recorder.turns = (*recorder.turns, (loop, chosen, number, first, len(recorder.entries), place))
        finally:
            self._leave(before)

    def __enter__(self) -> Any:
        try:
            if self.single:
                self._before.append(self._enter())
                self._emitter.recorder.go_to(self.chosen)
                return self.chosen
            item = self._emitter.begin_loop("steps", self, ())[0]
        except BaseException as error:
            self._emitter.recorder.interrupted(error)
            raise
        self._emitter.watch(sys._getframe(1))
        return item

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._emitter.recorder.interrupted(error):
            return
        if self.single:
            self._leave(self._before.pop())
        else:
            self._emitter.end_watched(kind is None)

    def _enter(self) -> int | str:
        recorder = self._emitter.recorder
        recorder.depth += 1
        return recorder.step

    def _leave(self, before: int | str) -> None:
        """After the outermost loop over steps lines stand where :meth:`below` says; after an inner one, where they stood."""
        recorder = self._emitter.recorder
        if recorder.open:
            recorder.depth -= 1
            recorder.go_to(before if recorder.depth else self.below(before))

    def below(self, before: int | str) -> int | str:
        """The step of lines below the outermost loop: the one that follows, or, where steps are calls, the one of those above it."""
        return before if self.bounded and self._emitter.recorder.generating is False else self.following


def _checked(chosen: Any) -> int | slice | list[int]:
    """Raises RecordError where it is not known, or not possible, which steps are meant."""
    parts = [chosen.start, chosen.stop, chosen.step] if isinstance(chosen, slice) else list(chosen) if _is_list(chosen) else [chosen]
    if any(type(part) is not int for part in parts if part is not None or not isinstance(chosen, slice)):
        raise WrongTypeError("steps are chosen by an integer, a slice or a list of integers: iter[2], iter[1:5], iter[:]")
    if any(part < 0 for part in parts if part is not None) or (isinstance(chosen, slice) and chosen.step == 0):
        raise MisuseError("steps are counted from 0, forwards: how many will come is not known when the trace is written")
    return list(chosen) if _is_list(chosen) else chosen


def _is_list(chosen: Any) -> bool:
    return isinstance(chosen, (list, tuple, range))


PROMPT, GENERATED = 0, slice(1, None)
"""The step that reads the prompt, and those that each read one generated token."""

EVERY = slice(None)
