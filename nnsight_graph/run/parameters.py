"""Parameters that are others for one run: whoever looks one up on its module, in that run, finds what stands for it.

A module's table of parameters is replaced, while any run asks for that, by one that looks up the run it is read in. So it does not matter
who reads the parameter (the module's own forward, its parent's, a line of the trace), and other threads see their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..errors import NNsightError
from ..ops.running import current
from .apart import Table, part, rejoin
from .undoing import Undo

_lock = threading.RLock()
_asking = current.get


class _Table(Table):
    """A module's table of parameters, or of buffers, while a run replaces some of them."""

    __slots__ = ("path", "users")

    def __init__(self, original: dict[str, Any], path: str) -> None:
        super().__init__(original)
        self.path = path
        self.users: set[object] = set()

    def __getitem__(self, name: str) -> Any:
        run = _asking()
        if run is not None and run.parameters:
            given = run.parameters.get(self.path)
            if given is not None and name in given:
                value = given[name]
                _check_like(f"{self.path}.{name}" if self.path else name, super().__getitem__(name), value)
                return value
        return super().__getitem__(name)


def watch_parameters(module: torch.nn.Module, path: str, undo: Undo) -> None:
    """Let a run replace parameters and buffers of ``module``; what ends that is added to ``undo``."""
    user = object()
    undo.append(partial(rejoin, module, user))
    part(module, user)
    undo.append(partial(_locked, _take_away, module, path, user))
    _locked(_put_in_place, module, path, user)


_TABLES = ("_parameters", "_buffers")


def _locked(change: Callable[..., None], module: torch.nn.Module, path: str, user: object) -> None:
    with _lock: return change(module, path, user)  # on one line: an interrupt between two would leave it locked


def _put_in_place(module: torch.nn.Module, path: str, user: object) -> None:
    for name in _TABLES:
        table = module.__dict__[name]
        if type(table) is not _Table:
            table = _Table(table, path)
        table.users = {*table.users, user}
        module.__dict__[name] = table


def _take_away(module: torch.nn.Module, _path: str, user: object) -> None:
    for name in _TABLES:
        table = module.__dict__[name]
        if type(table) is not _Table:
            continue
        table.users = table.users - {user}
        if not table.users:
            _bring_up_to_date(table.original, dict(dict.items(table)))
            module.__dict__[name] = table.original


def _bring_up_to_date(original: dict[str, Any], now: dict[str, Any]) -> None:
    """A parameter was given to the module, or taken from it, while the table was replaced."""
    if list(original) == list(now) and all(original[name] is now[name] for name in now):
        return
    for name in [name for name in original if name not in now]:
        del original[name]
    for name, value in now.items():  # in their order
        original.pop(name, None)
        original[name] = value


def with_flat_weights(run: Any, path: str) -> Callable[..., Any]:
    """What stands for the forward of a recurrent module, which keeps a list of its parameters."""

    def forward(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module: Any = getattr(original, "__self__", None)
        if not run.parameters.get(path) or module is None:
            return original(*args, **kwargs)
        made = module.__new__(type(module))
        made.__dict__.update(module.__dict__)
        made.__dict__["_flat_weights"] = [getattr(module, name) for name in module._flat_weights_names]
        return type(module).forward(made, *args, **kwargs)

    return forward


def _check_like(name: str, old: Any, new: Any) -> None:
    if not isinstance(new, torch.Tensor):
        raise NNsightError(f"{name} is a tensor; what stands for it in this run is a {type(new).__name__}")
    if old is None or new.shape != old.shape or new.dtype != old.dtype:
        kinds = ["None" if tensor is None else f"{tensor.dtype} of {list(tensor.shape)}" for tensor in (old, new)]
        raise NNsightError(f"{name} is {kinds[0]}; what stands for it in this run is {kinds[1]}")
