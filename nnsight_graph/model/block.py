"""A ``with`` block whose lines are recorded when it is entered, and run when it is left."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from ..errors import MisuseError, NNsightError, ours
from ..ops.data import trusted_program
from ..ops.saved_values import plain_type
from ..record import Proxy, Recorder, Recording, apply, log, recording_here
from ..record.branches import Branch, Iteration
from ..record.control import Block, decide, forget_skip
from ..record.gradients import Retained
from ..record.handing import hand_over
from ..record.living import EDGES
from ..record.opened import begin, end, give_up
from ..record.regions import emitter_of
from ..record.settled import UNSET
from ..source_location import is_users, on_users_line


class RecordedBlock:
    """What the blocks of traces and of sessions have in common.

    Attributes:
        _observes: Whether it knows shapes.
        _is_session: Whether the lines of traces in it are written by its recorder.
    """

    __slots__ = ("__weakref__", "_block", "_recorder", "_recording")

    _observes = _is_session = False
    _word = "tracer"
    _again = "this block was written already; open a new one"
    _scans = False

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._block: Block | None = None
        self._recording: Recording | None = None

    # ------------------------------------------------------------------ in the block

    @property
    def _is_open(self) -> bool:
        return self._recorder.open

    def _inside(self, name: str) -> Recorder:
        """The recorder, for a method that writes a line: that is possible in the block only."""
        if not self._is_open:
            what = f"{self._word}.{name}"
            error = MisuseError(f"{what} belongs inside the block of its {self._word}: this one is over, or has not begun")
            raise error if recording_here() is not None else on_users_line(error)
        return self._recorder

    def cond(self, test: Any) -> Branch:
        """A block whose lines take part only where ``test`` is true: ``with tracer.cond(value) as c:``, then ``with c.else_():``.

        Args:
            test: A traced value, or a plain one.
        """
        return Branch(emitter_of(self._inside("cond(...)")), test)

    @property
    def iter(self) -> Iteration:
        """Loops: ``with tracer.iter(collection) as item:`` runs its lines once per item."""
        return Iteration(emitter_of(self._inside("iter")))

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The same as :func:`nnsight_graph.apply`."""
        self._inside("apply(...)")
        return apply(function, *args, **kwargs)

    def log(self, *values: Any) -> None:
        """Print values as soon as they are there, as :func:`nnsight_graph.log` does."""
        self._inside("log(...)")
        log(*values)

    # ------------------------------------------------------------------ the block

    @property
    def _entered(self) -> Any:
        """What ``as`` names."""
        return self

    def __enter__(self) -> Any:
        __tracebackhide__ = True
        recorder = self._recorder
        if self._recording is not None or recorder.failure:
            raise MisuseError(self._again)
        if recorder.open:
            raise MisuseError("this block is open already; its end is to come first")
        try:
            frame = sys._getframe(1)
            decision = decide(frame, self._scans)
            block = self._block = None if decision.rewritten is None else decision.block(frame)
            begin(recorder, self, block, None if decision.by_hand else frame, frame)
            self._begun()
            if block is not None:
                block.arm()
            return self._entered
        except BaseException as error:
            self._give_up(_given_up(error), error)
            raise

    def _begun(self) -> None:
        """The trace is open now; the first line of the block comes next."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool | None:
        try:
            __tracebackhide__ = True  # IPython and pytest show the user's lines alone
            if not self._is_open:
                self._end_closed(error)
                return None
            if self._block is not None:
                return self._end_rewritten(error, traceback, sys._getframe(1))
            self._end(error, traceback, sys._getframe(1))
            return None
        except BaseException as problem:
            self._give_up(_given_up(problem), problem)
            raise

    def _give_up(self, why: str, error: BaseException | None = None) -> None:
        """Close the block without running anything, if it is open; give back what it has taken."""
        if self._block is not None:
            self._block.disarm()
        give_up(self._recorder, why, error)
        self._block = None

    def _end_closed(self, error: BaseException | None) -> None:
        if error is None:
            raise MisuseError(f"this block is not open: {self._recorder.failure or 'it was not entered, or was left already'}")

    def _end_rewritten(self, error: BaseException | None, traceback: TracebackType | None, frame: FrameType) -> bool:
        """The native body was skipped: run the one that was made of its source."""
        __tracebackhide__ = True
        block, self._block = self._block, None
        assert block is not None
        try:
            if not block.skipped(error):
                self._end(error, traceback, frame)
                return False
            try:
                block.run(self._entered, emitter_of(self._recorder))
            except BaseException as problem:
                self._end(problem, problem.__traceback__, frame)
                raise
            self._end(None, None, frame)
        except BaseException as problem:
            forget_skip(problem)
            raise
        return True

    def _end(self, error: BaseException | None, traceback: TracebackType | None, frame: FrameType) -> None:
        __tracebackhide__ = True
        recorder = self._recorder
        if error is None and recorder.own is not None:
            try:
                recorder.own.close()
            except BaseException as raised:
                self._end(raised, raised.__traceback__, frame)
                raise
        saved, refilled, poison, mode = recorder.saved, recorder.refilled, recorder.poison, recorder.mode
        entered = None if mode is None or mode.frame is None else mode.offset
        recording = self._recording = end(recorder, error)
        if error is not None:
            recorder.failure = _given_up(error)
            if isinstance(error, NNsightError):
                _end_at_users_line(traceback)
            elif traceback is not None and isinstance(error, Exception):
                _explain(error, traceback)
            return
        if poison is not None:
            recorder.failure = "its trace was refused"
            raise poison
        try:
            with trusted_program(not recording.foreign, recording.strange):
                problem = self._run(recording, saved, frame)
            if refilled:
                _refill(refilled)
        finally:
            outside, recording.outside = recording.outside, ()
            if saved:
                hand_over(frame, entered, saved, refilled, (recording.constants, *outside))
        if problem is not None:
            recorder.failure = f"its trace failed: {type(problem).__name__}"
            try:
                raise problem
            finally:
                del problem  # else the error and this frame hold each other

    def _run(self, recording: Recording, saved: dict[int, Proxy], frame: FrameType) -> BaseException | None:
        """Run what was recorded; the error to be raised, if there is one."""
        return None


EDGES.update((RecordedBlock.__enter__.__code__, RecordedBlock.__exit__.__code__))


def _given_up(error: BaseException) -> str:
    return f"its trace was given up ({type(error).__name__} in the block)"


def _refill(refilled: tuple[tuple[Any, Proxy], ...]) -> None:
    """The user's own containers get what the run has put into those that stood for them; a name below a loop, the last turn's."""
    for container, proxy in refilled:
        value: Any = proxy._value
        if isinstance(container, Retained):
            container.refill(value)
            continue
        if isinstance(container, Proxy):
            if container._value is UNSET:
                object.__setattr__(container, "_value", value)
        elif type(value) is plain_type(type(container)):
            container.clear()
            fill: Any = container.extend if isinstance(container, list) else container.update
            fill(value)
            object.__setattr__(proxy, "_value", container)


def _explain(error: Exception, traceback: TracebackType) -> None:
    """Raise the error of a function of another library that was given a value which is not there yet, with the way out."""
    last: TracebackType | None = None
    step: TracebackType | None = traceback
    while step is not None:
        last = step if is_users(step.tb_frame.f_code) else last
        step = step.tb_next
    below = None if last is None else last.tb_next
    if below is None or not any(isinstance(value, Proxy) for value in _given(below.tb_frame)):
        return
    name = below.tb_frame.f_code.co_name
    text = f"{error}: {name}() was given a traced value, which is known only while the model runs. "
    try:
        raised = ours(type(error), f"{text}Call it there, nnsight_graph.apply({name}, value), or save the value and call it below")
    except Exception:
        return  # an error that cannot be made of a text
    _end_at_users_line(traceback)
    raise raised.with_traceback(traceback) from error


def _given(frame: FrameType) -> list[Any]:
    """The arguments of a call."""
    code = frame.f_code
    more = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    count = code.co_argcount + code.co_kwonlyargcount + more
    values = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    groups = [value if type(value) is tuple else list(value.values()) if type(value) is dict else [value] for value in values]
    return [value for group in groups for value in group]


def _end_at_users_line(traceback: TracebackType | None) -> None:
    """Take off the end of a traceback what lies below the user's own line."""
    last = None
    while traceback is not None:
        last = traceback if is_users(traceback.tb_frame.f_code) else last
        traceback = traceback.tb_next
    if last is not None:
        last.tb_next = None


