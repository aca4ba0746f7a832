"""Copies and pickles of envoys: what they share travels once, however many envoys of one model stand in what is copied.

A shallow copy is another view of the same model, with the same weights. A deep copy, or what a pickle gives, mirrors a model of its own.
"""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any

from .tree import both, children_at_hand

if TYPE_CHECKING:
    from .envoy import Envoy

NOT_THE_MODULES = frozenset(
    ("_module", "_tree", "_path", "__copy__", "__deepcopy__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__",
     "__getinitargs__")
)  # fmt: skip
"""Names that an envoy never takes from its module: it would be copied as its module is."""

_FIRST = "_first"
"""Whether it is the one that others at its path are views of."""


def missing(envoy: Envoy, name: str) -> str:
    """The text about an envoy that lacks one of them."""
    hint = "" if name.startswith("__") else ": call super().__init__(module) before you use or set attributes"
    return f"{type(envoy).__name__} has no {name!r}{hint}"


def viewed(envoy: Envoy) -> Any:
    """Another envoy of the same module."""
    made = object.__new__(type(envoy))
    made.__dict__.update(_own(envoy))
    made._tree.views.add(made)
    return made


def made_by(kind: type[Envoy]) -> tuple[Any, ...]:
    """What makes an empty envoy of a class: a function and its arguments."""
    return (_of_both, kind.__bases__) if "_of_both" in vars(kind) else (copyreg.__newobj__, (kind,))  # type: ignore[attr-defined]


def packed(envoy: Envoy) -> dict[str, Any]:
    """What an envoy is filled with again, in another model or process."""
    return {**_own(envoy), _FIRST: envoy._tree.envoys.get(envoy._path) is envoy}


def unpacked(envoy: Envoy, state: dict[str, Any]) -> None:
    """Fill a new envoy with what :func:`packed` gave."""
    envoy.__dict__.update(state)
    first, tree = envoy.__dict__.pop(_FIRST), envoy._tree
    if first:
        tree.envoys[envoy._path] = envoy
    elif tree.envoys.setdefault(envoy._path, envoy) is not envoy:
        tree.views.add(envoy)


def _own(envoy: Envoy) -> dict[str, Any]:
    left = children_at_hand(envoy)
    return {name: value for name, value in envoy.__dict__.items() if name not in left}


def _of_both(*kinds: type[Envoy]) -> Any:
    return object.__new__(both(*kinds))
