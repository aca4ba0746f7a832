"""A recorder of integers and lists, and what runs its programs: the smallest thing that control flow can be tried on."""

from __future__ import annotations

import operator
import sys
from typing import Any

from nnsight_graph.errors import RecordError
from nnsight_graph.record import control
from nnsight_graph.record.control import UNBOUND


class Value:
    """A value that is not there yet."""

    __slots__ = ("emitter", "number", "result")
    __hash__ = object.__hash__

    def __init__(self, emitter: Toy, number: int) -> None:
        self.emitter = emitter
        self.number = number
        self.result: Any = UNBOUND

    def op(self, name: str, *operands: Any) -> Any:
        return self.emitter.call(name, *operands)

    def __bool__(self) -> bool:
        raise RecordError("a traced value has no truth yet: " + control.why_native(sys._getframe(1)))

    def __add__(self, other: Any) -> Any: return self.op("add", self, other)
    def __radd__(self, other: Any) -> Any: return self.op("add", other, self)
    def __sub__(self, other: Any) -> Any: return self.op("sub", self, other)
    def __rsub__(self, other: Any) -> Any: return self.op("sub", other, self)
    def __mul__(self, other: Any) -> Any: return self.op("mul", self, other)
    def __rmul__(self, other: Any) -> Any: return self.op("mul", other, self)
    def __mod__(self, other: Any) -> Any: return self.op("mod", self, other)
    def __rmod__(self, other: Any) -> Any: return self.op("mod", other, self)
    def __neg__(self) -> Any: return self.op("neg", self)
    def __eq__(self, other: object) -> Any: return self.op("eq", self, other)
    def __ne__(self, other: object) -> Any: return self.op("ne", self, other)
    def __lt__(self, other: Any) -> Any: return self.op("lt", self, other)
    def __le__(self, other: Any) -> Any: return self.op("le", self, other)
    def __gt__(self, other: Any) -> Any: return self.op("gt", self, other)
    def __ge__(self, other: Any) -> Any: return self.op("ge", self, other)
    def __iadd__(self, other: Any) -> Any: return self.op("iadd", self, other)
    def __ior__(self, other: Any) -> Any: return self.op("ior", self, other)
    def __getitem__(self, index: Any) -> Any: return self.op("getitem", self, index)
    def __setitem__(self, index: Any, value: Any) -> None: self.op("setitem", self, index, value)
    def __delitem__(self, index: Any) -> None: self.op("delitem", self, index)

    def __iter__(self) -> Any:
        raise RecordError("a traced value is iterated over natively")

    def save(self) -> Value:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *operands: self.op("." + name, self, *operands)


class Steps:
    """An open range of steps; the run has three."""

    def __enter__(self) -> Steps:
        raise RecordError("open steps were entered natively")

    def __exit__(self, *error: object) -> None:
        return None


class Data:
    """What `tracer.iter(collection)` gives."""

    def __init__(self, source: Any) -> None:
        self.source = source

    @property
    def _loop_source(self) -> Any:
        return self.source

    __enter__ = __exit__ = None  # type: ignore[assignment]


class Recorded:
    """Something whose attributes are recorded, as an envoy's."""


_PLAIN = (int, float, str, bool, type(None))


class Toy:
    """The emitter: a program is a list of (operation, number, operands); regions are lists in it."""

    def __init__(self) -> None:
        self.program: list[Any] = []
        self.stack: list[tuple[Any, ...]] = []
        self.count = 0
        self.inputs: dict[int, Any] = {}
        self.lifted: list[tuple[Any, Value]] = []
        self.values: list[Value] = []
        self.poisoned: BaseException | None = None
        self.printed: list[tuple[Any, ...]] = []
        self.saved: list[Any] = []
        self.merged: list[str] = []

    def new(self) -> Value:
        self.count += 1
        self.values.append(Value(self, self.count))
        return self.values[-1]

    def put(self, name: str, *operands: Any) -> Value:
        made = self.new()
        self.program.append((name, made.number, [freeze(operand) for operand in operands]))
        return made

    def input(self, value: Any) -> Value:
        made = self.new()
        self.inputs[made.number] = value
        return made

    # ------------------------------------------------------------------ the protocol

    def traced(self, value: Any) -> bool: return type(value) is Value
    def steps(self, value: Any, statement: str) -> bool: return type(value) is Steps
    def records(self, owner: Any) -> bool: return type(owner) is Recorded

    def recordable(self, value: Any) -> bool:
        if type(value) in (list, tuple):
            return all(map(self.recordable, value))
        return type(value) is Value or type(value) in _PLAIN

    def begin_if(self, test: Any) -> None:
        self.stack.append((self.program, test))
        self.program = []

    def begin_else(self) -> None:
        self.stack.append((self.program,))
        self.program = []

    def end_if(self, merges: Any) -> list[Any]:
        other, (then,), (self.program, test) = self.program, self.stack.pop(), self.stack.pop()
        made = [self.new() for _ in merges]
        self.merged += [name for name, _, _ in merges]
        pairs = [(freeze(a), freeze(b)) for _, a, b in merges]
        self.program.append(("if", freeze(test), then, other, pairs, [value.number for value in made]))
        return made

    def begin_loop(self, kind: str, source: Any, carried: Any) -> tuple[Any, list[Any]]:
        item, parameters = self.new(), [self.new() for _ in carried]
        numbers = [value.number for value in parameters]
        self.stack.append((self.program, kind, freeze(source), item.number, numbers, [freeze(value) for _, value in carried]))
        self.program = []
        return item, parameters

    def check_loop(self, test: Any, current: Any) -> None:
        self.program.append(("check", freeze(test), [freeze(value) for value in current]))

    def end_loop(self, leave: Any, following: Any) -> list[Any]:
        body, (self.program, *head) = self.program, self.stack.pop()
        results = [self.new() for _ in following]
        ends = [freeze(value) for value in following]
        self.program.append(("loop", *head, body, freeze(leave), ends, [value.number for value in results]))
        return results

    def call(self, name: str, /, *operands: Any, **keywords: Any) -> Any:
        if name == "unpack":
            return [self.put("getitem", operands[0], index) for index in range(operands[1])]
        return self.put(name, *operands)

    def lift(self, container: Any) -> Value:
        contents = list(container.items()) if type(container) is dict else list(container)
        made = self.put("make", type(container).__name__, [list(part) if isinstance(part, tuple) else part for part in contents])
        if not self.stack:
            self.lifted.append((container, made))
        return made

    def raise_(self, error: Any, *traced_parts: Any) -> None: self.program.append(("raise", error))
    def print_(self, *args: Any, **kwargs: Any) -> None: self.put("print", *args)
    def bound(self, name: str, value: Any) -> Any: return self.put("bound", name, value)
    def poison(self, error: BaseException) -> None: self.poisoned = self.poisoned or error

    def save(self, value: Any) -> Any:
        self.saved.append(value)
        return value

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        if self.poisoned is not None:
            raise self.poisoned
        values = dict(self.inputs)
        run_lines(self, self.program, values)
        for value in self.values:
            value.result = values.get(value.number, UNBOUND)
        for container, made in self.lifted:
            container.clear()
            container.extend(made.result) if isinstance(container, list) else container.update(made.result)


def freeze(value: Any) -> Any:
    """An operand: a reference, a list of operands, or a constant."""
    if type(value) is Value:
        return ("ref", value.number)
    if type(value) in (list, tuple):
        return ("list", type(value), [freeze(part) for part in value])
    return ("constant", value)


def thaw(operand: Any, values: dict[int, Any], unset: bool = False) -> Any:
    kind = operand[0]
    if kind == "list":
        return operand[1](thaw(part, values, unset) for part in operand[2])
    value = values[operand[1]] if kind == "ref" else operand[1]
    assert unset or value is not UNBOUND, "an unset value is used"
    return value


class Leave(Exception):
    pass


def run_lines(toy: Toy, program: list[Any], values: dict[int, Any]) -> None:
    for line in program:
        if line[0] == "if":
            _, test, then, other, merges, made = line
            taken = bool(thaw(test, values))
            inner = dict(values)  # what a region defines is seen in it alone
            run_lines(toy, then if taken else other, inner)
            values.update(zip(made, [thaw(pair[0 if taken else 1], inner, True) for pair in merges], strict=True))
        elif line[0] == "loop":
            run_loop(toy, line, values)
        elif line[0] == "raise":
            raise line[1]
        else:
            run_line(toy, line, values)


def run_loop(toy: Toy, line: Any, values: dict[int, Any]) -> None:
    _, kind, source, item, parameters, start, body, leave, ends, results = line
    carried = [thaw(operand, values, True) for operand in start]
    items = iter([None] * 10_000 if kind == "while" else range(3) if kind == "steps" else thaw(source, values))
    for one in items:
        inner = {**values, item: one, **dict(zip(parameters, carried, strict=True))}
        at = next((index for index, part in enumerate(body) if part[0] == "check"), -1)
        assert (at >= 0) == (kind == "while")
        if at >= 0:
            run_lines(toy, body[:at], inner)
            if not thaw(body[at][1], inner):
                carried = [thaw(operand, inner, True) for operand in body[at][2]]
                break
        run_lines(toy, body[at + 1 :], inner)
        carried = [thaw(operand, inner, True) for operand in ends]
        if thaw(leave, inner):
            break
    values.update(zip(results, carried, strict=True))


_FUNCTIONS: dict[str, Any] = {
    "not_": operator.not_,
    "truth": bool,
    "bool": bool,
    "is_": operator.is_,
    "or_": operator.or_,
    "and_": operator.and_,
    "contains": operator.contains,
    "range": lambda *parts: list(range(*parts)),
    "enumerate": lambda *parts: list(enumerate(*parts)),
    "zip": lambda *parts: list(zip(*parts, strict=False)),
    "reversed": lambda value: list(reversed(value)),
    "make": lambda kind, contents: {"list": list, "set": set, "dict": dict}[kind](contents),
}
_NAMED = (len, int, float, str, abs, min, max, sum, round, sorted, any, all, list, tuple, set)
_FUNCTIONS |= {function.__name__: function for function in _NAMED}


def run_line(toy: Toy, line: Any, values: dict[int, Any]) -> None:
    name, number, operands = line
    if name == "bound":
        if values[operands[1][1]] is UNBOUND:
            raise NameError(operands[0][1])
        values[number] = values[operands[1][1]]
        return
    parts = [thaw(operand, values) for operand in operands]
    if name == "print":
        toy.printed.append(tuple(parts))
        values[number] = None
    elif name.startswith("."):
        values[number] = getattr(parts[0], name[1:])(*parts[1:])
    else:
        values[number] = (_FUNCTIONS.get(name) or getattr(operator, name))(*parts)


# ---------------------------------------------------------------------- the block


class Trace:
    """`with Trace() as t:`; `t.rewritten` tells how the block ran."""

    def __init__(self, scan: bool = False, run: bool = True) -> None:
        self.toy = Toy()
        self.rewritten = False
        self.scan = scan
        self.runs = run
        self.block: Any = None
        self.steps = Steps()

    def input(self, value: Any) -> Value:
        return self.toy.input(value)

    def all(self) -> Steps:
        return Steps()

    def iter(self, source: Any) -> Data:
        return Data(source)

    def __enter__(self) -> Trace:
        self._enter(sys._getframe(1))
        return self

    def _enter(self, frame: Any) -> None:
        self.block = control.decide(frame, self.scan).block(frame)
        self.rewritten = self.block is not None
        if self.block is not None:
            self.block.arm()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        swallow = False
        if self.block is not None and self.block.skipped(error):
            self.block.run(self, self.toy)
            swallow, error = True, None
        if error is None and self.runs:
            self.toy.run()
        return swallow


class Deeper(Trace):
    """The same, some calls further down."""

    def __enter__(self) -> Trace:
        super().__enter__()
        return self

    def _enter(self, frame: Any) -> None:
        super()._enter(frame.f_back)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        return super().__exit__(kind, error, traceback)


def plain(value: Any) -> Any:
    """What a name means after the run: the value, UNBOUND if it has none."""
    if type(value) is Value:
        return value.result
    return type(value)(plain(part) for part in value) if type(value) in (list, tuple) else value
