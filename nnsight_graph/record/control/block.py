"""The block of a trace: native, or skipped and run as rewritten code."""

from __future__ import annotations

import os
from pathlib import Path
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from .bodies import enters_with, first_of
from .emitter import UNBOUND, Emitter
from .frames import FrameNames, is_function
from .names import Maybe, Refused
from .regions import Controller
from .rewriting import Rewritten, rewrite
from .skipping import Skip, SkipBody
from .source import find_statement
from .syntax import CONTROL
from .triggers import obstacle, triggers

_HERE = str(Path(__file__).parent) + os.sep
_MOST = 10_000


class Decision:
    """What was found out about one place where a block is entered.

    Attributes:
        code: The code the place is in; held, so that its identity stays its own.
        rewritten: The function to run; None where the block runs natively.
        lines: The first and the last line of the block, where it is known.
        reason: Why the block runs natively although it has syntax that traced values need rewriting for.
        by_hand: Whether no ``with`` of the frame's own is entered there.
        first: Where the body begins.
    """

    __slots__ = ("by_hand", "code", "first", "lines", "reason", "rewritten")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.rewritten: Rewritten | None = None
        self.lines = (0, 0)
        self.reason = ""
        self.by_hand = False
        self.first = range(0)

    def block(self, frame: FrameType) -> Block | None:
        """None where the block that ``frame`` is entering runs natively; else a block whose native body can be skipped."""
        return None if self.rewritten is None else Block(self.rewritten, frame, self.first)


_decisions: dict[tuple[int, int, bool], Decision] = {}


BY_HAND = "the block was not entered by a `with` of its own, so that its lines cannot be found: write `with model.trace(...):`"


def decide(frame: FrameType, scan: bool = False) -> Decision:
    """How the block runs that ``frame`` is entering, by a ``with`` statement or by hand."""
    return _decisions.get((id(frame.f_code), frame.f_lasti, scan)) or _decide(frame, scan)


def why_native(frame: FrameType) -> str:
    """Why control flow on a traced value at ``frame``'s line was not rewritten, as the end of a sentence."""
    known = [decision for decision in list(_decisions.values()) if decision.code is frame.f_code]
    line = frame.f_lineno or 0
    inside = [decision for decision in known if decision.reason and decision.lines[0] <= line <= (decision.lines[1] or line)]
    return inside[0].reason if inside else "the line is not part of the block itself, but of a function that it calls"


def _decide(frame: FrameType, scan: bool) -> Decision:
    code = frame.f_code
    decision = Decision(code)
    decision.by_hand = not enters_with(code, frame.f_lasti)
    if decision.by_hand:
        decision.reason = BY_HAND
    elif CONTROL not in code.co_freevars:  # else the code was rewritten itself, with all blocks in it
        _examine(decision, frame, scan)
    if len(_decisions) >= _MOST:
        _decisions.clear()
    _decisions[id(code), frame.f_lasti, scan] = decision
    return decision


def _examine(decision: Decision, frame: FrameType, scan: bool) -> None:
    code = frame.f_code
    found = find_statement(code, frame.f_lasti, frame.f_globals)
    if isinstance(found, str):
        decision.reason = found
        return
    node = found.node
    decision.lines = node.lineno, node.end_lineno or node.lineno
    if not triggers([*node.items[found.item + 1 :], *node.body], scan):
        return
    decision.reason = obstacle(node.body, is_function(code))
    if not decision.reason:
        local = is_function(code) or frame.f_locals is not frame.f_globals
        decision.first = first_of(code, frame.f_lasti)
        decision.rewritten = rewrite(code, found, frame.f_globals, local, scan)


class Block:
    """A block that is rewritten.

    Last in ``__enter__``, when it is noted where it will be disarmed: :meth:`arm`. In ``__exit__``: if :meth:`skipped`, then
    :meth:`run`, go on as after any body, and return True.
    """

    __slots__ = ("_frame", "_rewritten", "_skip")

    def __init__(self, rewritten: Rewritten, frame: FrameType, first: range) -> None:
        self._rewritten = rewritten
        self._frame = frame
        self._skip = Skip(frame, first)

    def arm(self) -> None:
        """From here on the native body is skipped."""
        self._skip.arm()

    def disarm(self) -> None:
        """It will not be skipped; may be called again."""
        self._skip.disarm()

    def skipped(self, error: BaseException | None) -> bool:
        """Whether ``error`` is the one that skips the native body; call it once in every ``__exit__``."""
        self._skip.disarm()
        return error is self._skip.error

    def run(self, value: Any, emitter: Emitter) -> None:
        """Run the body; names that it binds are bound in the frame afterwards, also if it raises.

        Args:
            value: What the ``with`` statement binds to its target.
            emitter: Where branches and loops on traced values are recorded.
        """
        __tracebackhide__ = True
        rewritten, frame = self._rewritten, self._frame
        del self._frame
        names = FrameNames(frame, rewritten.names, rewritten.stored)
        control = Controller(emitter, names)
        cells = {**names.cells, CONTROL: CellType(control)}
        code = rewritten.code
        body = FunctionType(code, frame.f_globals, code.co_name, None, tuple(cells[name] for name in code.co_freevars))
        try:
            body(value)
        except BaseException as error:
            _show_users_lines(error)
            raise
        finally:
            try:
                control.restore()
            finally:
                after = {name: _given_back(value) for name, value in names.read(rewritten.stored).items()}
                hidden = names.write_back(after)
                names.forget()
            if hidden:
                raise control.refuse(_HIDDEN.format(hidden))


_HIDDEN = (
    "`{0}` was changed by a function that the block calls but that is nowhere among the names here; a block with control flow on "
    "traced values cannot see that. Keep the function in a name of its own, or assign what it returns: {0} = function({0})."
)


def _given_back(value: Any) -> Any:
    """What the frame gets for a name's value in the body."""
    if type(value) is Maybe:
        return value.value
    return UNBOUND if type(value) is Refused else value


def _show_users_lines(error: BaseException) -> None:
    """Take this folder's frames out of the traceback."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        if last.tb_next.tb_frame.f_code.co_filename.startswith(_HERE):
            last.tb_next = last.tb_next.tb_next
        else:
            last = last.tb_next
    forget_skip(error)


def forget_skip(error: BaseException) -> None:
    """Take the skip of the native body out of what ``error`` came from."""
    seen: set[int] = set()
    sources: list[BaseException | None] = [error]
    while sources:
        source = sources.pop()
        if source is None or id(source) in seen:
            continue
        seen.add(id(source))
        if isinstance(source.__context__, SkipBody):
            source.__context__ = None
        sources += [source.__context__, source.__cause__]
