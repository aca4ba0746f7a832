"""The names of the frame that holds a block are exchanged, whatever kind of frame it is, and nothing else in it changes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from typing import Any

import pytest

from .blocks import Block, StandIn

pytestmark = pytest.mark.torch_free


def test_names_of_a_function():
    a, b, other = 1, 2, "kept"
    with Block() as block:
        a = c = block.save(10.5)
        b = block.save([1])
        _ = other
    assert (a, b, other) == (10.5, [1], "kept")
    assert c is a


def test_a_name_that_was_bound_before():
    best = 0
    for number in range(3):
        with Block() as block:
            best = block.save(best + number)
        assert best == sum(range(number + 1))


def test_arguments_and_names_that_are_deleted():
    def program(value, *rest, key=None, **named):
        with Block() as block:
            value, key = block.save(1), block.save(2)
            gone = block.save(3)
            del gone
            named["x"] = block.save(4)
        return value, rest, key, named

    assert program(0, 5, key=6, y=7) == (1, (5,), 2, {"y": 7, "x": 4})


def test_what_is_deleted_below_the_block_is_freed():
    class Tracked:
        freed = False

        def __del__(self) -> None:
            Tracked.freed = True

    with Block() as block:
        held = block.save(Tracked())
    block.saved.clear()
    assert type(held) is Tracked
    del held
    assert Tracked.freed


def test_cells_of_closures():
    shared, nonlocal_ = 0, 0

    def show() -> Any:
        return shared, nonlocal_

    def inner() -> None:
        nonlocal nonlocal_
        with Block() as block:
            nonlocal_ = block.save(2)

    with Block() as block:
        shared = block.save(1)
    inner()
    assert show() == (1, 2)


def test_a_generator():
    def program():
        total = 0
        for number in range(3):
            with Block() as block:
                total = block.save(total + number)
            yield total

    assert list(program()) == [0, 1, 3]


def test_an_async_function():
    async def program(number: int) -> Any:
        await asyncio.sleep(0)
        with Block() as block:
            found = block.save(number)
        await asyncio.sleep(0)
        return found

    async def both() -> Any:
        return await asyncio.gather(program(1), program(2))

    assert asyncio.run(both()) == [1, 2]


def test_threads():
    def program(number: int) -> None:
        for turn in range(200):
            with Block() as block:
                found = block.save((number, turn))
            results[number].append(found)

    results: list[list[Any]] = [[], [], []]
    threads = [threading.Thread(target=program, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[(number, turn) for turn in range(200)] for number in range(3)]


def test_recursion():
    def program(depth: int) -> Any:
        with Block() as block:
            mine = block.save(depth)
        return [mine, *(program(depth - 1) if depth else [])]

    assert program(3) == [3, 2, 1, 0]


def test_a_class_body():
    with Block() as block:
        outer = block.save(1)

    class Holder:
        with Block() as block:
            inner = block.save(2)
            both = [inner, 3]

    assert (outer, Holder.inner, Holder.both) == (1, 2, [2, 3])


@pytest.mark.parametrize("apart", [False, True], ids=["module", "namespace of its own"])
def test_exec(apart):
    space: dict[str, Any] = {"Block": Block, "x": 5, **{f"name_{number}": number for number in range(500)}}
    local: dict[str, Any] = {} if apart else space
    source = "with Block() as block:\n    found = block.save(x)\n    both = [found, name_7]\nnext_line = found + 1"
    exec(source, space, local)
    assert (local["found"], local["both"], local["next_line"], space["x"]) == (5, [5, 7], 6, 5)


def test_exec_in_what_is_no_dict_leaves_stand_ins():
    class Space:
        def __init__(self) -> None:
            self.names = {"Block": Block}

        def __getitem__(self, name: str) -> Any:
            return self.names[name]

        def __setitem__(self, name: str, value: Any) -> None:
            self.names[name] = value

    space = Space()
    exec("with Block() as block: found = block.save(1)", {}, space)
    assert type(space["found"]) is StandIn


GLOBAL: Any = 0


def test_a_global_name():
    global GLOBAL
    with Block() as block:
        GLOBAL = block.save(7)
    assert GLOBAL == 7


def test_a_name_of_the_module_that_a_function_binds():
    space: dict[str, Any] = {"Block": Block}
    exec(
        "def keep(block):\n    global kept\n    kept = block.save(4)\nwith Block() as block:\n    keep(block)\n",
        space,
    )
    assert space["kept"] == 4


def test_a_helper_that_returns_below_its_block():
    def helper() -> Any:
        with Block() as block:
            found = block.save(3)
            both = {"a": [found]}
        return found, both

    assert helper() == (3, {"a": [3]})


def test_what_a_block_returns_itself_stays_until_a_later_block_reaches_it():
    def helper() -> Any:
        with Block() as block:
            return block.save(3)

    found = helper()
    assert type(found) is StandIn
    with Block() as block:
        other = block.save(4)
    assert (found, other) == (3, 4)


@contextlib.contextmanager
def entered():
    with Block() as block:
        yield block


def test_a_block_in_a_context_manager_of_ones_own():
    kept: list[Any] = []
    with entered() as block:
        found = block.save(1)
        kept.append(block.save(2))
    assert (found, kept) == (1, [2])


def test_an_exit_stack():
    kept: list[Any] = []
    with contextlib.ExitStack() as stack:
        block = stack.enter_context(Block())
        found = block.save(1)
        kept.append(block.save(2))
    assert (found, kept) == (1, [2])


def test_locals_that_somebody_has_stay():
    names = locals()
    names["mine"] = 1
    with Block() as block:
        found = block.save(2)
    if sys.version_info < (3, 13):
        assert names["mine"] == 1
    assert found == 2
    assert locals()["found"] == 2


def test_a_trace_function():
    seen: list[Any] = []

    def tracer(frame: Any, event: str, _arg: Any) -> Any:
        if frame.f_code is program.__code__:
            seen.append(event)
            _ = frame.f_locals  # as a debugger looks at them
        return tracer

    def program() -> Any:
        before = 1
        with Block() as block:
            before = block.save(2)
            inner = [block.save(3)]
        after = before
        return after, inner, (lambda: before)()

    kept = sys.gettrace()
    sys.settrace(tracer)
    try:
        found = program()
    finally:
        sys.settrace(kept)
    assert found == (2, [3], 2)
    assert "line" in seen


def test_what_another_thread_writes_into_a_closure_is_not_undone():
    counter, stop = 0, False

    def count() -> None:
        nonlocal counter
        while not stop:
            counter += 1
            written.append(counter) if not written else written.__setitem__(0, counter)

    written: list[int] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        for number in range(3000):
            with Block() as block:
                found = block.save(number)
                cell = block.save(number)
            assert (found, cell, (lambda: cell)()) == (number, number, number)
    finally:
        stop = True
        thread.join()
        sys.setswitchinterval(before)
    assert counter == written[0]


def test_a_cell_that_another_thread_has_given_a_value_meanwhile_keeps_it():
    for _ in range(300):
        shared: Any = None
        done = threading.Event()

        def write(done: Any = done) -> None:
            nonlocal shared
            done.wait()
            shared = "theirs"

        thread = threading.Thread(target=write)
        thread.start()
        with Block() as block:
            shared = block.save("mine")
            done.set()
        thread.join()
        assert shared == "theirs"
