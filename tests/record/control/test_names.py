"""Names: the frame's variables, cells, classes and modules during and after a rewritten block; debuggers and tracebacks."""

from __future__ import annotations

import bdb
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnsight_graph.errors import RecordError
from nnsight_graph.record.control.frames import FrameNames
from tests.record.control.test_entering import loaded
from tests.record.control.toy import Trace, plain

pytestmark = pytest.mark.torch_free


def test_closures_of_the_frame_see_the_block_and_are_seen() -> None:
    count = 0

    def bump() -> None:
        nonlocal count
        count += 1

    with Trace() as t:
        x = 1 if t.input(1) else 2
        bump()
        count += 10
        bump()
        seen = [count for _ in range(1)]
    bump()
    assert (count, seen) == (13, [12])


def test_a_closures_name_that_is_only_read_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that runs the same closure would see it."""
    scale, asked = 3, []

    def inner(reads: Callable[[], int]) -> int:
        with Trace() as t:
            x = (reads() if t.input(1) else 2) + scale
            hidden = [scale for _ in range(1)]
        assert hidden == [3]
        return x

    plain_check = FrameNames._is_frames
    monkeypatch.setattr(FrameNames, "_is_frames", lambda names, cell, name: asked.append(name) or plain_check(names, cell, name))
    inner(lambda: scale)
    assert asked == []


def test_a_variable_of_the_function_around() -> None:
    total, touched = 0, False

    def inner() -> None:
        nonlocal total
        with Trace() as t:
            total += 5
            x = total if t.input(1) else touched
        assert plain(x) == 5

    inner()
    assert total == 5


def test_a_recursion_that_passes_a_closure_on() -> None:
    def program(depth: int, bump: Callable[[], None] | None = None) -> list[int]:
        count = 0

        def own() -> None:
            nonlocal count
            count += 1

        below = program(depth - 1, own) if depth else []
        with Trace() as t:
            x = 1 if t.input(1) else 2
            count += 100
            if bump is not None:
                bump()
            own()
        return [count, *below]

    assert program(2) == [102, 102, 101]


def test_a_hidden_closure_is_refused() -> None:
    class Hidden:
        def __init__(self, call: Callable[[], None]) -> None:
            self.call = call

    def program() -> None:
        count = 0

        def bump() -> None:
            nonlocal count
            count += 1

        hidden = Hidden(bump)
        del bump
        with Trace() as t:
            x = 1 if t.input(1) else 2
            hidden.call()
            count += 1

    with pytest.raises(RecordError, match="`count` was changed by a function"):
        program()


def test_functions_defined_in_the_block() -> None:
    with Trace() as t:
        x = t.input(3)
        if x > 1:
            y = x
        else:
            y = 0

        def double() -> Any:
            return y * 2

        z = double() + (lambda v: v + y)(1)
    assert plain(z) == 10
    assert plain(double()) is not None


def test_private_names() -> None:
    class Private:
        __shared = 2

        def run(self) -> Any:
            __local = 3
            with Trace() as t:
                self.__kept = self.__shared + __local
                if t.input(1):
                    __local += 10
            return self.__kept, plain(__local)

    private = Private()
    assert private.run() == (5, 13)
    assert private._Private__kept == 5  # type: ignore[attr-defined]


def test_super() -> None:
    class Base:
        def value(self) -> int:
            return 4

    class Derived(Base):
        def value(self) -> Any:
            with Trace() as t:
                x = super().value() if t.input(1) else 0
                y = [super().value() for _ in range(2)]
            return plain(x), y, __class__.__name__  # type: ignore[name-defined]

    assert Derived().value() == (4, [4, 4], "Derived")


def test_a_class_body() -> None:
    outer = 7

    class Body:
        own = 1
        with Trace() as t:
            x = own + outer + len("ab") if t.input(1) else 2
            own = 5

    assert (plain(Body.x), Body.own) == (10, 5)
    assert not [name for name in vars(Body) if name.startswith("@")]


def test_a_generator_and_a_coroutine_around_the_block() -> None:
    def numbers() -> Iterator[Any]:
        for n in range(2):
            with Trace() as t:
                x = n if t.input(1) else -1
            yield plain(x)

    async def later() -> Any:
        with Trace() as t:
            x = 3 if t.input(1) else -1
        return plain(x)

    assert list(numbers()) == [0, 1]
    with pytest.raises(StopIteration) as stopped:
        later().send(None)
    assert stopped.value.value == 3


MODULE = """
from tests.record.control.toy import Trace, plain
x, total, items = 10, 0, [1, 2]
with Trace() as t:
    doubled = [x * 2 for x in items]
    traced = [x * 2 for x in t.input([1, 2])]
    for n in t.input([1, 2, 3]):
        total += n
    def use():
        return total
    items = sorted(items, key=lambda x: -x)
after = use()
"""


def test_a_module(tmp_path: Path) -> None:
    module = loaded(tmp_path / "names_of_a_module.py", MODULE)
    assert (module.x, module.doubled, plain(module.traced), plain(module.total), module.items) == (10, [2, 4], [2, 4], 6, [2, 1])
    assert module.after is module.total


def test_names_after_an_error_and_the_lines_of_its_traceback() -> None:
    first = second = 0
    try:
        with Trace() as t:
            first = 1 if t.input(1) else 0
            second = 2
            raise KeyError("here")
    except KeyError as error:
        caught = error
    assert second == 2
    assert caught.__context__ is None
    frames = traceback.extract_tb(caught.__traceback__)
    assert not [frame for frame in frames[3:] if "record/control/" in frame.filename and "tests" not in frame.filename]
    assert (frames[-1].filename, frames[-1].line, frames[-1].name) == (__file__, 'raise KeyError("here")', frames[0].name)


def test_an_error_in_a_branch_names_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        with Trace() as t:
            if t.input(1):
                x = [
                    1,
                    1 // 0,
                ]
    assert caught.traceback[-1].frame.code.raw.co_filename == __file__
    assert "1 // 0" in str(caught.traceback[-1].statement)


# ---------------------------------------------------------------------- debuggers

STEPPED = """
from tests.record.control.toy import Trace
def program():
    elsewhere = 5
    with Trace() as t:
        x = t.input(1)
        if x > 3:
            y = 1
        else:
            y = 2
        for n in range(2):
            z = n
    return y
"""


class Debugger(bdb.Bdb):
    """Notes the lines that it stops at and the names it sees."""

    def __init__(self, path: str, breakpoints: list[int]) -> None:
        super().__init__()
        self.path = self.canonic(path)
        self.stops: list[int] = []
        self.names: list[set[str]] = []
        self.stepping = not breakpoints
        for line in breakpoints:
            assert self.set_break(path, line) is None

    def user_line(self, frame: Any) -> None:
        if self.canonic(frame.f_code.co_filename) == self.path:
            self.stops.append(frame.f_lineno)
            self.names.append({name for name in frame.f_locals if not name.startswith("@")})
        if self.stepping:
            self.set_step()
        else:
            self.set_continue()


def test_breakpoints_in_both_branches(tmp_path: Path) -> None:
    path = tmp_path / "breakpoints_in_branches.py"
    module = loaded(path, STEPPED)
    debugger = Debugger(str(path), [8, 10, 13])
    debugger.set_continue = lambda: debugger._set_stopinfo(debugger.botframe, None, -1)  # type: ignore[method-assign, attr-defined]
    debugger.runcall(module.program)
    lines = debugger.stops
    assert [line for line in lines if line in (8, 10, 13)] == [8, 10, 13]
    assert debugger.names[lines.index(8)] >= {"elsewhere", "t", "x"}


def test_the_order_of_stepping(tmp_path: Path) -> None:
    path = tmp_path / "stepping.py"
    module = loaded(path, STEPPED)
    debugger = Debugger(str(path), [])
    debugger.runcall(module.program)
    order = [line for line, before in zip(debugger.stops, [0, *debugger.stops], strict=False) if line != before]
    assert order[-1] == 13
    inside = [line for line in order if 6 <= line <= 12]
    assert inside == [6, 7, 8, 7, 10, 7, 11, 12, 11, 12, 11]
