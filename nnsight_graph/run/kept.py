"""What was there before a run, and stays when it ends: the tensors that a model, its classes and its caller hold."""

from __future__ import annotations

import functools
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy
import torch

from ..ops.nested import storage_of

_EMPTY = frozenset(
    (
        type(None), bool, int, float, complex, str, bytes, type(...), range, type, torch.dtype, torch.device, torch.Size,
        FunctionType, BuiltinFunctionType, ModuleType, property, classmethod, staticmethod,
    )
)  # fmt: skip
_OF_OTHERS = (sys.stdlib_module_names | {"torch", "numpy", "tokenizers"}) - {"__main__"}


class Kept:
    """The tensors, and arrays, that something holds now, wherever they stand in it.

    Args:
        held: Modules, containers, objects.

    Example:
        >>> table, other = torch.ones(2), torch.ones(2)
        >>> kept = Kept({"inner": [table]})
        >>> table[1:] in kept, other in kept
        (True, False)
    """

    __slots__ = ("_found",)

    def __init__(self, *held: Any) -> None:
        self._found: dict[int, list[weakref.ref[Any]]] = {}
        for value in _walk(held):
            if address := _address(value):
                self._found.setdefault(address, []).append(weakref.ref(value))

    def __contains__(self, tensor: torch.Tensor) -> bool:
        """Whether it lies on the storage of one that is still alive: the address of a dead one may be another's by now."""
        known = self._found.get(storage_of(tensor), ())
        return any((other := reference()) is not None and _address(other) == storage_of(tensor) for reference in known)


def _address(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return storage_of(value)
    address: int = value.__array_interface__["data"][0]
    return address


def _walk(held: Iterable[Any]) -> Iterator[Any]:
    """The tensors and arrays in values, each object once."""
    seen: set[int] = set()
    ahead = list(held)
    while ahead:
        value = ahead.pop()
        kind = type(value)
        if kind in _EMPTY or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (torch.Tensor, numpy.ndarray)):
            yield value
        if isinstance(value, dict):
            ahead += [item for item in value.values() if type(item) not in _EMPTY]
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            ahead += [item for item in value if type(item) not in _EMPTY]
        elif kind is MethodType:
            ahead.append(value.__self__)
        elif kind is functools.partial:
            ahead += (value.func, value.args, value.keywords)
        elif issubclass(kind, (torch.nn.Module, torch.Tensor)) or kind.__module__.partition(".")[0] not in _OF_OTHERS:
            ahead += _fields(value, kind)
            if id(kind) not in seen:
                seen.add(id(kind))
                ahead += _of_class(kind)


def _fields(value: Any, kind: type) -> list[Any]:
    found = list(getattr(value, "__dict__", {}).values())
    for each in kind.__mro__:
        names = each.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            slot: Any = each.__dict__.get(name)
            if type(slot) is _SLOT:
                try:
                    found.append(slot.__get__(value))
                except AttributeError:  # nothing is there
                    continue
    return found


class _Slotted:
    __slots__ = ("slot",)


_SLOT: Any = type(_Slotted.__dict__["slot"])


def _of_class(kind: type) -> list[Any]:
    """What classes hold, and the tensors among the globals of their modules."""
    found: list[Any] = []
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] in _OF_OTHERS:
            continue
        found += [value for value in vars(each).values() if type(value) not in _EMPTY]
        space = vars(sys.modules.get(each.__module__, ModuleType("")))
        found += [value for value in space.values() if isinstance(value, torch.Tensor)]
    return found


@contextmanager
def gradients_kept(module: torch.nn.Module, others: Iterable[torch.Tensor] = ()) -> Iterator[None]:
    """What backward passes leave in ``.grad`` of parameters, and of others, is gone afterwards, and what was there before is again."""
    before = [(parameter, parameter.grad) for parameter in (*module.parameters(), *others)]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
