"""Which objects are looked into for saved values, and their attributes, without running anybody's code."""

from __future__ import annotations

import argparse
import sys
import weakref
from types import FunctionType, MemberDescriptorType, ModuleType, SimpleNamespace
from typing import Any

from ...source_location import is_users_file

_mro: Any = type.__dict__["__mro__"].__get__
_members: Any = type.__dict__["__dict__"].__get__
_OF_PYTHON = frozenset((SimpleNamespace, argparse.Namespace))
_LARGE = frozenset("torch transformers tokenizers numpy pandas accelerate datasets diffusers peft nnsight_graph".split())
"""Whose objects are never looked into, wherever these packages are installed."""

_plain: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def is_plain(kind: type) -> bool:
    """Whether objects of this class are looked into: those of the user's own classes, if no library's class is among their bases."""
    known = _plain.get(kind)
    if known is None:
        known = _plain[kind] = kind in _OF_PYTHON or (_origin(kind) == "user" and "library" not in map(_origin, _mro(kind)))
    return known


def _origin(kind: type) -> str:
    """Whose a class is."""
    name = _members(kind).get("__module__")
    top = name.partition(".")[0] if isinstance(name, str) else ""
    if kind is type or issubclass(kind, (type, ModuleType)) or top in _LARGE:
        return "library"
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return "user" if name == "__main__" else "python"
    file = getattr(sys.modules.get(name or ""), "__file__", None)
    return "user" if not isinstance(file, str) or is_users_file(file) else "library"


def attributes(value: Any) -> dict[Any, Any] | None:
    """The dict of an object's attributes, if it has one."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


def slots(kind: type) -> list[Any]:
    """What reads and writes the attributes of a class that stand in slots."""
    return [member for one in _mro(kind) for member in _members(one).values() if type(member) is MemberDescriptorType]


def hashes_plainly(value: Any) -> bool:
    """Whether asking for the hash of an object, and whether it equals another, runs no code of the user's."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(hashes_plainly, value))
    asked = [next((_members(one)[name] for one in _mro(kind) if name in _members(one)), None) for name in ("__hash__", "__eq__")]
    return all(type(one) is not FunctionType or one.__module__ == "enum" or one.__code__.co_filename == "<string>" for one in asked)
