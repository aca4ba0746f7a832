# ruff: noqa: E704
"""A value that is not there yet: every operation on it is written down; after the trace it stands for its value."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import numpy
import torch

from ..source_location import Place
from .class_claim import asks_for_class, dispatches
from .elsewhere import local
from .gradients import Backward, read_gradient, retain, write_gradient
from .looking import asker, attribute_of_value, looks, printed, private, shown
from .name import Name
from .operators import Operators
from .recorder import Recorder, holds_proxy, recording_here
from .saving import Saving
from .settled import (
    METADATA,
    MIRRORED,
    UFUNCS,
    UNSET,
    as_array,
    call_ufunc,
    claimed,
    duplicate,
    hash_of,
    iterate,
    measured_or_itself,
    plain,
    settled,
    value_of,
)  # fmt: skip
from .torch_calls import record_call


class Proxy(Operators, msgspec.Struct, eq=False, weakref=True):  # a struct is made in a fifth of the time of a plain class
    """Stands for a value of a traced run.

    While the trace is written, operators, indexing, attributes, methods and torch functions on it are recorded. After
    it, a saved proxy stands for its value under the same operations, under ``print``, ``len``, ``isinstance``,
    ``numpy.asarray`` and iteration; :attr:`value` is the value itself.
    """

    _trace: Recorder
    _index: int
    _value: Any = UNSET

    # ------------------------------------------------------------------ values

    @property
    def save(self) -> Saving:
        """``value.save()`` keeps the value beyond the trace, and returns it; ``.save(name="...")`` names it where the graph is run again.

        Raises:
            RecordError: the trace is over.
        """
        return Saving(self)

    @property
    def value(self) -> Any:
        """The value itself, after the trace.

        Raises:
            UnsetValueError: it was not saved, or never reached; with line and reason.
        """
        return value_of(self)

    def _place(self) -> Place:
        place: Place = self._trace.places[self._index]
        return place

    def _record_as_operand(self, recorder: Recorder) -> Any:
        return self._index if self._trace is recorder else recorder.operand(self)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the value, once there is one, for Python code that asks: ``isinstance(x, torch.Tensor)`` holds after the trace."""
        frame = sys._getframe(1)
        if self._value is UNSET:
            return claimed(self, frame) or Proxy
        return type(self._value) if asks_for_class(frame) else Proxy

    def __hash__(self) -> int:
        return hash_of(self)

    def __repr__(self) -> str:
        return shown(self)

    def __str__(self) -> str:
        return printed(self)

    def __format__(self, spec: str) -> str:
        return format(settled(self, "format"), spec)

    # ------------------------------------------------------------------ attributes, calls, items

    def __getattr__(self, name: str) -> Any:
        trace = self._trace
        if not trace.open:
            return attribute_of_value(self, name)
        if name[0] == "_":
            raise private(name)
        frame = sys._getframe(1)
        if asker(frame) != name and looks(self, name, frame):
            return Attribute(trace, -1, UNSET, self, name)
        if name == "grad":
            return read_gradient(self)
        operand = self._index if type(self) is Proxy else self._record_as_operand(trace)
        made = Attribute(trace, trace.put(("@" + name, operand), sys._getframe(1)), UNSET, self, name)
        if name in METADATA:
            if trace.scanned is not None:
                return trace.scanned(made)
            if name == "shape" and dispatches(sys._getframe(1)):
                return measured_or_itself(made)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._trace.open:
            setattr(value_of(self), name, plain(value))
            return
        if name == "grad":
            write_gradient(self, value)
            return
        self._trace.refuse_edit(self)
        self._trace.add("setattr", (self, name, value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._trace.open:
            return value_of(self)(*plain(args), **plain(kwargs))
        return self._trace.proxy("call", (self, Name("mutates:"), *args), kwargs)

    def __getitem__(self, index: Any) -> Any:
        if not self._trace.open:
            here = recording_here()
            if here is not None and holds_proxy((index,), Proxy):
                return here.proxy("getitem", (self, index))
            return value_of(self)[plain(index)]
        made = self._trace.proxy("getitem", (self, index))
        return size_of(made) if type(self) is not Proxy and type(index) is int and self._gives_sizes() else made

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self._trace.open:
            here = recording_here()
            if here is not None and holds_proxy((index, value), Proxy):
                here.add("setitem", (value_of(self), index, value))
            else:
                value_of(self)[plain(index)] = plain(value)
            return
        self._trace.refuse_edit(self)
        self._trace.add("setitem", (self, index, value))

    def __delitem__(self, index: Any) -> None:
        if not self._trace.open:
            del value_of(self)[plain(index)]
            return
        self._trace.add("delitem", (self, index))

    @classmethod
    def __torch_function__(cls, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if recording_here() is None:
            return function(*plain(args), **plain(kwargs or {}))
        return record_call(function, args, kwargs or {})

    # ------------------------------------------------------------------ what Python wants at once

    def __bool__(self) -> bool:
        return bool(settled(self, "bool"))

    def __len__(self) -> int:
        return len(settled(self, "len"))

    def __iter__(self) -> Any:
        items = iterate(self, sys._getframe(1))
        return map(size_of, items) if self._trace.open and self._gives_sizes() else items

    def _gives_sizes(self) -> bool:
        """Whether it is the shape of a traced value."""
        return self._index >= 0 and self._trace.entries[self._index][0] in ("@shape", ".size")

    def __contains__(self, item: Any) -> bool:
        return plain(item) in settled(self, "contains")

    def __int__(self) -> int:
        return int(settled(self, "int"))

    def __float__(self) -> float:
        return float(settled(self, "int"))

    def __complex__(self) -> complex:
        return complex(settled(self, "int"))

    def __index__(self) -> int:
        return int(settled(self, "index").__index__())

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return as_array(self, dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        here = recording_here()
        if here is not None and method == "__call__" and not kwargs and ufunc.__name__ in UFUNCS:
            name = UFUNCS[ufunc.__name__]
            inputs = tuple(item.item() if isinstance(item, numpy.ndarray) and not item.ndim else item for item in inputs)
            if name in MIRRORED and not isinstance(inputs[0], Proxy):
                return here.proxy(MIRRORED[name], inputs[::-1])
            return here.proxy(name, inputs)
        if self._trace.open:
            function = ufunc if method == "__call__" else getattr(ufunc, method)
            return self._trace.proxy("call", (function, Name("mutates:"), *inputs), kwargs)
        return call_ufunc(ufunc, method, inputs, kwargs)

    def __copy__(self) -> Any:
        return duplicate(self, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return duplicate(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        value = settled(self, "copy")  # what is pickled is the value: it can be read where this library is not
        return value.__reduce_ex__(protocol) if isinstance(value, torch.Tensor) else (_KINDS.get(type(value), _itself), (value,))

    def __dir__(self) -> list[str]:
        return dir(torch.Tensor) if self._value is UNSET else dir(self._value)


class Attribute(Proxy, eq=False):
    """An attribute of a traced value; calling it records the method's call in its place."""

    _base: Any = None
    _name: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trace = self._trace
        if not trace.open:
            return super().__call__(*args, **kwargs)
        if self._name == "stop":
            self._take_back(trace)
            trace.add("stop", (self._base,))
            return None
        if self._name == "local":
            local()
        if self._name == "backward":
            return self._backward(trace, args, kwargs)
        if self._name.endswith("_") or self._name in _CHANGES:
            trace.refuse_edit(self._base)
        if self._name == "retain_grad":
            retain(self._base)
        if self._index == len(trace.entries) - 1 and trace.entries[-1][0][0] == "@":
            return self._take_the_place(trace, args, kwargs)
        elif self._index >= 0:
            trace.entries[self._index] = ("bound", self._base._index, self._name)
        return trace.proxy("." + self._name, (self._base, *args), kwargs)

    def _backward(self, trace: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Backward:
        self._take_back(trace)
        return Backward(trace, self._base, args, kwargs, 2)

    def _take_back(self, trace: Recorder) -> None:
        """The attribute itself is no line of the program."""
        if self._index == len(trace.entries) - 1 and trace.entries[-1][0][0] == "@":
            trace.entries.pop()
            trace.places.pop()
            _set(self, "_index", -1)

    def _take_the_place(self, trace: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The attribute is the last entry: the call is written over it."""
        index, target = self._index, "." + self._name
        _set(self, "_index", -1)
        if args or kwargs:
            operand = trace.entries.pop()[1]
            trace.places.pop()
            return trace.proxy(target, (Proxy(trace, operand), *args), kwargs, depth=3)
        trace.entries[-1] = (target, trace.entries[-1][1])
        made = Proxy(trace, index)
        return made if trace.scanned is None else trace.scanned(made)

    def _record_as_operand(self, recorder: Recorder) -> Any:
        if self._index < 0 and recorder is self._trace:
            _set(self, "_index", recorder.add("@" + self._name, (self._base,)))
        return super()._record_as_operand(recorder)


_CHANGES = frozenset("append extend insert pop remove clear update add discard setdefault popitem sort reverse".split())


class Size(Proxy, eq=False):
    """A size of a traced tensor: torch takes it wherever it takes a number, as in ``torch.zeros(rows, tokens)``."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """While the trace is written, a symbolic number to torch, which hands such a number to the recorder as it is."""
        if self._value is not UNSET or not self._trace.open:
            return type(self._value) if self._value is not UNSET and asks_for_class(sys._getframe(1)) else Proxy
        return claimed(self, sys._getframe(1)) or torch.SymInt

    def __neg__(self) -> Any: return _sized(super().__neg__(), 0)
    def __add__(self, other: Any) -> Any: return _sized(super().__add__(other), other)
    def __sub__(self, other: Any) -> Any: return _sized(super().__sub__(other), other)
    def __mul__(self, other: Any) -> Any: return _sized(super().__mul__(other), other)
    def __floordiv__(self, other: Any) -> Any: return _sized(super().__floordiv__(other), other)
    def __mod__(self, other: Any) -> Any: return _sized(super().__mod__(other), other)
    def __radd__(self, other: Any) -> Any: return _sized(super().__radd__(other), other)
    def __rsub__(self, other: Any) -> Any: return _sized(super().__rsub__(other), other)
    def __rmul__(self, other: Any) -> Any: return _sized(super().__rmul__(other), other)
    def __rfloordiv__(self, other: Any) -> Any: return _sized(super().__rfloordiv__(other), other)
    def __rmod__(self, other: Any) -> Any: return _sized(super().__rmod__(other), other)


def _sized(made: Any, other: Any) -> Any:
    """The result of arithmetic with a size and another number: a size as well, if that is a whole one."""
    return size_of(made) if type(other) in (int, Size) else made


def size_of(made: Any) -> Any:
    """A recorded number that is known to be the size of a tensor."""
    if type(made) is not Proxy or not made._trace.open:
        return made
    size = Size(made._trace, made._index)
    if made._index in made._trace.saved:
        made._trace.saved[made._index] = size
    return size


_KINDS: dict[type, Any] = {kind: kind for kind in (int, float, str, bytes, tuple, list, dict, set, complex, torch.Size)}


def _itself(value: Any) -> Any:
    return value


_set = object.__setattr__
Recorder.make = Proxy
