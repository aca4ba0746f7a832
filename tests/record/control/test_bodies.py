"""Which instructions are the body of a `with`: asked of real frames, at every place that a frame can be caught in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from nnsight_graph.record.control.bodies import enters_with, first_of, stands_inside

pytestmark = pytest.mark.torch_free


class Watched:
    """Knows the frame that entered it, and where."""

    frame: FrameType
    offset: int
    by_hand: bool
    swallows = False
    at_edges: list[bool]

    def __enter__(self) -> Watched:
        self.frame = sys._getframe(1)
        self.offset = self.frame.f_lasti
        self.by_hand = not enters_with(self.frame.f_code, self.offset)
        self.at_edges = [self.inside()]
        return self

    def __exit__(self, *error: object) -> bool:
        self.at_edges.append(self.inside())
        return self.swallows

    def inside(self) -> bool:
        return stands_inside(self.frame, self.offset)


def plain(w: Watched, see: Callable[[], Any]) -> None:
    see()
    with w:
        see()
    see()


def nested(w: Watched, see: Callable[[], Any]) -> None:
    with Watched():
        see()
        with w as _, Watched():
            see()
            for turn in range(2):
                try:
                    see()
                    if turn:
                        raise ValueError
                except ValueError:
                    see()
                finally:
                    see()
                with Watched():
                    see()
            [see() for _ in range(2)]
            while see():
                see()
            else:
                see()
        see()


def returned(w: Watched, see: Callable[[], Any]) -> None:
    try:
        for _ in range(3):
            with w:
                see()
                return
    finally:
        see()


def broken(w: Watched, see: Callable[[], Any]) -> None:
    for turn in range(3):
        with w:
            see()
            if turn == 1:
                break
            continue
        see()
    see()


def raised(w: Watched, see: Callable[[], Any]) -> None:
    try:
        with w:
            see()
            raise ValueError
    except ValueError:
        see()
    see()


def swallowed(w: Watched, see: Callable[[], Any]) -> None:
    w.swallows = True
    with w:
        see()
        raise ValueError
    see()


def in_finally(w: Watched, see: Callable[[], Any]) -> None:
    try:
        raise ValueError
    except ValueError:
        pass
    finally:
        with w:
            see()
        see()


EXPECTED = {
    plain: "010", returned: "10", broken: "110", raised: "100", swallowed: "10", in_finally: "10",
    nested: "01" + "111" + "1111" + "11" + "11" + "0",
}  # fmt: skip


@pytest.mark.parametrize("function", EXPECTED, ids=lambda function: function.__name__)
def test_a_frame_is_in_the_body_or_not(function: Callable[[Watched, Callable[[], Any]], None]) -> None:
    watched, seen = Watched(), ""

    def see() -> None:
        nonlocal seen
        seen += str(int(hasattr(watched, "frame") and watched.inside()))

    function(watched, see)
    assert seen == EXPECTED[function]
    assert not watched.by_hand
    assert watched.at_edges == [False, False]
    assert not watched.inside()


def test_a_generator_waits_in_the_body() -> None:
    watched = Watched()

    def turns() -> Iterator[int]:
        yield 0
        with watched:
            yield 1
            yield 2
        yield 3

    generator = turns()
    next(generator)
    assert [(number, watched.inside()) for number in generator] == [(1, True), (2, True), (3, False)]


class Failing(Watched):
    def __exit__(self, *error: object) -> bool:
        raise KeyboardInterrupt


@pytest.mark.parametrize("fails", [False, True])
def test_a_frame_that_an_error_of_the_exit_has_ended_is_not_in_it(fails: bool) -> None:
    watched = Failing()

    def work() -> None:
        with watched:
            if fails:
                raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert not watched.inside()
    del caught


def test_a_generator_whose_exit_fails_is_not_in_it() -> None:
    watched = Failing()

    def turns() -> Iterator[int]:
        with watched:
            yield 1

    generator = turns()
    next(generator)
    assert watched.inside()
    with pytest.raises(KeyboardInterrupt):
        generator.close()
    assert not watched.inside()


def test_a_coroutine_waits_in_the_body() -> None:
    watched = Watched()

    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    async def work() -> None:
        with watched:
            await Pause()
        await Pause()

    going = work()
    going.send(None)
    assert watched.inside()
    going.send(None)
    assert not watched.inside()
    going.close()


def test_entered_by_hand_below_a_with() -> None:
    with Watched() as other:
        pass
    watched = Watched()
    watched.__enter__()
    assert watched.by_hand
    assert not other.by_hand


def test_the_target_of_the_with_may_need_a_long_argument() -> None:
    names = "\n".join(f"    name{number} = {number}" for number in range(300))
    scope: dict[str, Any] = {"Watched": Watched}
    exec(f"def work():\n{names}\n    with Watched() as last:\n        seen = last.inside()\n    return last, seen", scope)
    watched, seen = scope["work"]()
    assert seen
    assert not watched.inside()
    assert watched.offset < first_of(watched.frame.f_code, watched.offset).start
