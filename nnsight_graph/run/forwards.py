"""A module's ``forward`` replaced for one run: only where a hook cannot do it, and only for the run that asks.

Several runs may replace one module's forward at the same time: there is one stand-in per module, which looks up the run that it is called
in, and goes when the last of them ends. So it does not matter who ends first.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

from ..ops.running import current
from .apart import InPlace, part, rejoin
from .undoing import Undo

Replacement = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called with the module's own forward, and the arguments of the call."""

_lock = threading.RLock()
_asking = current.get


class _StandIn(InPlace):
    """What a module's forward is replaced by while any run asks for it."""

    def __init__(self, module: torch.nn.Module, name: str) -> None:
        self.original = getattr(module, name)
        functools.update_wrapper(self, self.original)
        super().__init__(module, name)  # accelerate has a forward on a module, for one
        self.runs: list[tuple[Any, Replacement]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = _asking()
        forward: Callable[..., Any] = self.original
        if run is not None and not run.busy:
            for other, replacement in self.runs:
                if other is run:
                    forward = functools.partial(_through, replacement, forward)
        return forward(*args, **kwargs)


def _through(replacement: Replacement, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return replacement(original, args, kwargs)


_stand_ins: dict[tuple[int, str], _StandIn] = {}


def replace_forward(module: torch.nn.Module, run: Any, replacement: Replacement, undo: Undo, name: str = "forward") -> None:
    """Let ``replacement`` stand for the forward of ``module``, or another method of that name, in calls of ``run``.

    What takes it away again is added to ``undo``.
    """
    entry = (run, replacement)
    undo.append(functools.partial(rejoin, module, entry))
    part(module, entry)
    undo.append(functools.partial(_locked, _take_away, module, name, entry))
    _locked(_put_in_place, module, name, entry)


def _locked(change: Callable[..., None], module: torch.nn.Module, name: str, entry: tuple[Any, Replacement]) -> None:
    with _lock: return change(module, name, entry)  # on one line: an interrupt between two would leave it locked


def _put_in_place(module: torch.nn.Module, name: str, entry: tuple[Any, Replacement]) -> None:
    stand_in = _stand_ins.get((id(module), name))
    if stand_in is None:
        stand_in = _stand_ins[id(module), name] = _StandIn(module, name)
        module.__dict__[name] = stand_in
    stand_in.runs = [*stand_in.runs, entry]


def _take_away(module: torch.nn.Module, name: str, entry: tuple[Any, Replacement]) -> None:
    stand_in = _stand_ins.get((id(module), name))
    if stand_in is None:
        return
    stand_in.runs = [other for other in stand_in.runs if other is not entry]
    if stand_in.runs:
        return
    now: Any = module.__dict__.get(name)
    if now is stand_in:
        before = stand_in.before
        if before is None:
            del module.__dict__[name]
        else:
            module.__dict__[name] = before
    del _stand_ins[id(module), name]
