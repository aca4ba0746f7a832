"""What is data, and what is machinery: modules, functions, configurations. Programs come from strangers, and handle data alone."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch

_anything: ContextVar[bool] = ContextVar("nnsight_graph_anything", default=False)


class Handling:
    """A block in which programs may handle anything: all of them were written here, by the user; or data alone.

    Args:
        anything: Which of the two.
    """

    __slots__ = ("_before", "_given")

    def __init__(self, anything: bool) -> None:
        self._given = anything
        self._before = False

    def __enter__(self) -> None:
        self._before = _anything.get()
        try:
            _anything.set(self._given)
        except BaseException:  # an interrupt
            _anything.set(self._before)
            raise

    def __exit__(self, *_: object) -> None:
        _anything.set(self._before)


def is_machinery(value: Any) -> bool:
    """Whether a value can do more than hold something: call, load or save things, or be a part of the model.

    Example:
        >>> is_machinery(torch.nn.Linear(1, 1)), is_machinery(print), is_machinery(torch.ones(1)), is_machinery({"a": [1]})
        (True, True, False, False)
    """
    if isinstance(value, torch.Tensor):
        return False
    return isinstance(value, torch.nn.Module) or callable(value) or hasattr(type(value), "from_pretrained")


def refuse_machinery(value: Any, doing: str) -> None:
    """Raise for what is no data, in a program that somebody else may have written.

    Raises:
        TypeError: says what was to be done.
    """
    if type(value) is not torch.Tensor and is_machinery(value) and not _anything.get():
        raise TypeError(f"a program handles data: it cannot {doing} a {type(value).__name__}. Do that outside the trace")


def attribute(name: str) -> Callable[[Any], Any]:
    """A function that takes an attribute of a value.

    >>> attribute("real")(1 + 2j)
    1.0
    """

    def get(value: Any) -> Any:
        refuse_machinery(value, f"take .{name} of")
        return getattr(value, name)

    get.__name__ = get.__qualname__ = name
    return get


def bound(value: Any, name: str) -> Any:
    """A method of a value."""
    refuse_machinery(value, f"take .{name} of")
    return getattr(value, name)
