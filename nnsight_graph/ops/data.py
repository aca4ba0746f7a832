"""What is data, and what is machinery: modules, functions, configurations. Programs come from strangers, and handle data alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
    """Raise for what is no data.

    Raises:
        TypeError: says what was to be done.
    """
    if type(value) is not torch.Tensor and is_machinery(value):
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
