"""Which module drives a run of several forwards: each forward of it is a step.

It is the model itself, or the module inside it whose ``generate`` runs. In a method that calls neither, as a pipeline's may, each
module that the method calls drives what is in it: there is no other count than its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch

from ..errors import NNsightError
from ..ops.running import current
from .detours import Leave
from .modules import ModuleIndex
from .undoing import Undo, undo_all

Add = Callable[[torch.nn.Module, str, Callable[..., Any], bool, Undo], None]
"""Puts a hook into a module's table of that name; what takes it out again is added to a list."""

_asking = current.get


def drives_itself(root: torch.nn.Module, function: str) -> bool:
    """Whether it is known beforehand that a method calls the model itself: transformers' own ``generate`` does."""
    return str(getattr(getattr(type(root), function, None), "__module__", "")).startswith("transformers.generation.")


class Driving:
    """Counts the forwards of the modules that a method calls, and tells the run which step each begins.

    Attributes:
        driver: Whether the model itself, or a module whose ``generate`` runs, has been called.
        early: The first visit that came in a step after the first, while no driver was known; -1 if none did.
        instead: The visits of later steps whose module was called as often in the first: if no other step comes, they were meant as calls.
        counts: The forwards of each driver, by path.
    """

    def __init__(self, run: Any, modules: ModuleIndex) -> None:
        self.run = run
        self.modules = modules.modules
        self.root = modules.root
        self.counts: dict[str, int] = {}
        self.driver = False
        self.early = -1
        self.instead: set[int] = set()
        self._others: dict[str, int] = {}
        self._inside: tuple[str, bool] | None = None
        self._may = {path for path, one in self.modules.items() if not path or callable(getattr(type(one), "generate", None))}
        self._generating: set[str] = set()

    def install(self, add: Add, undo: Undo) -> None:
        """Listen to every module: which are called is not known before."""
        for path, module in self.modules.items():
            add(module, "_forward_pre_hooks", self._entering(path, add, undo), True, undo)

    def _entering(self, path: str, add: Add, undo: Undo) -> Callable[..., None]:
        generates = path in self._may
        run = self.run

        def enter(module: torch.nn.Module, _args: Any, _kwargs: Any = None) -> None:
            around = self._inside
            if (around is not None and (around[1] or not generates)) or _asking() is not run or run.busy:
                return
            drives = generates and self._is_driver(path, module)
            if around is None or drives:
                self._inside = path, drives
                self._note_leaving(module, around, add, undo)
                self._begin(path, drives)

        return enter

    def _note_leaving(self, module: torch.nn.Module, around: tuple[str, bool] | None, add: Add, undo: Undo) -> None:
        """Note when the forward of ``module`` that begins now is over, also where it raises."""
        own: Undo = []

        def leave(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
            if _asking() is self.run and not self.run.busy:
                self._inside = around
                undo_all(own)

        undo.append(partial(undo_all, own))
        add(module, "always", leave, False, own)

    def _may_drive(self, path: str) -> bool:
        """Whether a module is, or is part of, one that has a ``generate``."""
        return any(other and (path == other or path.startswith(f"{other}.")) for other in self._may)

    def _is_driver(self, path: str, module: torch.nn.Module) -> bool:
        if module is self.root or path in self._generating:
            return True
        if _runs_generate(module, sys._getframe(2)):
            self._generating.add(path)
        return path in self._generating

    def _begin(self, path: str, drives: bool) -> None:
        run = self.run
        if not drives and (self.driver or self._may_drive(path)):
            return  # what is called before, or between, the steps of a driver belongs to the one that goes on
        if drives and not self.driver:
            self.driver, run.forwards = True, 0
            if self.early >= 0:
                run.failed, run.error, run.busy = ("counted", self.early, path), NNsightError("counted"), True
                raise Leave
        counts = self.counts if drives else self._others
        step = max([count for other, count in counts.items() if other == path or (drives and _overlap(path, other))], default=0)
        counts[path] = step + 1
        run.begin_step(step)

    def note(self, index: int) -> None:
        """A visit comes in a step after the first."""
        if not self.driver and self.early < 0:
            self.early = index


def _overlap(one: str, other: str) -> bool:
    """Whether one module is inside the other, or is it."""
    return not one or not other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _runs_generate(module: torch.nn.Module, frame: FrameType | None) -> bool:
    """Whether ``generate`` of ``module`` is on the stack."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "generate" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is module:
            return True
        frame = frame.f_back
    return False
