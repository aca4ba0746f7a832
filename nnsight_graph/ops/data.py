"""What is data, and what is not: modules, functions, caches, configurations. A program that may be a stranger's handles data alone.

What passes at a site is *admitted* to such a program: containers as copies, and in the place of whatever is no data something that can
only be put back where it was. What the program gives to the model is *delivered*: data, and what stands in its own place.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from types import NoneType
from typing import Any, NamedTuple

import numpy
import torch

_PLAIN = frozenset(
    (
        NoneType, bool, int, float, complex, str, bytes, type(...), range,
        torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format,
    )
)  # fmt: skip
_BUILTIN = frozenset((tuple, list, dict, set, frozenset, slice, type({}.keys()), type({}.values()), type({}.items())))
_DEEPEST = 50


class Untrusted(NamedTuple):
    """What goes on is a program that may be a stranger's.

    Attributes:
        strange: The paths of the sites that a stranger's lines name; ``None`` where all lines may be a stranger's.
    """

    strange: frozenset[str] | None = None


_ALL = Untrusted()
_untrusted: ContextVar[Untrusted | None] = ContextVar("nnsight_graph_untrusted", default=_ALL)
untrusted = _untrusted.get


class trusted_program:
    """A block in which programs may handle anything, since all of them were written here, by the user; or data alone.

    Args:
        trusted: Which of the two.
        strange: The paths of the sites that a stranger's lines name, where others are the user's; all by default.
    """

    __slots__ = ("_before", "_given")

    def __init__(self, trusted: bool, strange: frozenset[str] | None = None) -> None:
        self._given = None if trusted else Untrusted(strange)
        self._before: Untrusted | None = _ALL

    def __enter__(self) -> None:
        self._before = _untrusted.get()
        try:
            _untrusted.set(self._given)
        except BaseException:  # an interrupt
            _untrusted.set(self._before)
            raise

    def __exit__(self, *_: object) -> None:
        _untrusted.set(self._before)


class Withheld:
    """Stands for a value that a stranger's program may not handle: it can be put back in its own place, and nothing else.

    >>> Withheld(print)
    <a builtin_function_or_method, which is no data>
    """

    __slots__ = ("_original",)

    def __init__(self, original: Any) -> None:
        self._original = original

    def __repr__(self) -> str:
        return f"<a {type(self._original).__name__}, which is no data>"


def is_plain(value: Any) -> bool:
    """Whether a value is data by itself: a tensor, a number, text, an array of numbers.

    Example:
        >>> is_plain(torch.ones(1)), is_plain("text"), is_plain(None), is_plain(print), is_plain(torch.nn.ReLU()), is_plain([])
        (True, True, True, False, False, False)
    """
    kind = type(value)
    if kind in _PLAIN or isinstance(value, torch.Tensor):
        return True
    return isinstance(value, (numpy.ndarray, numpy.generic)) and not value.dtype.hasobject


def items_of(value: Any) -> dict[Any, Any] | None:
    """What a container holds, by place, key or name; ``None`` for what is no container of data.

    Containers are tuples, lists, slices, dicts, sets of plain values, model outputs, dataclasses, and objects with fields and no methods.

    Example:
        >>> items_of((1, 2)), items_of({"a": 1}), items_of(slice(0, 2)), items_of(print)
        ({0: 1, 1: 2}, {'a': 1}, {'start': 0, 'stop': 2, 'step': None}, None)
    """
    kind = type(value)
    if kind is tuple or kind is list:
        return dict(enumerate(value))
    if hasattr(kind, "__del__"):  # a copy would end twice what it holds
        return None
    if isinstance(value, tuple) and _is_named_tuple(kind):
        return dict(enumerate(value))
    if kind is slice:
        return {"start": value.start, "stop": value.stop, "step": value.step}
    if kind is set or kind is frozenset:
        return {} if all(map(_is_key, value)) else None
    if isinstance(value, dict):
        known = kind is dict or kind is OrderedDict or _is_output(kind)
        return {**value, **_fields(value)} if known and all(map(_is_key, value)) else None
    return _fields(value) if _is_record(value) else None


def _is_named_tuple(kind: type) -> bool:
    return hasattr(kind, "_fields") or kind.__module__ == "torch.return_types"


def _is_output(kind: type) -> bool:
    """Whether it is an output of a model, as transformers and diffusers have them: an ordered dict whose keys are fields."""
    if hasattr(kind, "from_pretrained"):
        return False
    return issubclass(kind, OrderedDict) and dataclasses.is_dataclass(kind)


def _is_key(value: Any) -> bool:
    return all(map(_is_key, value)) if type(value) in (tuple, frozenset) else type(value) in _PLAIN


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, such as the parts of a model's output that are not there; all that an object holds, of another."""
    held: dict[str, Any] = getattr(value, "__dict__", {})
    if not dataclasses.is_dataclass(value):
        return {} if isinstance(value, dict) else dict(held)
    return {field.name: held[field.name] for field in dataclasses.fields(value) if field.name in held}


def _is_record(value: Any) -> bool:
    """Whether an object is no more than its fields."""
    kind = type(value)
    if callable(value) or not hasattr(value, "__dict__"):
        return False
    if kind.__module__ in ("builtins", "types") or hasattr(kind, "from_pretrained"):
        return False
    members = [member for each in kind.__mro__[:-1] for member in vars(each).items()]
    if dataclasses.is_dataclass(kind):
        return all(name != "__new__" for name, _ in members)
    return all(name in _OF_RECORDS or not (callable(member) or hasattr(type(member), "__get__")) for name, member in members)


_OF_RECORDS = frozenset(("__init__", "__repr__", "__str__", "__eq__", "__hash__", "__dict__", "__weakref__", "__annotate_func__"))
"""What the class of an object without methods may have."""


def _with_items(value: Any, items: dict[Any, Any]) -> Any:
    """A copy of a container that holds ``items``."""
    kind = type(value)
    if kind in (tuple, list, set, frozenset, slice):
        return slice(*items.values()) if kind is slice else kind(items.values()) if items or kind in (tuple, list) else kind(value)
    if isinstance(value, tuple):
        return kind(*items.values()) if hasattr(kind, "_fields") else kind(items.values())
    if kind is dict or kind is OrderedDict:
        return kind(items)
    made = object.__new__(kind) if not isinstance(value, dict) else OrderedDict.__new__(kind)
    if isinstance(value, dict):
        for key in value:
            OrderedDict.__setitem__(made, key, items[key])
    fields = {name: field for name, field in vars(value).items() if name not in items}
    made.__dict__.update(fields, **{name: item for name, item in items.items() if name in vars(value)})
    return made


def admitted(value: Any, above: tuple[int, ...] = ()) -> Any:
    """What a stranger's program gets of what passes at a site; ``above``: the containers that it stands in.

    Example:
        >>> admitted({"hidden": 1, "function": print})
        {'hidden': 1, 'function': <a builtin_function_or_method, which is no data>}
    """
    if isinstance(value, (numpy.ndarray, numpy.generic)) and is_plain(value):
        return value.copy()
    if is_plain(value) or type(value) is Withheld:
        return value
    items = None if len(above) > _DEEPEST or id(value) in above else items_of(value)
    if items is None:
        return Withheld(value)
    above = (*above, id(value))
    return _with_items(value, {key: admitted(item, above) for key, item in items.items()})


_NOTHING = object()


def delivered(
    value: Any, present: Any = _NOTHING, apart: Callable[[torch.Tensor], torch.Tensor] | None = None, depth: int = 0
) -> Any:
    """What the model gets of what a stranger's program puts in the place of ``present``.

    Args:
        value: What it puts there.
        present: What would be there.
        apart: Makes copies of tensors that the model may not write into; for those that were not there before.
        depth: How deep in containers it stands.

    Raises:
        TypeError: it holds what is no data, and was not there before.

    Example:
        >>> shown = admitted((1, print))
        >>> delivered((2, shown[1]), (1, print))
        (2, <built-in function print>)
    """
    if type(value) is Withheld:
        if value._original is present:
            return present
        raise TypeError(f"a program handles data: it cannot put {value!r}, where it was not before")
    if is_plain(value):
        return value if apart is None or value is present or not isinstance(value, torch.Tensor) else apart(value)
    items = None if depth > _DEEPEST else items_of(value)
    if items is None:
        raise TypeError(f"a program handles data: it cannot put a {type(value).__name__} there")
    before = items_of(present) or {}
    changed = {key: delivered(item, before.get(key, _NOTHING), apart, depth + 1) for key, item in items.items()}
    return _with_items(value, changed)


def texts_in(value: Any) -> set[str | bytes]:
    """The texts in a value and its containers: they may be names, of what a model looks up.

    >>> sorted(texts_in(["a", {"b": ("c", 1)}]))
    ['a', 'c']
    """
    if isinstance(value, (str, bytes)):
        return {value}
    items = {} if is_plain(value) or type(value) is Withheld else items_of(value) or {}
    return set().union(*map(texts_in, items.values()))


def differs(value: Any, present: Any) -> bool:
    """Whether what was admitted of ``present`` is another by now: a program has put something into its containers."""
    if type(value) is Withheld:
        return value._original is not present
    if isinstance(value, (numpy.ndarray, numpy.generic)) and type(value) is type(present):
        return value.dtype != present.dtype or value.shape != present.shape or value.tobytes() != present.tobytes()
    if value is present or is_plain(value):
        return value is not present
    items, before = items_of(value), items_of(present)
    if items is None or before is None or type(value) is not type(present) or items.keys() != before.keys():
        return True
    return any(differs(item, before[key]) for key, item in items.items()) or (not items and value != present)


def released(value: Any) -> Any:
    """What the user gets of a value that a program saves: what was withheld from the program is theirs."""
    if type(value) is Withheld:
        return value._original
    if is_plain(value) or not _withholds(value):
        return value
    return _with_items(value, {key: released(item) for key, item in (items_of(value) or {}).items()})


def _withholds(value: Any) -> bool:
    if type(value) is Withheld or is_plain(value):
        return type(value) is Withheld
    return any(map(_withholds, (items_of(value) or {}).values()))


def reject_non_data(value: Any, doing: str) -> None:
    """Raise for what is no data, in a program that somebody else may have written.

    Raises:
        TypeError: says what was to be done.
    """
    if type(value) is torch.Tensor or _untrusted.get() is None or is_plain(value) or type(value) in _BUILTIN:
        return
    if items_of(value) is not None:
        return
    raise TypeError(f"a program handles data: it cannot {doing} {_named(value)}. Do that outside the trace")


def _named(value: Any) -> str:
    return f"a {type(value._original if type(value) is Withheld else value).__name__}"


def reject_method(value: Any, name: str) -> None:
    """Raise for a method that a stranger's program may not call: of what is no data, and those that a class of the model's has itself.

    Raises:
        TypeError: says which.
    """
    if type(value) is torch.Tensor or _untrusted.get() is None or is_plain(value) or type(value) in _BUILTIN:
        return
    reject_non_data(value, f"call .{name} of")
    if not (isinstance(value, OrderedDict) and (hasattr(OrderedDict, name) or name == "to_tuple")) and not isinstance(value, tuple):
        raise TypeError(f"a program handles data: it cannot call .{name} of a {type(value).__name__}. Do that outside the trace")


def attribute(name: str) -> Callable[[Any], Any]:
    """A function that takes an attribute of a value; in a program of a stranger, of a container it takes fields alone.

    >>> attribute("real")(1 + 2j)
    1.0
    """

    def get(value: Any) -> Any:
        if _untrusted.get() is None:
            return getattr(value, name)
        reject_non_data(value, f"take .{name} of")
        if is_plain(value):
            return admitted(getattr(value, name))
        fields = getattr(value, "__dict__", {})
        if name not in fields and isinstance(value, tuple):
            return admitted(getattr(value, name))
        if name not in fields:
            raise AttributeError(f"{type(value).__name__} has no field {name!r}")
        return fields[name]

    get.__name__ = get.__qualname__ = name
    return get


def bound(value: Any, name: str) -> Any:
    """A method of a value."""
    reject_method(value, name)
    return getattr(value, name)


def call_with_data(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], apart: Callable[[torch.Tensor], torch.Tensor] | None
) -> Any:
    """What a function of the model's gives; a program of a stranger gives it data, and gets data.

    Args:
        function: The function.
        args: What it is called with.
        kwargs: Its named arguments.
        apart: Makes copies of tensors that it may not write into.
    """
    if _untrusted.get() is None:
        return function(*args, **kwargs)
    return admitted(function(*delivered(args, apart=apart), **delivered(kwargs, apart=apart)))


def tensors_changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with ``change`` applied to every tensor in its containers; what holds no changed one stays the same object."""
    if isinstance(value, torch.Tensor):
        return change(value)
    items = {} if is_plain(value) or type(value) is Withheld else items_of(value) or {}
    changed = {key: tensors_changed(item, change) for key, item in items.items()}
    return value if all(changed[key] is item for key, item in items.items()) else _with_items(value, changed)

