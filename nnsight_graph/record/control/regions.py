"""Branches and loops of rewritten code: native where the condition is plain, regions where it is traced."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from .containers import Region
from .emitter import UNBOUND
from .names import Maybe, Names, Refused
from .operations import Operations

Mention = Callable[[], Any] | None
_ENDLESS = 10_000


class Turns:
    """Stands between a ``while`` and its condition, which is written once and evaluated here and there."""

    __slots__ = ("check", "traced", "value")

    def __init__(self) -> None:
        self.check: Callable[[Any], None] | None = None
        self.traced: Callable[[Any], bool]
        self.value: Any = False

    def test(self, value: Any) -> bool:
        """Whether the body is to run now."""
        if self.check is not None:
            self.check(value)
            return True
        self.value = value if self.traced(value) else bool(value)
        return self.value is True


class Controller(Operations):
    """What rewritten code calls; one for each run of a block."""

    # ------------------------------------------------------------------ branches

    def branch(self, test: Any, names: Mention, mutated: Mention = None, result: Mention = None) -> Iterator[bool]:
        """The branches to run: one, or both if ``test`` is traced."""
        if not self.emitter.traced(test):
            yield bool(test)
            return
        self.lift((mutated,))
        variables = Names(names, result)
        before = variables.read()
        self.emitter.begin_if(test)
        yield from self._inside(then := Region(), True)
        after_then = variables.read()
        variables.write(before)
        self.emitter.begin_else()
        yield from self._inside(other := Region(), False)
        if then.ended and other.ended and self.regions:
            self.regions[-1].ended = True
        variables.write(self._merge(variables.names, before, (after_then, then.ended), (variables.read(), other.ended)))

    def _inside(self, region: Region, item: Any) -> Iterator[Any]:
        """Let the body run in a region."""
        depth = len(self.regions)
        self.regions.append(region)
        try:
            yield item
        except GeneratorExit:  # an error leaves the body
            del self.regions[depth:]
            self.refuse("an error left a traced branch or loop half recorded; the trace cannot run")
            raise
        del self.regions[depth:]

    def _merge(self, names: list[str], before: list[Any], then: tuple[list[Any], bool], other: tuple[list[Any], bool]) -> list[Any]:
        after: list[Any] = []
        merges: list[tuple[str, Any, Any]] = []
        places: list[tuple[int, bool]] = []
        for index, name in enumerate(names):
            a, b = (values[index] for values, _ in (then, other))
            maybe = any(value is UNBOUND or type(value) is Maybe for value in (a, b))
            if then[1] or other[1]:  # a branch that raises has no say
                lives = before[index] if then[1] and other[1] else b if then[1] else a
                maybe = type(lives) is Maybe
                a, b = (UNBOUND, lives) if then[1] else (lives, UNBOUND)
                if lives is before[index] or lives is UNBOUND or not self.mergeable(lives):
                    a = b = lives
            if a is b:
                after.append(a)
            elif self.mergeable(a) and self.mergeable(b):
                places.append((index, maybe))
                merges.append((name, _value(a), _value(b)))
                after.append(UNBOUND)
            else:
                after.append(Refused(name, a, b))
        for (index, maybe), merged in zip(places, self.emitter.end_if(merges), strict=True):
            after[index] = Maybe(names[index], merged) if maybe else merged
        return after

    def mergeable(self, value: Any) -> bool:
        """Whether a name's value can be merged and carried."""
        if type(value) is Maybe or value is UNBOUND:
            return True
        return type(value) is not Refused and self.emitter.recordable(value)

    def select(self, test: Any, yes: Callable[[], Any], no: Callable[[], Any], names: Mention = None, mutated: Mention = None) -> Any:
        """``yes if test else no``."""
        if not self.emitter.traced(test):
            return yes() if test else no()
        result = UNBOUND
        for taken in self.branch(test, names, mutated, lambda: result):  # noqa: B023  (its cell is written, too)
            result = yes() if taken else no()
        return self.use(result)

    def both(self, left: Any, right: Callable[[], Any], names: Mention = None, mutated: Mention = None) -> Any:
        """``left and right``."""
        if not self.emitter.traced(left):
            return left and right()
        return self.select(left, right, lambda: left, names, mutated)

    def either(self, left: Any, right: Callable[[], Any], names: Mention = None, mutated: Mention = None) -> Any:
        """``left or right``."""
        if not self.emitter.traced(left):
            return left or right()
        return self.select(left, lambda: left, right, names, mutated)

    # ------------------------------------------------------------------ loops

    def iterate(self, source: Any, names: Mention, mutated: Mention = None, flag: Mention = None) -> Iterator[Any]:
        """The turns of ``for item in source``; ``flag`` is set when the loop is to be left."""
        opened = self._loop_of(source)
        if opened is not None:
            yield from self._loop(*opened, names, mutated, flag)
            return
        left = Names(flag)
        for count, item in enumerate(source):
            yield item
            if flag is not None and (now := left.read()[0]) is not False:
                if now is True:
                    return
                if count > _ENDLESS and operator.length_hint(source, -1) < 0:
                    raise self.refuse("a loop without an end is left on a traced condition only: write `while` with the condition in it")

    def items(self, source: Any) -> Any:
        """What to go over where a loop names gradients: those of a recorded loop would come when it is long over."""
        found = self.emitter.items(source) if self.emitter.traced(source) else None
        return source if found is None else found

    def manager(self, value: Any) -> Any:
        """What to enter for ``with value``: nothing, if its body is a loop."""
        return _NOTHING if self._loop_of(value, "with") is not None else value

    def turns(self, manager: Any, entered: Any, names: Mention, mutated: Mention = None, flags: Mention = None) -> Iterator[Any]:
        """The turns of the body of ``with manager``: one, if it is no loop."""
        opened = self._loop_of(manager, "with")
        if opened is None:
            yield entered
        else:
            yield from self._loop(*opened, names, mutated, flags)

    def _loop_of(self, value: Any, statement: str = "for") -> tuple[str, Any] | None:
        """The kind and the source of a loop that is recorded."""
        if self.emitter.traced(value):
            return ("for", value) if statement == "for" else None
        if self.emitter.steps(value, statement):
            return "steps", value
        return ("for", value._loop_source) if hasattr(type(value), "_loop_source") else None

    def _loop(self, kind: str, source: Any, names: Mention, mutated: Mention, flags: Mention) -> Iterator[Any]:
        self.lift((mutated,))
        carried = _Carried(self, Names(names))
        left = Names(flags)
        item = carried.begin(kind, source)
        left.fill(False)
        yield from self._inside(Region(), item)
        carried.end(left.read())

    def loop(self, names: Mention, mutated: Mention, flag: Mention) -> Iterator[Turns]:
        """The turns of a ``while``; from the first traced condition, or ``break`` on one, on it is recorded."""
        turns, left = Turns(), Names(flag)
        turns.traced = self.emitter.traced
        while True:
            flags = left.read()
            if flags and flags[0] is True:
                return
            if flags and flags[0] is not False:
                break
            yield turns
            if turns.value is False:
                return
            if turns.value is not True:
                break
        self.lift((mutated,))
        carried = _Carried(self, Names(names, flag))
        guarded = bool(flags) and flags[0] is not False
        carried.begin("while", None)
        turns.check = lambda test: self._check(test, carried, left, guarded)
        yield from self._inside(Region(), turns)
        carried.end(left.read())

    def _check(self, test: Any, carried: _Carried, left: Names, guarded: bool) -> None:
        if guarded:  # the flag may be set already when the recorded turns begin
            going = self.emitter.call("not_", left.read()[0])
            if test is not True:
                whole = self.emitter.call("truth", test) if self.emitter.traced(test) else bool(test)
                going = self.emitter.call("and_", going, whole)
            test = going
        self.emitter.check_loop(test, carried.current())
        left.fill(False)


class _Carried:
    """The names that a recorded loop stores: parameters of its region, results after it."""

    def __init__(self, control: Controller, names: Names) -> None:
        self._control = control
        self._names = names
        self._before = names.read()
        self._parameters: list[Any] = []
        self._checked: list[Any] = []
        self._kept = [index for index, value in enumerate(self._before) if control.mergeable(value)]

    def begin(self, kind: str, source: Any) -> Any:
        """Open the loop and set the names to what they are when a turn begins; the loop's item."""
        before = [self._before[index] for index in self._kept]
        names = [self._names.names[index] for index in self._kept]
        item, values = self._control.emitter.begin_loop(kind, source, [(n, _value(v)) for n, v in zip(names, before, strict=True)])
        unset = [value is UNBOUND or type(value) is Maybe for value in before]
        self._parameters = [Maybe(n, v) if u else v for n, v, u in zip(names, values, unset, strict=True)]
        for value, start in zip(values, before, strict=True):
            self._control.call_alike(value, start)
        now: list[Any] = [Refused(name, value) for name, value in zip(self._names.names, self._before, strict=True)]
        for index, value in zip(self._kept, self._parameters, strict=True):
            now[index] = value
        self._names.write(now)
        return item

    def current(self) -> list[Any]:
        """The carried values now; asked where the loop may be left."""
        values = self._checked = self._names.read()
        return [_value(values[index]) if self._control.mergeable(values[index]) else UNBOUND for index in self._kept]

    def end(self, flags: list[Any]) -> None:
        """Close the loop and set the names to what they are after it."""
        control, last = self._control, self._names.read()
        checked, following = self._checked, self.current()
        results = control.emitter.end_loop(control.either_set(*flags), following)
        after = [
            start if type(now) is Refused and now.values == (start,) else Refused(name, start, now)
            for name, start, now in zip(self._names.names, self._before, last, strict=True)
        ]
        for index, parameter, result in zip(self._kept, self._parameters, results, strict=True):
            seen = [last[index], *([checked[index]] if checked else [])]
            after[index] = self._after(index, seen, parameter, result)
        self._names.write(after)

    def _after(self, index: int, seen: list[Any], parameter: Any, result: Any) -> Any:
        name, start = self._names.names[index], self._before[index]
        if all(value is parameter or value is start for value in seen):
            return start
        if not all(map(self._control.mergeable, seen)):
            return Refused(name, start, *seen)
        return Maybe(name, result) if any(value is UNBOUND or type(value) is Maybe for value in [start, *seen]) else result


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_error: object) -> None:
        return None


_NOTHING = _Nothing()


def _value(value: Any) -> Any:
    return value.value if type(value) is Maybe else value
