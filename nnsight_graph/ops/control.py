"""Branches and loops while a plan runs."""

from __future__ import annotations

from itertools import repeat
from typing import Any, NamedTuple

from .evaluate import UNBOUND, run_code

Code = tuple[tuple[int, Any, int, int, int, Any, int], ...]

NEVER: Any = type("Never", (), {"__repr__": lambda _self: "<never>"})()
"""What stands for a value whose line never ran."""


class Loop(NamedTuple):
    """A loop as it runs: numbers of slots, and code.

    Attributes:
        source, item: The collection and the item of a turn; ``-1`` for a ``while``.
        inits, params: What is carried into the first turn, and where each turn finds it.
        captures: ``(outer, inner)``: what the body takes from outside.
        prelude, head, tail: What runs once before it; what runs each turn, before and after the check.
        check: The truth by which a ``while`` goes on (``-1`` for none), and what is carried out where it does not.
        leave, nexts: Whether this turn is the last, and what is carried to the next.
        out: Where the carried values go in the end, as a tuple.
        saved: What outlives the loop; unset if there is no turn.
        blank: What is emptied when the loop ends.
    """

    source: int
    item: int
    inits: tuple[int, ...]
    params: tuple[int, ...]
    captures: tuple[tuple[int, int], ...]
    prelude: Code
    head: Code
    check: tuple[int, tuple[int, ...]]
    tail: Code
    leave: int
    nexts: tuple[int, ...]
    out: int
    saved: tuple[int, ...]
    blank: tuple[int, ...]


def run_loop(run: Any, loop: Loop) -> None:
    """Run a loop to its end; its step's output is the tuple of what it carried."""
    slots = run.slots
    for outer, inner in loop.captures:
        slots[inner] = slots[outer]
    run_code(loop.prelude, slots, run)
    for slot in loop.saved:
        slots[slot] = NEVER
    _carry(slots, loop.inits, loop.params)
    items = iter if run.meter is None else run.meter.items
    for item in repeat(None) if loop.source < 0 else items(slots[loop.source]):
        if loop.item >= 0:
            slots[loop.item] = item
        run_code(loop.head, slots, run)
        if loop.check[0] >= 0 and not slots[loop.check[0]]:
            _carry(slots, loop.check[1], loop.params)
            break
        run_code(loop.tail, slots, run)
        last = slots[loop.leave]
        _carry(slots, loop.nexts, loop.params)
        if last:
            break
    slots[loop.out] = tuple([slots[param] for param in loop.params])
    for slot in loop.blank:
        slots[slot] = None


def _carry(slots: list[Any], sources: tuple[int, ...], targets: tuple[int, ...]) -> None:
    for target, value in zip(targets, [slots[source] for source in sources], strict=True):
        slots[target] = value


def run_branch(run: Any, rest: tuple[int, bool, Code]) -> None:
    """Run code if a truth is what it has to be."""
    truth, polarity, code = rest
    if run.slots[truth] is polarity:
        run_code(code, run.slots, run)


def never() -> Any:
    """No value yet."""
    return NEVER


def select(truth: bool, yes: Any, no: Any) -> Any:
    """One of two values."""
    return yes if truth else no


def take_result(carried: tuple[Any, ...], place: str) -> Any:
    """One of the values that a loop carried."""
    return carried[int(place)]


def assigned(value: Any, name: str) -> Any:
    """The value of a name.

    Raises:
        UnboundLocalError: it has none on the path that was taken.
    """
    if value is UNBOUND:
        raise UnboundLocalError(f"cannot access local variable '{name}' where it is not associated with a value")
    return value


def raise_error(error: Any, *parts: Any) -> None:
    """Raise what the program raises."""
    raise error(*parts) if callable(error) else error
