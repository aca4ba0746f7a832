"""Which run is going on here: the one thing that code inside a run has to find by itself."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from .data import call_with_data

current: ContextVar[Any] = ContextVar("nnsight_graph_run", default=None)
"""The run whose forward this is; a hook of another run does nothing."""


def call_module(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a module of the model on values of the trace: its own sites are not visited."""
    return call_with_data(module, args, kwargs, getattr(current.get(), "apart", None))


def call_listening(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a module on values of the trace as a part of the forward: its sites are visited."""
    run = current.get()
    before, run.busy = run.busy, False
    try:
        return call_with_data(module, args, kwargs, getattr(run, "apart", None))
    finally:
        run.busy = before
