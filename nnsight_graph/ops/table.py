"""Names of operations, the callables behind them and their effects; ``table.tsv`` is read at the first use."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, KeysView
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import ours
from . import passing
from .data import attribute, reject_method
from .effect import OPAQUE, Effect, parse

_MUTATES, _ATTRIBUTE = parse("mutates:0"), parse("maybe:0")

_SPACES = {
    "passing": passing,
    "torch": torch,
    "torch.fft": torch.fft,
    "torch.linalg": torch.linalg,
    "torch.nn.functional": torch.nn.functional,
    "torch.special": torch.special,
}

# Spellings under which Tensor carries a second time what has a name already.
_SECOND = {"__div__": "truediv", "__idiv__": "itruediv", "__nonzero__": ".__bool__"}


class _Table(NamedTuple):
    effects: dict[str, str]
    names: dict[Any, str]
    random: set[Any]


@cache
def _table() -> _Table:
    text = (Path(__file__).parent / "table.tsv").read_text(encoding="utf-8")
    effects = dict(line.split("\t") for line in text.splitlines() if line[0] != "#")
    names: dict[Any, str] = {}
    random: set[Any] = set()
    for name, effect in effects.items():
        # One function under two names (torch.conv2d, torch.nn.functional.conv2d) goes by the first.
        for function in _announced(name):
            names.setdefault(function, name)
            if effect[:6] == "random":
                random.add(function)
    for dunder, name in _SECOND.items():
        if hasattr(torch.Tensor, dunder):
            names.setdefault(getattr(torch.Tensor, dunder), name)
    return _Table(effects, names, random)


def _announced(name: str) -> list[Any]:
    """The callables under which torch hands an operation to ``__torch_function__``, as far as this torch has them."""
    kind = name[0]
    if kind == ".":
        found = getattr(torch.Tensor, name[1:], None)
    elif kind == "@":
        found = getattr(getattr(torch.Tensor, name[1:], None), "__get__", None)
    elif "." in name:
        found = _dotted(name)
    else:
        dunder = getattr(torch.Tensor, f"__{name.rstrip('_')}__", None)
        return [_plain(name), dunder] if callable(dunder) else [_plain(name)]
    return [] if found is None else [found]


def _dotted(name: str) -> Any:
    space, _, member = name.rpartition(".")
    return getattr(_SPACES[space], member, None)


def _plain(name: str) -> Any:
    return getattr(operator, name, None) or getattr(builtins, name, None)


def _method(name: str) -> Callable[..., Any]:
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        reject_method(self, name)
        if kwargs:
            return getattr(self, name)(*args, **kwargs)
        return getattr(self, name)(*args)

    call.__name__ = call.__qualname__ = name
    return call


def names() -> KeysView[str]:
    """All names of the table.

    Example:
        >>> "torch.sum" in names(), "torch.load" in names()
        (True, False)
    """
    return _table().effects.keys()


@cache
def effect_of(name: str) -> Effect:
    """The effect of an operation.

    A method that is not in the table mutates its object if its name ends in one underscore, as torch's methods do, and is
    opaque otherwise; an attribute that is not there may share storage with its object; any other name is opaque.

    Example:
        >>> effect_of("torch.transpose").views, effect_of(".add_").mutates, effect_of(".frobnicate").opaque
        ((0,), (0,), True)
    """
    text = _table().effects.get(name)
    if text is not None:
        return parse(text)
    if name.startswith("@"):
        return _ATTRIBUTE
    return _MUTATES if name.startswith(".") and name.endswith("_") and not name.endswith("__") else OPAQUE


@cache
def function_of(name: str) -> Callable[..., Any]:
    """The callable behind a name; the same object at each call.

    Methods and attributes are looked up on the object they are called with, so any name will do, but of double-underscored
    names only those of the table: a graph may come from elsewhere, and ``@__globals__`` leads out of it.

    Raises:
        LookupError: the name is not in the table, or this torch lacks the function.

    Example:
        >>> function_of("mul")(2, 3), function_of(".upper")("a"), function_of("@real")(1 + 2j)
        (6, 'A', 1.0)
    """
    kind, member = name[:1], name[1:]
    listed = name in _table().effects
    if kind and kind in ".@" and member.isidentifier() and (listed or not member.startswith("__")):
        function = _method(member) if kind == "." else attribute(member)
        _table().names[function] = name
        return function
    if not listed:
        raise ours(LookupError, f"{name!r} is not in the table of operations (nnsight_graph/ops/table.tsv)")
    found = _dotted(name) if "." in name else _plain(name)
    if found is None:
        raise ours(LookupError, f"torch {torch.__version__} has no {name}")
    return found  # type: ignore[no-any-return]


def name_of(function: Any) -> str | None:
    """The name of a function as torch hands it to ``__torch_function__``, as Python has it, or from `function_of`; else None.

    Example:
        >>> name_of(torch.Tensor.add), name_of(torch.Tensor.__getitem__), name_of(torch.Tensor.shape.__get__), name_of(print)
        ('.add', 'getitem', '@shape', None)
    """
    try:
        return _table().names.get(function)
    except TypeError:  # unhashable
        return None


def is_random(function: Any) -> bool:
    """Whether a function draws random numbers, or may.

    Example:
        >>> is_random(torch.randn), is_random(torch.Tensor.normal_), is_random(torch.zeros)
        (True, True, False)
    """
    try:
        return function in _table().random
    except TypeError:  # unhashable
        return False
