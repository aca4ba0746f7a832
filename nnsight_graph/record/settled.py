"""A proxy after its trace: it stands for its value, or says why it has none."""

from __future__ import annotations

import copy
import dis
import operator
import sys
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any

import numpy
import torch

from ..errors import RecordError, UnsetValueError
from ..ops.saved_values import PLAIN_KIND
from ..source_location import is_users, locate
from .class_claim import asks_for_class, dispatches
from .control import BY_HAND, why_native

if TYPE_CHECKING:
    from .proxy import Proxy

UNSET: Any = type("Unset", (), {"__repr__": lambda _self: "<unset>"})()


def value_of(proxy: Proxy) -> Any:
    """The value a proxy stands for.

    Raises:
        UnsetValueError: it was not saved, or never reached.
    """
    value = proxy._value
    if value is not UNSET:
        return value
    trace = proxy._trace
    code, offset = proxy._place()
    at = locate((code, offset))
    if trace.open:
        reason = "the trace it belongs to has not run yet; use the value after the block, or record what you need of it"
    else:
        reason = trace.unset_reason(proxy._index)
    raise UnsetValueError(f"Accessing value before it's been set. {at.address} `{at.text}`: {reason}.")


def plain(value: Any) -> Any:
    """``value`` with every settled proxy in it replaced by what it stands for; numbers, texts and containers are of the plain types."""
    kind = PLAIN_KIND.get(type(value), type(value))
    if hasattr(kind, "_record_as_operand") and hasattr(kind, "_trace"):
        return value if value._trace.open else plain(value_of(value))
    if kind is tuple or kind is list:
        return kind(plain(item) for item in value)
    if kind is dict:
        return {key: plain(item) for key, item in value.items()}
    if kind is slice:
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    return value if type(value) is kind else kind(value)


_FUNCTIONS: dict[str, Callable[..., Any]] = {"divmod": divmod, "round": round}


def operate(name: str, *operands: Any) -> Any:
    """An operator on values, proxies among them."""
    function = _FUNCTIONS.get(name) or getattr(operator, name)
    return function(*map(plain, operands))


_ADVICE = {
    "bool": "whether a traced value is true is known only while the model runs. Use tracer.cond(value), or torch.where",
    "len": "the length of a traced value is known only while the model runs. Use .shape[0] as a value",
    "iter": "how many items a traced value has is unknown before the model runs. Use tracer.iter(value), index it, or write a, b = value",
    "int": "a traced value becomes a number only while the model runs. Go on with the value itself, or use nnsight_graph.int(value)",
    "contains": "membership in a traced value is known only while the model runs. Use (value == item).any()",
    "array": "a traced value becomes an array only while the model runs. Save it and convert it afterwards, or use nnsight_graph.apply",
    "format": "a traced value has no text yet. Use tracer.log to print it while the model runs, or save it",
    "copy": "a traced value cannot be copied or pickled before it is there. Use .clone(), or save it",
    "hash": "a traced value is no key of a plain dict, and no item of a set: which one it equals is known only while the model runs. "
    "Index a list, or put the decision into a function of your own: nnsight_graph.apply(function, value)",
    "index": "a traced value is no index of a plain list or a range: it is known only while the model runs. Index tensors with it",
}


METADATA = frozenset(("shape", "dtype", "device", "ndim", "layout", "is_cuda", "itemsize", "nbytes"))
"""Attributes of a tensor that its shape, dtype and device decide."""

_TOLD = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, torch.layout))
_MEASURED = frozenset(("bool", "len", "int", "index", "contains", "format"))
_CONTROL = frozenset(("bool", "len", "iter", "int", "contains"))


def settled(proxy: Proxy, wish: str) -> Any:
    """The value behind a proxy, for something that Python asks at once; refused while the trace is open."""
    if not proxy._trace.open:
        return value_of(proxy)
    known, value = measured(proxy) if wish in _MEASURED else (False, "")
    if known and (wish == "len" or not _is_tensor(value)):
        _assume(proxy, value)
        return value
    raise RecordError(_advice(wish, sys._getframe(2), "" if known else value, proxy._trace.begun is not None))


def _advice(wish: str, frame: Any, reason: str = "", by_hand: bool = False) -> str:
    """What to write instead; why the control flow that asked could not be recorded as it stands; why shapes do not tell."""
    why = (BY_HAND if by_hand else why_native(frame)) if wish in _CONTROL else ""
    text = f"{_ADVICE[wish]}." + (f" Python's own form was not recorded, because {why}." if why else "")
    return text + (f" Shapes alone do not tell it: {reason}." if reason else "")


def measured(proxy: Proxy) -> tuple[bool, Any]:
    """What shapes alone tell of a value that is not there yet."""
    observer = proxy._trace.observer
    return (False, "") if observer is None else observer.measure(_numbered(proxy))


def _assume(proxy: Proxy, value: Any) -> None:
    """Write down what Python was told of a value: the program holds only where that is so."""
    trace = proxy._trace
    number = _numbered(proxy)
    what = (number, len(value) if _holds(value) else repr(value))
    if what in trace.assumed or isinstance(value, torch.device):  # which a program may change with its model
        return
    if not (trace.regions or trace.depth):  # what stands in a branch or a loop may not be reached
        trace.assumed = trace.assumed or set()  # not the class's
        trace.assumed.add(what)
    if _holds(value):
        number, value = trace.put(("len", number), sys._getframe(2)), len(value)
    trace.add("assume", (type(proxy)(trace, number), value), depth=3)


def _numbered(proxy: Proxy) -> int:
    """The node of a proxy; a method that was not called has none."""
    return int(proxy._record_as_operand(proxy._trace)) if proxy._index < 0 else proxy._index


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _holds(value: Any) -> bool:
    """Whether a value has items of which not all are known yet, or that ``==`` cannot compare: its length is what can be told."""
    if isinstance(value, (tuple, list)):
        return not all(type(item) in _TOLD or (isinstance(item, (tuple, list)) and not _holds(item)) for item in value)
    return isinstance(value, (torch.Tensor, KeysView, ValuesView, ItemsView))


def is_metadata(entries: list[tuple[Any, ...]], index: int) -> bool:
    """Whether a node is a shape, a dtype ... or an item of one."""
    target, *operands = entries[index]
    if target == "getitem":
        return type(operands[0]) is int and is_metadata(entries, operands[0])
    return target[:1] == "@" and target[1:] in METADATA


def measured_or_itself(proxy: Proxy) -> Any:
    """What a proxy stands for, if shapes tell it; else the proxy."""
    known, value = measured(proxy)
    if known and not _is_tensor(value):
        _assume(proxy, value)
    return value if known else proxy


def claimed(proxy: Proxy, frame: Any) -> type | None:
    """The class that an open proxy claims to have where the user's own code, or einops, asks; ``None`` where nothing is known."""
    if not proxy._trace.open:
        return None
    if dispatches(frame):
        known, value = measured(proxy)
        return torch.Tensor if not known or _is_tensor(value) else None
    if not is_users(frame.f_code) or not asks_for_class(frame):
        return None
    known, value = measured(proxy)
    return None if not known else torch.Tensor if _is_tensor(value) else type(value)


def hash_of(proxy: Proxy) -> int:
    """What a dict or a set knows a value by."""
    if proxy._trace.open:
        known, value = measured(proxy)
        if known and not _is_tensor(value):
            _assume(proxy, value)
            return hash(value)
        raise RecordError(_ADVICE["hash"] + ".")
    return object.__hash__(proxy) if proxy._value is UNSET else hash(proxy._value)


def iterate(proxy: Proxy, frame: Any) -> Iterator[Any]:
    """The items of a proxy: of its value, or, while the trace is open, as many as an unpacking asks for."""
    if not proxy._trace.open:
        return iter(value_of(proxy))
    count = _unpacked_into(frame)
    if count is None:
        known, items = items_of(proxy)
        if not known:
            raise RecordError(_advice("iter", frame, items, proxy._trace.begun is not None))
        return iter(items)
    index = proxy._trace.add("unpack", (proxy, count), depth=3)
    items = type(proxy)(proxy._trace, index)
    return iter(parts_of(proxy, [proxy._trace.proxy("getitem", (items, position), depth=3) for position in range(count)]))


def parts_of(whole: Any, parts: list[Any]) -> list[Any]:
    """The parts that a value is unpacked into; they are saved if it was."""
    for place, part in enumerate(parts if whole._index in whole._trace.saved else ()):
        if hasattr(type(part), "_trace"):
            whole._trace.parts = {**whole._trace.parts, part._index: f".{place}"}
            part.save()
    return parts


def items_of(proxy: Proxy) -> tuple[bool, Any]:
    """``(True, items)`` of an open proxy, if shapes tell how many there are; else ``(False, why not)``."""
    known, value = measured(proxy)
    if not known:
        return False, value
    if isinstance(value, (KeysView, ValuesView, ItemsView)):
        proxy, value = proxy._trace.proxy("list", (proxy,), depth=4), list(value)
    _assume(proxy, value)
    if not _holds(value):
        return True, value
    return True, parts_of(proxy, [proxy._trace.proxy("getitem", (proxy, place), depth=4) for place in range(len(value))])


def _unpacked_into(frame: Any) -> int | None:
    """How many names ``a, b = value`` assigns, read from the instruction that asks for an iterator."""
    code = frame.f_code.co_code
    at = frame.f_lasti
    if dis.opname[code[at]] != "UNPACK_SEQUENCE" and at + 2 < len(code) and dis.opname[code[at + 2]] == "UNPACK_SEQUENCE":
        at += 2
    name = dis.opname[code[at]]
    return code[at + 1] if name.startswith("UNPACK_SEQUENCE") else None


UFUNCS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv", "true_divide": "truediv", "floor_divide": "floordiv",
    "remainder": "mod", "power": "pow", "matmul": "matmul", "bitwise_and": "and_", "bitwise_or": "or_", "bitwise_xor": "xor",
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
}  # fmt: skip
"""How numpy names the operators of its arrays and numbers."""

MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
"""Comparisons with their sides exchanged."""


def call_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A numpy function on settled proxies."""
    return getattr(ufunc, method)(*map(plain, inputs), **{name: plain(value) for name, value in kwargs.items()})


def as_array(proxy: Proxy, dtype: Any) -> Any:
    """The value as a numpy array."""
    value = settled(proxy, "array")
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else numpy.asarray(value)
    return array if dtype is None else array.astype(dtype)


def duplicate(proxy: Proxy, memo: dict[int, Any] | None) -> Any:
    """A copy of the value behind a proxy."""
    value = settled(proxy, "copy")
    return copy.copy(value) if memo is None else copy.deepcopy(value, memo)
