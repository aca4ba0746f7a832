# ruff: noqa: E704
"""The operators of a traced value, written out: while a trace is open each becomes an entry, afterwards it acts on values."""

from __future__ import annotations

import sys
from typing import Any

from ..source_location import is_users, known_users, user_place
from .recorder import Recorder, _autocast, _inference, holds_proxy, recording_here
from .settled import operate


def binary(target: str, left: Any, right: Any) -> Any:
    """Record a binary operator: the shortest way from a line to an entry."""
    trace = left._trace
    if not trace.open:
        return later(target, left, right)
    kind = type(right)
    if kind is trace.make and right._trace is trace:
        operand = right._index
    elif kind is float or kind is int:
        trace.indices.append(len(trace.constants))
        trace.constants.append(right)
        operand = kind
    else:
        operand = trace.encode(right)
    return _written(trace, (target, _number(left), operand))


def reflected(target: str, right: Any, left: Any) -> Any:
    """Record a binary operator whose left operand is no proxy."""
    trace = right._trace
    if not trace.open:
        return later(target, left, right)
    return _written(trace, (target, trace.encode(left), _number(right)))


def in_place(target: str, left: Any, right: Any) -> Any:
    """Record an augmented assignment."""
    trace = left._trace
    if not trace.open:
        result = later(target, left, right)
        if isinstance(result, type(left)):
            return result
        object.__setattr__(left, "_value", result)
        return left
    trace.refuse_edit(left)
    made = _written(trace, (target, _number(left), trace.encode(right)))
    if left._index in trace.saved:  # the name that was saved now names the result
        trace.saved[made._index] = made
        trace.put(("save", made._index), sys._getframe(2))
    return made


def _number(operand: Any) -> Any:
    """The node of an operand; that of an attribute which was only looked at comes now."""
    return operand._index if operand._index >= 0 else operand._record_as_operand(operand._trace)


def later(target: str, *operands: Any) -> Any:
    """An operator on values of a trace that is over: done at once, or part of the trace that is open now."""
    trace = recording_here()
    if trace is not None and holds_proxy([operand for operand in operands if getattr(operand, "_trace", None) is trace], trace.make):
        return trace.proxy(target, operands, depth=4)
    return operate(target, *operands)


def _written(trace: Recorder, entry: tuple[Any, ...]) -> Any:
    frame = sys._getframe(3)
    code = frame.f_code
    place = (code, frame.f_lasti) if known_users.get(code.co_filename) or is_users(code) else user_place(frame)
    if trace.grad_changed or trace.modes or trace.around or _autocast() or _inference() is not trace.inference:
        trace.note_modes(place)
    trace.places.append(place)
    entries = trace.entries
    made = trace.make(trace, len(entries))
    entries.append(entry)
    return made


def unary(target: str, operand: Any) -> Any:
    """Record an operator of one operand."""
    if not operand._trace.open:
        return operate(target, operand)
    return _written(operand._trace, (target, _number(operand)))


class Operators:
    """Python's operators for :class:`~nnsight_graph.record.proxy.Proxy`."""

    __slots__ = ()
    __hash__ = object.__hash__
    _trace: Recorder

    def __neg__(self) -> Any: return unary("neg", self)
    def __pos__(self) -> Any: return unary("pos", self)
    def __invert__(self) -> Any: return unary("invert", self)
    def __abs__(self) -> Any: return unary("abs", self)
    def __round__(self, digits: Any = None) -> Any: return binary("round", self, digits)
    def __divmod__(self, other: Any) -> Any: return binary("divmod", self, other)
    def __rdivmod__(self, other: Any) -> Any: return reflected("divmod", self, other)
    def __add__(self, other: Any) -> Any: return binary("add", self, other)
    def __sub__(self, other: Any) -> Any: return binary("sub", self, other)
    def __mul__(self, other: Any) -> Any: return binary("mul", self, other)
    def __truediv__(self, other: Any) -> Any: return binary("truediv", self, other)
    def __floordiv__(self, other: Any) -> Any: return binary("floordiv", self, other)
    def __mod__(self, other: Any) -> Any: return binary("mod", self, other)
    def __pow__(self, other: Any) -> Any: return binary("pow", self, other)
    def __matmul__(self, other: Any) -> Any: return binary("matmul", self, other)
    def __and__(self, other: Any) -> Any: return binary("and_", self, other)
    def __or__(self, other: Any) -> Any: return binary("or_", self, other)
    def __xor__(self, other: Any) -> Any: return binary("xor", self, other)
    def __lshift__(self, other: Any) -> Any: return binary("lshift", self, other)
    def __rshift__(self, other: Any) -> Any: return binary("rshift", self, other)
    def __radd__(self, other: Any) -> Any: return reflected("add", self, other)
    def __rsub__(self, other: Any) -> Any: return reflected("sub", self, other)
    def __rmul__(self, other: Any) -> Any: return reflected("mul", self, other)
    def __rtruediv__(self, other: Any) -> Any: return reflected("truediv", self, other)
    def __rfloordiv__(self, other: Any) -> Any: return reflected("floordiv", self, other)
    def __rmod__(self, other: Any) -> Any: return reflected("mod", self, other)
    def __rpow__(self, other: Any) -> Any: return reflected("pow", self, other)
    def __rmatmul__(self, other: Any) -> Any: return reflected("matmul", self, other)
    def __rand__(self, other: Any) -> Any: return reflected("and_", self, other)
    def __ror__(self, other: Any) -> Any: return reflected("or_", self, other)
    def __rxor__(self, other: Any) -> Any: return reflected("xor", self, other)
    def __rlshift__(self, other: Any) -> Any: return reflected("lshift", self, other)
    def __rrshift__(self, other: Any) -> Any: return reflected("rshift", self, other)
    def __iadd__(self, other: Any) -> Any: return in_place("iadd", self, other)
    def __isub__(self, other: Any) -> Any: return in_place("isub", self, other)
    def __imul__(self, other: Any) -> Any: return in_place("imul", self, other)
    def __itruediv__(self, other: Any) -> Any: return in_place("itruediv", self, other)
    def __ifloordiv__(self, other: Any) -> Any: return in_place("ifloordiv", self, other)
    def __imod__(self, other: Any) -> Any: return in_place("imod", self, other)
    def __ipow__(self, other: Any) -> Any: return in_place("ipow", self, other)
    def __imatmul__(self, other: Any) -> Any: return in_place("imatmul", self, other)
    def __iand__(self, other: Any) -> Any: return in_place("iand", self, other)
    def __ior__(self, other: Any) -> Any: return in_place("ior", self, other)
    def __ixor__(self, other: Any) -> Any: return in_place("ixor", self, other)
    def __ilshift__(self, other: Any) -> Any: return in_place("ilshift", self, other)
    def __irshift__(self, other: Any) -> Any: return in_place("irshift", self, other)
    def __eq__(self, other: Any) -> Any: return binary("eq", self, other)
    def __ne__(self, other: Any) -> Any: return binary("ne", self, other)
    def __lt__(self, other: Any) -> Any: return binary("lt", self, other)
    def __le__(self, other: Any) -> Any: return binary("le", self, other)
    def __gt__(self, other: Any) -> Any: return binary("gt", self, other)
    def __ge__(self, other: Any) -> Any: return binary("ge", self, other)
