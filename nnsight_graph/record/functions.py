"""Functions for the lines of a trace: call one's own function on traced values, print them, save them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

from ..errors import MisuseError
from ..ops.saved_values import SavedTensor, plain_type
from ..ops.table import name_of
from ..source_location import on_users_line
from .name import Name
from .proxy import Proxy
from .recorder import Recorder, recording_here
from .settled import plain


def _recorder(what: str) -> Recorder:
    trace = recording_here()
    if trace is None:
        raise on_users_line(MisuseError(f"{what} belongs inside a trace: with model.trace(...): ..."))
    return trace


def apply(function: Callable[..., Any], *args: Any, mutates: tuple[int, ...] = (), **kwargs: Any) -> Any:
    """Call any function on traced values when they are there.

    Args:
        function: Called once per run, with real values. It may do what it likes, but may not write into its arguments.
        *args: Its arguments, traced values among them.
        mutates: Positions of the arguments that it does write into.
        **kwargs: Its named arguments.

    Returns:
        A proxy of what it returns.

    Raises:
        RecordError: outside a trace.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Linear(2, 2))
        >>> with model.trace(torch.ones(1, 2)):
        ...     size = nnsight.apply(lambda x: tuple(x.shape), model.output).save()
        >>> size
        (1, 2)
    """
    trace = _recorder("apply")
    known = name_of(function) if not mutates else None
    if known is not None:
        return trace.proxy(known, args, kwargs)
    places = Name("mutates:" + ",".join(map(str, mutates)))
    return trace.proxy("call", (function, places, *args), kwargs)


def log(*values: Any) -> None:
    """Print values as soon as the model has computed them.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.zeros(2)):
        ...     nnsight.log("output:", model.output)
        output: tensor([0., 0.])
    """
    _recorder("log").add("log", values)


def stop() -> None:
    """End the trace, or between traces the session: what comes after this line does not run; in a branch, if the branch is taken.

    In a trace the forward ends as soon as everything above this line has its value, as with ``tracer.stop()``.

    Raises:
        RecordError: outside a trace and a session.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.session() as session:
        ...     session.log("first")
        ...     nnsight.stop()
        ...     session.log("second")
        first
    """
    trace = _recorder("stop")
    trace.put(("stop",), sys._getframe(1))


def save(value: Any) -> Any:
    """Keep a value beyond its trace: the same as ``value.save()``, for any value.

    Returns:
        A saved proxy; tuples, lists and dicts with everything in them saved, and, of a list, a dict or a set, what lines below put into
        it: ``found = nnsight_graph.save([])``; a plain value as it is.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.zeros(2)):
        ...     out = nnsight.save(model.output)
        >>> out
        tensor([0., 0.])
    """
    return _saved(_recorder("save"), value, "")


def value(saved: Any) -> Any:
    """The plain value of what a trace has saved: for whoever asks for the exact type.

    After its block a saved name *is* its value: a tensor, a number, a list. Of a tensor that the run has made, of a number, a text, a
    list, a tuple or a dict the class is one that adds ``.value``, derived from the plain one.

    Args:
        saved: A saved value; a stand-in for one that its block could not reach; or anything else.

    Returns:
        The value with its plain type. Of a tensor, a view of it; what is no saved value, as it is.

    Raises:
        UnsetValueError: it stands for a value that was not saved, or never reached.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.ones(2)):
        ...     total = model.output.sum().item().save()
        >>> isinstance(total, float), type(total) is float, type(nnsight.value(total)) is float
        (True, False, True)
    """
    made = plain(saved)
    return made.as_subclass(torch.Tensor) if type(made) is SavedTensor else made


def _saved(trace: Recorder, value: Any, part: str) -> Any:
    """The same, for what stands at ``part`` of a container."""
    kind = plain_type(type(value))
    if kind in (list, dict, set) and trace.living(value) is not None:
        return value  # it holds, after the run, what it has got there
    if kind is tuple:
        return tuple([_saved(trace, item, f"{part}.{place}") for place, item in enumerate(value)])
    if kind in (list, dict, set):
        for key, item in list(value.items() if kind is dict else enumerate(value)):
            _saved(trace, item, f"{part}.{key}")
        trace.beside = [*trace.beside, value]  # what lines below put into it is saved as well
        return value
    if not isinstance(value, Proxy) or value._trace is not trace:
        return value
    if part and value._index not in trace.saved:
        trace.parts = {**trace.parts, value._index: part}
    again, kept = trace.again, value.save()
    if part:  # a value that was saved before keeps the names that it has
        trace.again = again
    return kept


def trace(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function part of traces: called inside one it becomes one node, elsewhere it is called as it is.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> @nnsight.trace
        ... def first(x):
        ...     return x.flatten()[0].item()
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.ones(2)):
        ...     value = first(model.output).save()
        >>> value
        1.0
    """

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        if recording_here() is None:
            return function(*args, **kwargs)
        return apply(function, *args, **kwargs)

    return traced
