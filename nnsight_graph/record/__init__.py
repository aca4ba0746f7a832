"""User code -> entries of a graph.

In: the lines of a trace, run once as ordinary Python over proxies. Out: a :class:`Recording` - entries, constants and
where each line stands.

The trick: the tuple that is written for a line is both the node and the key that its plan is looked up by, so a trace
that was seen before builds no graph at all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .functions import apply, log, save, stop, trace, value
    from .proxy import Proxy
    from .recorder import Recorder, recording_here
    from .recording import Recording

_LAZY = {
    "Proxy": ".proxy",
    "Recorder": ".recorder",
    "Recording": ".recording",
    "apply": ".functions",
    "log": ".functions",
    "recording_here": ".recorder",
    "save": ".functions",
    "stop": ".functions",
    "trace": ".functions",
    "value": ".functions",
}

__all__ = ["Proxy", "Recorder", "Recording", "apply", "log", "recording_here", "save", "stop", "trace", "value"]


def __getattr__(name: str) -> Any:
    """Load on first use: control flow needs no torch, what records does."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LAZY[name], __name__), name)
    return value
