"""Python's containers and numbers as values of a trace: ``nnsight_graph.list()`` is a list that the run fills."""

from __future__ import annotations

import builtins
from typing import Any

from .recorder import recording_here


def _constructed(name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    trace = recording_here()
    if trace is None:
        return getattr(builtins, name)(*args, **(kwargs or {}))
    return trace.proxy(name, args, kwargs, depth=3)


def list_(*values: Any) -> Any:
    """A list that exists in the run; outside a trace, Python's own.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.ones(2)):
        ...     values = nnsight.list().save()
        ...     _ = values.append(model.output.sum().item())
        >>> values
        [2.0]
    """
    return _constructed("list", values)


def dict_(*values: Any, **items: Any) -> Any:
    """A dict that exists in the run; outside a trace, Python's own."""
    return _constructed("dict", values, items)


def tuple_(*values: Any) -> Any:
    """A tuple that exists in the run; outside a trace, Python's own."""
    return _constructed("tuple", values)


def set_(*values: Any) -> Any:
    """A set that exists in the run; outside a trace, Python's own."""
    return _constructed("set", values)


def int_(*values: Any) -> Any:
    """A whole number of the run, from a traced value or a plain one; outside a trace, Python's own."""
    return _constructed("int", values)


def float_(*values: Any) -> Any:
    """A number of the run, from a traced value or a plain one; outside a trace, Python's own."""
    return _constructed("float", values)


def bool_(*values: Any) -> Any:
    """A truth of the run, from a traced value or a plain one; outside a trace, Python's own."""
    return _constructed("bool", values)


def str_(*values: Any) -> Any:
    """A string of the run, from a traced value or a plain one; outside a trace, Python's own."""
    return _constructed("str", values)
