"""Running the instructions of a segment, and the functions that stand for structural nodes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import NNsightError
from .data import reject_non_data, untrusted
from .nested import clone, replaced, shares, versions_of

ONE, TWO, THREE, MANY, CLEAR, SPECIAL = 1, 2, 3, 0, 4, 5
"""Kinds of instructions: calls of one, two, three operands, any call, emptying a slot, a function of the run."""

GROUPS: dict[str, Callable[..., Any]] = {
    "tuple": lambda *items: items,
    "list": lambda *items: list(items),
    "dict": lambda *items: dict(zip(items[::2], items[1::2], strict=True)),
    "slice": slice,
}
UNBOUND: Any = type("Unbound", (), {"__repr__": lambda _self: "<unbound>"})()
"""What stands for the value of a name that has none."""

_LITERALS: dict[str, Any] = {"None": None, "True": True, "False": False, "...": ..., "unbound": UNBOUND}


def run_code(code: Sequence[tuple[int, Any, int, int, int, Any, int]], slots: list[Any], run: Any) -> None:
    """Run straight-line code over ``slots``; on an exception ``run.failed`` is the number of the node at fault."""
    if run.meter is not None:
        run.meter(code, slots, run)
        return
    turns = iter(code)
    try:
        for kind, function, out, a, b, rest, _ in turns:
            if kind == 2:
                slots[out] = function(slots[a], slots[b])
            elif kind == 1:
                slots[out] = function(slots[a])
            elif kind == 4:
                slots[out] = None
            elif kind == 3:
                slots[out] = function(slots[a], slots[b], slots[rest])
            elif kind == 0:
                slots[out] = function(*[slots[i] for i in rest[0]], **{name: slots[i] for name, i in rest[1]})
            else:
                function(run, rest)
    except BaseException:
        if run.failed is None and code:  # else it comes from code that ran inside this, or from the side, as an interrupt does
            run.failed = code[len(code) - operator.length_hint(turns) - 1]
        raise


def literal(name: str) -> Any:
    """The value of a literal's name.

    >>> literal("torch.float32"), literal("...")
    (torch.float32, Ellipsis)
    """
    if name in _LITERALS:
        return _LITERALS[name]
    if name.startswith("torch."):
        return getattr(torch, name[6:])
    return name


def same(value: Any) -> Any:
    """A second name for a value."""
    return value


def arranged(value: Any, again: Any) -> Any:
    """What was arranged and arranged back: ``value`` itself if it lies just where ``again`` does, so that gradients know one tensor.

    >>> x = torch.zeros(2, 6)
    >>> arranged(x, x.view(2, 2, 3).flatten(1)) is x, arranged(x, x[:, :3]) is x
    (True, False)
    """
    tensors = isinstance(value, torch.Tensor) and isinstance(again, torch.Tensor) and shares(value, again)
    return value if tensors and _layout(value) == _layout(again) else again


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.is_conj(), tensor.is_neg()


def nothing() -> None:
    """A place in the order of steps."""


def snapshot(value: Any) -> Any:
    """The value as it is now."""
    return clone(value)


def set_item(base: Any, index: Any, value: Any) -> Any:
    """``base[index] = value``; containers get their own copy of ``value``, and a tuple is made anew."""
    if isinstance(base, torch.Tensor):
        base[index] = value
        return base
    if isinstance(base, tuple):
        return replaced(base, index, clone(value))
    base[index] = clone(value)
    return base


def put_back(parent: Any, index: Any, item: Any) -> Any:
    """``parent`` with the tuple ``item`` at ``index``, made anew by an edit; anything else was edited where it is, if it is there still."""
    if not isinstance(item, tuple) or isinstance(parent, torch.Tensor) or parent[index] is item:
        return parent
    if isinstance(parent, tuple):
        return replaced(parent, index, item)
    parent[index] = item
    return parent


def assign_attribute(base: Any, name: str, value: Any) -> None:
    """``base.name = value``, with a copy of a tensor: what stands there is passed on by value."""
    reject_non_data(base, f"set .{name} of")
    if name == "requires_grad":
        base.requires_grad_(value)  # which, unlike the attribute, says nothing where it is so already
        return
    if isinstance(base, torch.Tensor) and untrusted() is not None:
        raise TypeError(f"a program handles data: it cannot set .{name} of a tensor")
    setattr(base, name, clone(value))


def unpack(value: Any, count: int) -> tuple[Any, ...]:
    """``value`` as exactly ``count`` items, as ``a, b = value`` takes them."""
    items = tuple(value)
    if len(items) != count:
        few = len(items) < count
        expected = f"expected {count}, got {len(items)}" if few else f"expected {count}"
        raise ValueError(f"{'not enough' if few else 'too many'} values to unpack ({expected})")
    return items


def assume(value: Any, given: Any) -> None:
    """Raise if a value is not what Python was told it was when the program was written."""
    if type(value) is not type(given) and not (isinstance(value, tuple) and isinstance(given, tuple)):
        given = type(value)(given) if isinstance(given, (tuple, list)) and isinstance(value, (tuple, list)) else given
    if value != given:
        raise NNsightError(
            f"this is {value}, and was {given} when the program was written: a line of Python asked for it then, and went on with that. "
            "Record the program again for such an input; or go on with the traced value itself, not with int() or len() of it"
        )


def log(*values: Any, **options: Any) -> None:
    """Print values the moment they are there; a stranger's text without what terminals obey."""
    if untrusted() is not None:
        values = tuple(map(_shown, values))
        options = {name: _shown(value) for name, value in options.items() if name in ("sep", "end")}
    print(*values, **options)


def _shown(value: Any) -> Any:
    if not isinstance(value, (str, bytes)):
        return value
    return "".join(sign if sign.isprintable() or sign in "\n\t" else repr(sign)[1:-1] for sign in str(value))


def first_argument(call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """The first argument of a call, positional or else named."""
    args, kwargs = call
    if args:
        return args[0]
    if not kwargs:
        raise NNsightError("the module was called without arguments: it has no .input")
    return next(iter(kwargs.values()))


def with_first(call: tuple[tuple[Any, ...], dict[str, Any]], value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with another first argument."""
    args, kwargs = call
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): value}


def put(_passing: Any, value: Any) -> Any:
    """What passes on after a write: a copy, so that later edits of ``value`` and of the site do not meet."""
    if value is None:  # a hook cannot say it: torch takes None for "unchanged"
        raise TypeError("a module's output cannot be replaced by None")
    return clone(value)


def put_first(call: tuple[tuple[Any, ...], dict[str, Any]], value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call after a write of its first argument."""
    return with_first(call, clone(value))


def put_inputs(_call: Any, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call after a write of all its arguments: ``(args, kwargs)``."""
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (tuple, list)) and isinstance(value[1], dict)):
        raise TypeError(f".inputs takes ((positional, ...), {{name: value}}), not {type(value).__name__}")
    fresh = clone(value)
    return tuple(fresh[0]), dict(fresh[1])


def resolve(function: Callable[..., Any], count: int, old: Any, *leaves: Any, **named: Any) -> Any:
    """``old`` if it is a copy; the same view, of its base as it is now, if it is a view of one of the kept bases."""
    kept, operands = leaves[:count], leaves[count:]
    return function(*operands, **named) if any(shares(old, base) for base in kept) else old


def call_opaque(function: Callable[..., Any], mutates: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function that the table does not know, and see that it writes only where it was said to."""
    allowed = set(map(int, filter(None, mutates.removeprefix("mutates:").split(","))))
    watched = [(place, value) for place, value in enumerate((*args, *kwargs.values())) if place not in allowed]
    before = [versions_of(value) for _, value in watched]
    result = function(*args, **kwargs)
    for (place, value), version in zip(watched, before, strict=True):
        if versions_of(value) != version:
            name = getattr(function, "__name__", type(function).__name__)
            raise NNsightError(f"{name} wrote into its argument {place} without saying so: apply({name}, ..., mutates=({place},))")
    return result
