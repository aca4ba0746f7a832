"""After a block: what was saved is handed over as the value it is, wherever the names of the block's frame reach.

A tensor gets a class that has ``value``; but not if it was there before the run, or belongs to what the model holds: a buffer, an
attribute, an input, a captured tensor, a cache. Mostly nobody but its proxy has it, as the number of references to it says; else all
of these are asked.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

from ..ops.saved_values import WITH_VALUE, SavedTensor
from .exchange.blocks import exchange, left
from .proxy import Proxy
from .settled import UNSET

_KINDS: frozenset[type] = frozenset((Proxy, *Proxy.__subclasses__()))
_SHARING = frozenset((tuple, list, dict))
"""Whose equal objects stay equal."""
_MOST = 10_000
_DEEP = 8
_set = object.__setattr__


def hand_over(
    frame: FrameType, offset: int | None, saved: dict[int, Proxy], refilled: tuple[tuple[Any, Any], ...], outside: tuple[Any, ...]
) -> None:
    """Exchange the saved proxies of a block that has ended for their values.

    Args:
        frame: The frame that left it.
        offset: The instruction with which it entered it; ``None`` if no ``with`` of its own did.
        saved: The proxies that were to be given a value, by node.
        refilled: Containers of the user's that the run has filled, which stay the objects that they were; and proxies that have the value
            of another one.
        outside: The constants of what was recorded, models, arguments: in them stand tensors that the run has not made.
    """
    proxy: Any
    given: list[Any] = []
    plain = not refilled
    for proxy in saved.values():
        value = proxy._value
        if value is not UNSET:
            given.append(proxy)
            if plain and (type(value) is not torch.Tensor or sys.getrefcount(value) > _ALONE):
                plain = type(value) not in _SHARING and (type(value) is not torch.Tensor or _is_alone(value))
    if refilled:
        given += [one for one, _ in refilled if type(one) in _KINDS and one._value is not UNSET and saved.get(one._index) is not one]
    proxy = value = None  # else they would be held here, too
    if given:
        exchange(frame, offset, _KINDS, _handed if plain and not left else _Values(given, refilled, outside).of, given)


def _is_alone(value: torch.Tensor) -> bool:
    """Whether only torch holds a tensor, beside one proxy and two lines here: once, for a graph of gradients or a view of it."""
    return sys.getrefcount(value) <= _ALONE + 2 + _OF_TORCH and value._use_count() > 1  # type: ignore[attr-defined]


def _handed(proxy: Any) -> Any:
    """What a proxy is exchanged for, after a block whose saved tensors nobody else has, and that saved no containers."""
    value = proxy._value
    kind = type(value)
    if kind is torch.Tensor:
        value.__class__ = SavedTensor
    elif kind in WITH_VALUE:
        value = WITH_VALUE[kind](value)
        _set(proxy, "_value", value)
    return proxy if value is UNSET else value


class _Values:
    """The values of one block: what proxies are exchanged for.

    Args:
        given: The proxies that it has given a value.
        refilled, outside: As for :func:`hand_over`.
    """

    def __init__(self, given: list[Proxy], refilled: tuple[tuple[Any, Any], ...], outside: tuple[Any, ...]) -> None:
        self._given, self._outside = given, outside
        self._sharing: dict[int, list[Proxy]] | None = None
        self._kept = {id(one) for one, _ in refilled if isinstance(one, (list, dict))}
        self._foreign: set[int] | None = None

    def of(self, proxy: Any) -> Any:
        """What a proxy is exchanged for; itself where it has no value."""
        value = proxy._value
        if type(value) is torch.Tensor:
            if sys.getrefcount(value) <= _ALONE or not self._is_foreign(value):
                value.__class__ = SavedTensor
        elif type(value) in WITH_VALUE and id(value) not in self._kept:
            kept = WITH_VALUE[type(value)](value)
            for one in self._with(value):
                _set(one, "_value", kept)
            _set(proxy, "_value", kept)
            return kept
        return proxy if value is UNSET else value

    def _with(self, value: Any) -> list[Proxy]:
        """The proxies whose value this is."""
        if self._sharing is None:
            self._sharing = {}
            for one in self._given:
                self._sharing.setdefault(id(one._value), []).append(one)
        return [one for one in self._sharing.get(id(value), ()) if one._value is value]

    def _is_foreign(self, tensor: torch.Tensor) -> bool:
        if self._foreign is None:
            self._foreign, seen = set[int](), set[int]()
            for one in self._outside:
                modules = one.modules() if isinstance(one, torch.nn.Module) else ()
                for part in (one, *[held for module in modules for held in vars(module).values()]):
                    _note(part, self._foreign, seen, True, 0)
                if one is self._outside[0]:  # a constant may be the value of a stand-in
                    self._foreign -= {id(proxy._value) for known in left.values() if (proxy := known()) is not None}
            for proxy in self._given:
                _note(proxy._value, self._foreign, seen, False, 0)
        return id(tensor) in self._foreign


def _note(value: Any, found: set[int], seen: set[int], counts: bool, depth: int) -> None:
    """Collect the identities of tensors in a value; where it does not count by itself, of those that objects in it hold."""
    if isinstance(value, torch.Tensor):
        if counts:
            found.add(id(value))
        return
    if depth > _DEEP or isinstance(value, (str, int, float, type, torch.nn.Module)) or id(value) in seen or len(seen) > _MOST:
        return
    seen.add(id(value))
    parts: Any = dict.values(value) if isinstance(value, dict) else value
    if not isinstance(value, (list, tuple, dict)):
        cells = getattr(value, "__closure__", None) or ()
        counts, parts = True, [cell.cell_contents for cell in cells] + list(getattr(value, "__dict__", {}).values())
    for part in list(parts)[:_MOST]:
        _note(part, found, seen, counts, depth + 1)


def _references() -> int:
    def of(proxy: Any) -> int:
        value = proxy._value
        return sys.getrefcount(value)

    return of(Proxy(None, 0, torch.empty(0)))  # type: ignore[arg-type]


def _torchs() -> int:
    tensor = torch.empty(0)
    before = sys.getrefcount(tensor)
    view = tensor[:]
    return sys.getrefcount(tensor) - before if view._is_view() else 0


_ALONE = _references()
_OF_TORCH = _torchs()
