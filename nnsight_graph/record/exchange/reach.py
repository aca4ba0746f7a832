"""Containers that names reach, and what stands in them: walked breadth first, by the built-in types' own methods."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ...source_location import is_users
from .frames import change_cell, change_items
from .named import names_in
from .plain_objects import attributes, has_member, hashes_plainly, is_plain, slots

_MOST = 10_000
"""How many objects are looked at."""

_CHUNK = 64
_DEEP = 50
_KEYS = (str, int)
_LEAVES = frozenset((
    type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type(...), type, ModuleType, CodeType, BuiltinFunctionType,
))  # fmt: skip
_BUILTIN = (list, dict, set, deque)
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
        self._waiting: deque[Iterator[int]] = deque()
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
        elif (walk := self._walk(value, kind)) is not None:
            self._waiting.append(walk)
        self._seen[id(value)] = value, made
        return made

    def run(self) -> None:
        """Walk, until nothing is left to be found or enough has been looked at."""
        while self._waiting and self._looked < _MOST:
            walk = self._waiting.popleft()
            try:
                count = next(walk, None)
            except RuntimeError:  # another thread changes it
                continue
            if count is not None:
                self._looked += count
                self._waiting.append(walk)
            if self._hit and not self.is_left():
                break
        for walk in self._waiting:
            walk.close()  # type: ignore[attr-defined]

    def is_left(self) -> bool:
        """Whether a proxy is still held anywhere else, or a tuple that has held one."""
        self._hit = False
        self._wanted = still_held(self._wanted, self._kept)
        return bool(self._wanted or still_held(self._replaced, self._kept))

    # ------------------------------------------------------------------ what cannot be changed

    def _rebuilt(self, value: Any, kind: type, depth: int) -> Any:
        """A tuple, or a frozen set, with values in place of proxies; the same one if there are none."""
        record = issubclass(kind, tuple) and kind is not tuple
        if depth > _DEEP or (kind not in (tuple, frozenset) and not (record and has_member(kind, "_fields") and attributes(value) is None)):
            return value
        items = list(tuple.__iter__(value) if issubclass(kind, tuple) else value)
        self._looked += len(items)
        if len(items) > _MOST or _LEAVES.issuperset(map(type, items)):
            return value
        new = [self.renew(item, depth + 1) for item in items]
        if all(map(_is, items, new)):
            return value
        made: Any
        if kind is frozenset:
            fresh = _fresh(items, new)
            if fresh is None:
                return value
            made = frozenset(fresh)
        else:
            made = tuple.__new__(kind, new)
        for item, other in zip(items, new, strict=True):
            if item is not other:
                self._kept[id(item)] = self._kept.get(id(item), 0) + 1
        self._replaced.append(value)
        return made

    # ------------------------------------------------------------------ what can

    def _walk(self, value: Any, kind: type) -> Iterator[int] | None:
        """Looks at what an object holds, some at a time, the newest first; gives how many."""
        if kind is FunctionType:
            return self._of_function(value) if is_users(value.__code__) else None
        if kind is MethodType:
            return self._of_method(value)
        mine = is_plain(kind)
        holds = issubclass(kind, _BUILTIN) and (mine or kind.__module__ in _CONTAINERS)
        if not holds:
            return self._of_object(value, kind) if mine else None
        if issubclass(kind, dict):
            items = self._of_dict(value)
        elif issubclass(kind, set):
            items = self._of_set(value)
        else:
            items = self._of_list(value, list if issubclass(kind, list) else deque)
        return self._both(items, self._of_object(value, kind)) if mine else items

    @staticmethod
    def _both(first: Iterator[int], second: Iterator[int]) -> Iterator[int]:
        yield from first
        yield from second

    def _of_list(self, owner: Any, kind: Any) -> Iterator[int]:
        at = kind.__len__(owner)
        items = kind.__reversed__(owner)
        while count := self._some_of_list(owner, kind, items, at):
            at -= count
            yield count

    def _some_of_list(self, owner: Any, kind: Any, items: Iterator[Any], at: int) -> int:
        chunk = list(islice(items, _CHUNK))
        if not _LEAVES.issuperset(map(type, chunk)):
            for place, item in enumerate(chunk, 1):
                new = self.renew(item)
                if new is not item and at - place < kind.__len__(owner) and kind.__getitem__(owner, at - place) is item:
                    kind.__setitem__(owner, at - place, new)
        return len(chunk)

    def _of_dict(self, owner: dict[Any, Any]) -> Iterator[int]:
        kind: Any = OrderedDict if isinstance(owner, OrderedDict) else dict
        pairs = reversed(dict.items(owner))
        found: list[bool] = []
        while count := self._some_of_dict(owner, kind, pairs, found):
            yield count
        if found:
            self._exchange_keys(owner, kind)

    def _some_of_dict(self, owner: dict[Any, Any], kind: Any, pairs: Iterator[Any], found: list[bool]) -> int:
        chunk = list(islice(pairs, _CHUNK))
        for key, item in chunk:
            if type(key) in self._kinds or (type(key) in (tuple, frozenset) and self.renew(key) is not key):
                found.append(True)
                continue
            new = self.renew(item)
            if new is not item and hashes_plainly(key) and dict.get(owner, key) is item:
                kind.__setitem__(owner, key, new)
        return len(chunk)

    def _exchange_keys(self, owner: dict[Any, Any], kind: Any) -> None:
        pairs = list(dict.items(owner))
        keys = [key for key, _ in pairs]
        new = [self.renew(key) for key in keys]
        if _fresh(keys, new) is not None:
            made = {key: self.renew(value) for key, (_, value) in zip(new, pairs, strict=True)}
            kind.clear(owner)
            for key, value in made.items():
                kind.__setitem__(owner, key, value)

    def _of_set(self, owner: set[Any]) -> Iterator[int]:
        count = set.__len__(owner)
        if count <= _MOST:
            self._all_of_set(owner)
        yield count

    def _all_of_set(self, owner: set[Any]) -> None:
        items = list(set.__iter__(owner))
        new = [self.renew(item) for item in items]
        if not all(map(_is, items, new)) and (made := _fresh(items, new)) is not None:
            set.clear(owner)
            set.update(owner, made)

    def _of_object(self, owner: Any, kind: type) -> Iterator[int]:
        held = attributes(owner)
        if held is not None:
            yield from self._of_dict(held)
        for slot in slots(kind):
            self._slot(slot, owner, kind)
        yield 1

    def _slot(self, slot: Any, owner: Any, kind: type) -> None:
        try:
            item = slot.__get__(owner, kind)
        except AttributeError:
            return
        new = self.renew(item)
        if new is not item:
            slot.__set__(owner, new)

    def _of_method(self, owner: MethodType) -> Iterator[int]:
        self.renew(owner.__self__)
        self.renew(owner.__func__)
        yield 2

    def _of_function(self, owner: FunctionType) -> Iterator[int]:
        for cell in owner.__closure__ or ():
            change_cell(cell, self.renew)
        names = names_in(owner.__code__)
        change_items(owner.__globals__, names.outer, self.renew)
        yield 1 + len(names.outer) + len(names.own)


def change_newest(container: Any, change: Callable[[Any], Any], kinds: frozenset[type]) -> None:
    """Exchange proxies that are among the last items of a list, or the values of a small dict whose keys are text or numbers."""
    if type(container) is list:
        first = max(len(container) - _CHUNK, 0)
        for place, item in enumerate(container[first:], first):
            if type(item) in kinds:
                new = change(item)
                if place < len(container) and container[place] is item:
                    container[place] = new
    elif len(container) <= _CHUNK:
        for key, item in list(container.items()):
            if type(item) in kinds and type(key) in _KEYS:
                new = change(item)
                if container.get(key) is item:
                    container[key] = new


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
    """Whether nobody else holds any of them."""
    for proxy in proxies:
        if sys.getrefcount(proxy) > _FOUND:  # noqa: SIM110  (a generator would take longer)
            return False
    return True


_ALONE = _FOUND = 0


def _references() -> int:
    kept = {0: object()}
    listed = list(kept.values())
    count = 0
    while still_held(listed, {id(listed[0]): count}):
        count += 1
    return count


def _found() -> int:
    global _FOUND
    kept = {0: object()}
    listed = list(kept.values())
    while not are_found(listed):
        _FOUND += 1
    return _FOUND


_ALONE, _FOUND = _references(), _found()
