"""A run in this process, on the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..compile import Plan
from ..compile.plan import Visit
from ..ops.data import untrusted
from ..ops.layout import Rows
from ..ops.nested import map_tensors
from ..ops.running import current
from .detours import Leave
from .engine import Run
from .evidence import Layouts, rows_in
from .hooks import install, install_captures
from .modules import ModuleIndex
from .overwriting import watching
from .undoing import Undo, leave, thread, undo_dead
from .untrusted import UntrustedRun

_MAKES_NEW = frozenset((torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Embedding, torch.nn.GELU, torch.nn.Tanh, torch.nn.Sigmoid))


def prepare(plan: Plan, constants: Sequence[Any], modules: ModuleIndex, rows: Sequence[Rows] = (), layouts: Layouts | None = None) -> Run:
    """A run of ``plan`` that has not begun; ``layouts`` tell where the rows of several inputs lie."""
    slots = [*plan.fixed, *constants]
    slots += [modules.parameter(path) if is_parameter else modules.modules[path] for path, is_parameter in plan.modules]
    slots += [rows_in(key, rows) if layouts is None else layouts.rows_in(key, rows) for key in plan.layouts]
    slots += [None] * plan.blanks
    stranger = untrusted()
    run = Run(plan, slots) if stranger is None else UntrustedRun(plan, slots, stranger.strange)
    run.modules = modules
    if layouts is not None:
        run.layouts = layouts
    return run


def execute(run: Run, modules: ModuleIndex, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run ``function(*args, **kwargs)`` with the interventions of a plan; afterwards the run has values, or an error.

    Raises:
        Exception: what the model itself raised.
    """
    plan, given = run.plan, (args, kwargs)
    called = isinstance(run, UntrustedRun) and not all(is_parameter for _, is_parameter in plan.modules)  # it may work in place
    if called or (plan.edited and not all(_is_fresh(plan.visits[index], modules) for index in plan.edited)):
        args = tuple([map_tensors(value, torch.Tensor.clone) for value in args])
        kwargs = {name: map_tensors(value, torch.Tensor.clone) for name, value in kwargs.items()} if kwargs else kwargs
    undo: Undo = []
    runs, before, watch = thread.runs, current.get(), None
    if runs:
        before = undo_dead(runs, _CODE)
    try:
        try:
            runs.append((undo, run, before))
            current.set(run)
            if isinstance(run, UntrustedRun):
                run.guard(modules.root, given, undo)
            if kwargs and any(value for name, value in kwargs.items() if name.startswith("output_")):
                undo.append(_forwards_of(modules.root))
            if plan.prologue:
                _start(run)
            install(run, modules, undo)
            if run.captures:
                install_captures(run, modules, undo)
                watch = watching(run.captures)
                if watch is not None:
                    undo.append(watch.begin())
                    watch.__enter__()  # type: ignore[no-untyped-call]
            result = function(*args, **kwargs)
            if watch is not None:
                watch.learn()
            if run.error is None and (plan.repeats or plan.ends):
                run.end()
            if plan.result >= 0 and run.error is None:
                run.arrive(plan.result, result)
            run.check_saved()
        except Leave:
            if run.error is None:  # it was stopped
                run.check_saved()
        finally:
            for take_away in reversed(undo):
                take_away()
            if run.gradients is not None:
                run.gradients.forget()
            current.set(before)
            if runs and runs[-1][0] is undo:
                runs.pop()
    except BaseException:
        if runs and runs[-1][0] is undo:  # an interrupt has come while things were taken away
            leave(undo, run, before)
            runs.pop()
        raise


_CODE = execute.__code__


def _forwards_of(root: torch.nn.Module) -> Callable[[], None]:
    """Transformers 4 replaces forwards while it collects states, and leaves them so if a forward is left: what brings them back."""
    before = [(module, module.__dict__.get("forward")) for module in root.modules()]

    def restore() -> None:
        for module, forward in before:
            if module.__dict__.get("forward") is not forward:
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward

    return restore


def _is_fresh(visit: Visit, modules: ModuleIndex) -> bool:
    """Whether what passes there is surely new, or a gradient, so that an edit of it cannot reach the caller's own tensors."""
    if visit.direction == "grad":
        return True
    module = modules.modules.get(visit.path)
    return visit.direction == "out" and module is not None and type(module) in _MAKES_NEW and not module._forward_hooks


def _start(run: Run) -> None:
    """Run what waits for no visit."""
    try:
        run.fire(list(run.plan.prologue), [])
    except Exception as error:
        run.error = error
        raise Leave from None
    if run.stopped >= 0:
        raise Leave
