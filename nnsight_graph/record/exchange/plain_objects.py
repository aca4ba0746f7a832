"""Which objects are looked into for saved values, and their attributes, without running anybody's code."""

from __future__ import annotations

import argparse
import enum
import sys
import weakref
from collections.abc import Iterator
from types import FunctionType, MemberDescriptorType, ModuleType, SimpleNamespace
from typing import Any

from ...source_location import is_users_file

_mro: Any = type.__dict__["__mro__"].__get__
_members: Any = type.__dict__["__dict__"].__get__
_bare = object.__getattribute__
_OF_PYTHON = frozenset((SimpleNamespace, argparse.Namespace))
_LARGE = frozenset("torch transformers tokenizers numpy pandas accelerate datasets diffusers peft nnsight_graph".split())
"""Whose objects are never looked into, wherever these packages are installed."""

_plain: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
_slots: weakref.WeakKeyDictionary[type, tuple[Any, ...]] = weakref.WeakKeyDictionary()


def is_plain(kind: type) -> bool:
    """Whether objects of this class are looked into: those of the user's own classes, if no library's class is among their bases."""
    known = _plain.get(kind)
    if known is None:
        known = _plain[kind] = kind in _OF_PYTHON or (_origin(kind) == "user" and "library" not in map(_origin, _mro(kind)))
    return known


def _origin(kind: type) -> str:
    """Whose a class is."""
    name = _members(kind).get("__module__")
    if kind is type or issubclass(kind, (type, ModuleType)) or (isinstance(name, str) and name.partition(".")[0] in _LARGE):
        return "library"
    if not isinstance(name, str):
        return "user"
    if name in sys.builtin_module_names or name.partition(".")[0] in sys.stdlib_module_names:
        return "user" if name == "__main__" else "python"
    module = sys.modules.get(name)
    file = None if module is None else vars(module).get("__file__")
    return "user" if not isinstance(file, str) or is_users_file(file) else "library"


def attributes(value: Any) -> dict[Any, Any] | None:
    """The dict of an object's attributes, if it has one."""
    try:
        found = _bare(value, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


def slots(kind: type) -> tuple[Any, ...]:
    """What reads and writes the attributes of a class that stand in slots."""
    known = _slots.get(kind)
    if known is None:
        known = _slots[kind] = tuple(_find_slots(kind))
    return known


def _find_slots(kind: type) -> Iterator[Any]:
    for one in _mro(kind):
        yield from (member for member in _members(one).values() if type(member) is MemberDescriptorType)


def has_member(kind: type, name: str) -> bool:
    """Whether a class, or a base of it, defines a name."""
    return any(name in _members(one) for one in _mro(kind))


def hashes_plainly(value: Any) -> bool:
    """Whether asking for the hash of an object, and whether it equals another, runs no code of the user's."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(hashes_plainly, value))
    return _is_pythons(kind, "__hash__") and _is_pythons(kind, "__eq__")


def _is_pythons(kind: type, name: str) -> bool:
    for one in _mro(kind):
        if name in _members(one):
            found = _members(one)[name]
            of_enum = found is enum.Enum.__dict__.get(name)
            return type(found) is not FunctionType or of_enum or found.__code__.co_filename == "<string>"  # a dataclass's
    return True
