"""What a run leaves out, or replaces: modules that are skipped, the rest of a forward after a stop, parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import NNsightError
from ..ops.evaluate import CLEAR
from ..ops.layout import Rows
from ..ops.nested import clone
from ..ops.rows import join_rows, stack_rows
from .holding import Holding

VOID = -(1 << 40)
FORWARD = -1


class Detours(Holding):
    """The part of a run that knows stops and skips.

    Attributes:
        ended: The invokes that have been stopped.
        skips: For modules whose input has passed, what they are to return, and of which rows.
        stopped: The node that has ended the forward; -1 while it goes on.
        parameters: What stands for parameters of modules in this run, by path and name.
        left: How many visits are still to come before the forward may be ended by itself; 0 if it may not.
    """

    ended: tuple[int, ...] = ()
    skips: dict[str, tuple[tuple[Rows | None, Any], ...]] = {}  # noqa: RUF012  (replaced, never filled)
    stopped = -1
    left = 0
    parameters: dict[str, dict[str, Any]] = {}  # noqa: RUF012  (replaced, never filled)

    def stop(self, scope: int, node: int, segments: tuple[int, ...], invokes: int) -> None:
        """A stop is reached: of the forward, or of one of its invokes."""
        if scope != FORWARD:
            self.ended = (*self.ended, scope)
            for index in segments:
                self._forsake(index)
            if len(self.ended) < invokes:
                return
        self.stopped = node if self.stopped < 0 else self.stopped

    def _forsake(self, index: int) -> None:
        """A segment that will not run, and all that wait for it."""
        if self.waits[index] < 0:
            return
        self.waits[index] = VOID
        segment = self.plan.segments[index]
        for instruction in segment.code:
            if instruction[0] == CLEAR:
                self.slots[instruction[2]] = None
        for other in segment.downstream:
            self._forsake(other)

    def skip(self, path: str, leaves: tuple[int, ...]) -> None:
        """The module at ``path`` is to return a value in place of running; with a second slot, for these rows."""
        rows = self.slots[leaves[1]] if len(leaves) > 1 else None
        value = clone(self.slots[leaves[0]])
        self.skips = {**self.skips, path: (*self.skips.get(path, ()), (None if rows is None or rows.whole else rows, value))}

    def replace(self, path: str, name: str, leaf: int) -> None:
        """A value stands for a parameter of the module at ``path`` from here on."""
        self.parameters = {**self.parameters, path: {**self.parameters.get(path, {}), name: self.slots[leaf]}}

    def forward_of(self, path: str) -> Callable[..., Any]:
        """What stands for the forward of a module that may be skipped."""

        def forward(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            skips = self.skips.get(path)
            if skips is None:
                return original(*args, **kwargs)
            self.skips = {other: kept for other, kept in self.skips.items() if other != path}
            try:
                return skipped(skips, lambda: original(*args, **kwargs))
            except NNsightError as error:
                self.error, self.failed = error, ("refused", self.plan.skips[path])
                raise Leave from None

        return forward


class Leave(BaseException):
    """Ends the forward from inside a hook; a model's ``except Exception`` does not catch it."""


def skipped(skips: tuple[tuple[Rows | None, Any], ...], run: Callable[[], Any]) -> Any:
    """What a module passes on of which some rows, or all, are skipped: it runs for the others. Of an invoke's skips the last counts."""
    last = max((place for place, (rows, _) in enumerate(skips) if rows is None), default=-1)
    some = list({rows: (rows, value) for rows, value in skips[last + 1 :] if rows is not None}.values())
    some.sort(key=lambda piece: piece[0].start)
    ends = [0, *(rows.stop for rows, _ in some)]
    if last >= 0:
        whole = skips[last][1]
    elif some and ends[-1] == some[0][0].size and all(rows.start == end for (rows, _), end in zip(some, ends, strict=False)):
        return stack_rows(some)
    else:
        whole = run()
    for rows, value in some:
        whole = join_rows(whole, rows, value)
    return whole
