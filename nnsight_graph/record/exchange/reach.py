"""Containers that names reach, and what stands in them: walked breadth first, by the built-in types' own methods."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ...source_location import is_users
from .frames import change_items
from .named import names_in
from .plain_objects import attributes, hashes_plainly, is_plain, slots

_MOST = 10_000
"""How many objects are looked at."""

_CHUNK = 64
_DEEP = 50
_LEAVES = frozenset((
    type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type(...), type, ModuleType, CodeType, BuiltinFunctionType,
))  # fmt: skip
_CONTAINERS = ("builtins", "collections", "nnsight_graph.ops.saved_values")


class Reach:
    """One walk.

    Args:
        kinds: The types of proxies.
        value: Gives the value of one; itself where there is none, or it is not to be exchanged.
        wanted: Proxies to be found. When nobody holds any of them any more, the walk is over.
    """

    def __init__(self, kinds: frozenset[type], value: Callable[[Any], Any], wanted: list[Any]) -> None:
        self._kinds, self._value, self._wanted = kinds, value, wanted
        self._seen: dict[int, tuple[Any, Any]] = {}  # by identity: the object, which so keeps it, and what stands for it
        self._replaced: list[Any] = []  # tuples, and frozen sets, in whose place others stand
        self._kept: dict[int, int] = {}  # how often proxies, and such tuples, stand in these
        self._waiting: deque[tuple[Any, ...]] = deque()  # methods, and what they are given
        self._hit = False
        self._looked = 0

    def renew(self, value: Any, depth: int = 0) -> Any:
        """What shall stand in place of a value; if that is a container, it will be walked."""
        kind = type(value)
        if kind in self._kinds:
            new = self._value(value)
            self._hit = self._hit or new is not value
            return new
        if kind in _LEAVES:
            return value
        known = self._seen.get(id(value))
        if known is not None:
            return known[1]
        made = value
        if issubclass(kind, (tuple, frozenset)):
            made = self._rebuilt(value, kind, depth)
        elif kind is MethodType:
            self.renew((value.__self__, value.__func__))
        elif kind is FunctionType:
            self._waiting.append((self._renew_function, value))
        elif is_plain(kind) or kind.__module__ in _CONTAINERS:
            base = next((one for one in _WALKS if issubclass(kind, one)), None)
            if base is not None:
                self._waiting.append((_WALKS[base], self, value, base))
            if is_plain(kind):
                self._waiting.append((self._renew_object, value, kind))
        self._seen[id(value)] = value, made
        return made

    def run(self) -> None:
        """Walk, until nothing is left to be found or enough has been looked at."""
        while self._waiting and self._looked < _MOST:
            look, *given = self._waiting.popleft()
            self._looked += 1
            with suppress(RuntimeError, IndexError):  # another thread changes it
                look(*given)
            del given
            if self._hit and not self.is_left():
                return

    def is_left(self) -> bool:
        """Whether a proxy is still held anywhere else, or a tuple that has held one."""
        self._hit = False
        self._wanted = still_held(self._wanted, self._kept)
        return bool(self._wanted or still_held(self._replaced, self._kept))

    # ------------------------------------------------------------------ what cannot be changed

    def _rebuilt(self, value: Any, kind: type, depth: int) -> Any:
        """A tuple, or a frozen set, with values in place of proxies; the same one if there are none."""
        if depth > _DEEP or (kind not in (tuple, frozenset) and not ("_fields" in vars(kind) and attributes(value) is None)):
            return value
        items = list(tuple.__iter__(value) if issubclass(kind, tuple) else value)
        self._looked += len(items)
        new = items if len(items) > _MOST or _LEAVES.issuperset(map(type, items)) else [self.renew(item, depth + 1) for item in items]
        if all(map(_is, items, new)):
            return value
        made: Any = _fresh(items, new) if kind is frozenset else new
        if made is None:
            return value
        made = kind(made) if kind is frozenset else tuple.__new__(kind, made)
        for item, other in zip(items, new, strict=True):
            if item is not other:
                self._kept[id(item)] = self._kept.get(id(item), 0) + 1
        self._replaced.append(value)
        return made

    # ------------------------------------------------------------------ what can

    def _renew_list(self, owner: Any, kind: Any, start: int = 0) -> None:
        """Some items of a list, the newest first; more of them later."""
        end = kind.__len__(owner) - start
        first = max(end - _CHUNK, 0)
        chunk = [kind.__getitem__(owner, place) for place in range(first, end)]
        self._looked += len(chunk)
        if not _LEAVES.issuperset(map(type, chunk)):
            for place, item in enumerate(chunk, first):
                new = self.renew(item)
                if new is not item and kind.__getitem__(owner, place) is item:
                    kind.__setitem__(owner, place, new)
        if first:
            self._waiting.append((self._renew_list, owner, kind, start + _CHUNK))

    def _renew_dict(self, owner: dict[Any, Any], kind: Any) -> None:
        pairs = list(islice(reversed(dict.items(owner)), _MOST))
        self._looked += len(pairs)
        has_keys = False
        for key, item in pairs:
            if type(key) in self._kinds or (type(key) in (tuple, frozenset) and self.renew(key) is not key):
                has_keys = True
                continue
            new = self.renew(item)
            if new is not item and hashes_plainly(key) and dict.get(owner, key) is item:
                kind.__setitem__(owner, key, new)
        if has_keys:
            pairs = list(dict.items(owner))
            keys = [self.renew(key) for key, _ in pairs]
            if _fresh([key for key, _ in pairs], keys) is not None:
                made = {key: self.renew(value) for key, (_, value) in zip(keys, pairs, strict=True)}
                kind.clear(owner)
                kind.update(owner, made)

    def _renew_set(self, owner: set[Any], _kind: type) -> None:
        self._looked += set.__len__(owner)
        if set.__len__(owner) <= _MOST:
            items = list(set.__iter__(owner))
            new = [self.renew(item) for item in items]
            if not all(map(_is, items, new)) and (made := _fresh(items, new)) is not None:
                set.__init__(owner, made)  # all at once: no other thread finds it empty

    def _renew_object(self, owner: Any, kind: type) -> None:
        held = attributes(owner)
        if held is not None:
            self._waiting.append((self._renew_dict, held, dict))
        for slot in slots(kind):
            with suppress(AttributeError):  # it is not set
                item = slot.__get__(owner, kind)
                new = self.renew(item)
                if new is not item:
                    slot.__set__(owner, new)

    def _renew_function(self, owner: FunctionType) -> None:
        if is_users(owner.__code__):
            for cell in owner.__closure__ or ():
                with suppress(ValueError):  # it is empty
                    value = cell.cell_contents
                    new = self.renew(value)
                    if new is not value and cell.cell_contents is value:  # no other thread runs between this and the next
                        cell.cell_contents = new
            change_items(owner.__globals__, names_in(owner.__code__).outer, self.renew)


_WALKS: dict[type, Callable[..., None]] = {
    OrderedDict: Reach._renew_dict, dict: Reach._renew_dict, set: Reach._renew_set, list: Reach._renew_list, deque: Reach._renew_list,
}  # fmt: skip


def change_newest(owner: list[Any], change: Callable[[Any], Any], kinds: frozenset[type]) -> None:
    """Exchange proxies among the last items of a list."""
    with suppress(IndexError):  # another thread takes some away
        for place in range(max(len(owner) - _CHUNK, 0), len(owner)):
            item = owner[place]
            if type(item) in kinds:
                new = change(item)
                if owner[place] is item:  # no other thread runs between this and the next
                    owner[place] = new


def _is(one: Any, other: Any) -> bool:
    return one is other


def _fresh(old: list[Any], new: list[Any]) -> set[Any] | None:
    """The new items as a set; ``None`` if they cannot be in one, or if to ask that would run code of the user's."""
    for before, after in zip(old, new, strict=True):
        if before is after and not hashes_plainly(after):
            return None
    try:
        return set(new)
    except TypeError:
        return None


def still_held(proxies: list[Any], kept: dict[int, int]) -> list[Any]:
    """Those proxies in a list, and in a dict beside it, that somebody else holds as well.

    Args:
        proxies: The list.
        kept: How often else they are held where it does not count, by identity.
    """
    return [proxy for proxy in proxies if sys.getrefcount(proxy) > _ALONE + kept.get(id(proxy), 0)]


def are_found(proxies: list[Any]) -> bool:
    """Whether nobody but a list, and a dict beside it, holds any of some proxies."""
    return max(map(sys.getrefcount, proxies)) <= _FOUND


_ALONE = 0
_listed = list({0: object()}.values())
_counted = {0: _listed[0]}
_FOUND = max(map(sys.getrefcount, _listed))
while still_held(_listed, {}):
    _ALONE += 1
del _listed, _counted
