"""Hooks on the modules of a plan, for one run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..compile.plan import Passes
from ..ops.running import current
from .apart import put, take
from .capture import capture_hooks
from .engine import Run
from .forwards import replace_forward
from .modules import ModuleIndex
from .operations import install_operations, parted
from .parameters import watch_parameters, with_flat_weights
from .undoing import Undo

_asking = current.get
Hook = Callable[..., Any]


def output_hook(run: Run, index: int) -> Hook:
    """A forward hook that brings a module's output to visit ``index`` of ``run``."""
    seen, arrive = run.seen, run.arrive

    def hook(_module: torch.nn.Module, _args: Any, output: Any, *_late: Any) -> Any:
        if _asking() is not run or run.busy or seen[index]:
            return None
        return arrive(index, output)

    return hook


def keeping_hook(run: Run, index: int, slot: int) -> Hook:
    """The short form for an output that is only kept: nothing waits for it, nothing edits it."""
    seen, slots, noted = run.seen, run.slots, run.noted

    def hook(_module: torch.nn.Module, _args: Any, output: Any, *_late: Any) -> Any:
        if _asking() is not run or run.busy or seen[index]:
            return None
        if type(output) is not torch.Tensor or output.is_inference():
            return run.arrive(index, output)
        seen[index] = True
        slots[slot] = output
        noted[slot] = (output._version,)
        return None

    return hook


def input_hook(run: Run, index: int) -> Hook:
    """A forward pre-hook that brings a module's arguments to visit ``index`` of ``run``."""
    seen, arrive = run.seen, run.arrive

    def hook(_module: torch.nn.Module, args: Any, kwargs: Any = None) -> Any:
        if kwargs is None or _asking() is not run or run.busy or seen[index]:
            return None
        return arrive(index, (args, kwargs))

    return hook


class Repeated:
    """Brings the passes of one module to the visits of their step and call."""

    __slots__ = ("before", "call", "lasts", "most", "passes", "run", "step")

    def __init__(self, run: Run, passes: Passes) -> None:
        self.run = run
        self.passes = passes
        self.lasts = {call: index for (step, call), index in passes.items() if step == "last"}
        self.step, self.call = -1, -1
        self.before: dict[int, int] = {}  # the calls of earlier steps, where several modules count steps of their own
        plan = run.plan
        self.most = plan.limit if plan.by_calls and any(plan.visits[index].optional for index in passes.values()) else 0

    def bring(self, value: Any) -> Any:
        """What passes on, or ``None`` to leave it."""
        run = self.run
        if run.driving is not None and not run.driving.driver:
            return self._undriven(value)
        if run.step == self.step:
            self.call += 1
        elif run.driving is None:
            self.step, self.call = run.step, 0
        else:
            self.before[self.step] = self.call + 1
            self.step = run.step
            self.call = self.before.get(self.step, 0)
        if run.driving is not None and self.call and not self.step:
            run.driving.instead.add(self.passes.get((self.call, 0), -1))
        index = self.passes.get((self.step, self.call), -1)
        if self.most and self.call >= self.most:
            run.exceed()
        if index >= 0 and (run.overdue or index in run.plan.begins):
            run.begin_turns(index)
        result = run.arrive(index, value) if index >= 0 else None
        if self.lasts and (last := self.lasts.get(0 if run.plan.by_calls else self.call, -1)) >= 0:
            run.keep_last(last, value if result is None else result)
        return result

    def _undriven(self, value: Any) -> Any:
        """The same while no driver is known: a call belongs to the first step, and to the step that the module around it counts."""
        run, result = self.run, None
        own = self.before.get(run.step, 0)
        self.before[run.step] = own + 1
        self.step, self.call = 0, self.call + 1
        for step, call in dict.fromkeys(((0, self.call), (run.step, own))):
            index = self.passes.get((step, call), -1)
            if index >= 0 and not run.seen[index]:
                run.driving.note(index if step else -1)  # type: ignore[union-attr]
                changed = run.arrive(index, value if result is None else result)
                result = result if changed is None else changed
        if (last := self.lasts.get(own, -1)) >= 0:
            run.keep_last(last, value if result is None else result)
        return result


def repeated_output_hook(run: Run, passes: Passes) -> Hook:
    """A forward hook for a module of which more than the first pass is wanted."""
    bring = Repeated(run, passes).bring

    def hook(_module: torch.nn.Module, _args: Any, output: Any, *_late: Any) -> Any:
        return None if _asking() is not run or run.busy else bring(output)

    return hook


def repeated_input_hook(run: Run, passes: Passes) -> Hook:
    """A forward pre-hook for a module of which more than the first pass is wanted."""
    bring = Repeated(run, passes).bring

    def hook(_module: torch.nn.Module, args: Any, kwargs: Any = None) -> Any:
        return None if kwargs is None or _asking() is not run or run.busy else bring((args, kwargs))

    return hook


def step_hook(run: Run) -> Hook:
    """A forward pre-hook of the model itself, which counts its forwards."""

    def hook(_module: torch.nn.Module, _args: Any, _kwargs: Any = None) -> Any:
        if _asking() is run and not run.busy:
            run.begin_step()

    return hook


def _count_steps(run: Run, modules: ModuleIndex, undo: Undo) -> None:
    if run.driving is not None:
        run.driving.install(add_hook, undo)
    elif run.plan.by_calls:
        add_hook(modules.root, "_forward_pre_hooks", lambda *_given: run.tick and run.tick(0), True, undo)
    else:
        add_hook(modules.root, "_forward_pre_hooks", step_hook(run), True, undo)


def install(run: Run, modules: ModuleIndex, undo: Undo) -> None:
    """Put the hooks of a run on their modules, after the user's own; what is added to ``undo`` takes them away again."""
    plan = run.plan
    counts, operations = bool(plan.repeats or plan.ends or plan.came) and not plan.by_calls, False
    outside = any(path not in modules.modules and parted(path, modules.modules) is None for path in plan.hooks)
    if counts or outside or run.tick is not None:
        _count_steps(run, modules, undo)
    for path, (before, after) in plan.hooks.items():
        module = modules.modules.get(path)
        if module is None and parted(path, modules.modules) is not None:
            operations = True
            continue
        if module is None:
            run.outside = {**run.outside, path: Repeated(run, after).bring}
            continue
        if path in plan.skips:
            replace_forward(module, run, run.forward_of(path), undo)
        if before:
            pre_hook = repeated_input_hook(run, before) if plan.repeats else input_hook(run, before[0, 0])
            add_hook(module, "_forward_pre_hooks", pre_hook, True, undo)
        if after:
            hook = repeated_output_hook(run, after) if plan.repeats else _single(run, after[0, 0])
            add_hook(module, "_forward_hooks", hook, False, undo)
    for path in plan.replaced:
        watch_parameters(modules.modules[path], path, undo)
        if isinstance(modules.modules[path], torch.nn.RNNBase):
            replace_forward(modules.modules[path], run, with_flat_weights(run, path), undo)
    if operations:
        install_operations(run, modules, lambda passes: _bringing(run, passes), undo)


def _bringing(run: Run, passes: Passes) -> Callable[[Any], Any]:
    """What brings the values of an operation to their visits."""
    if run.plan.repeats:
        return Repeated(run, passes).bring
    index, seen = passes[0, 0], run.seen
    return lambda value: None if seen[index] else run.arrive(index, value)


def install_captures(run: Run, modules: ModuleIndex, undo: Undo) -> None:
    """The same for its caches: they come last, and so see what other hooks have made of a value."""
    for capture in run.captures:
        for path in modules.modules if capture.spec.paths is None else capture.spec.paths:
            for table, hook in capture_hooks(capture, path):
                add_hook(modules.modules[path], table, hook, table == "_forward_pre_hooks", undo)


def _single(run: Run, index: int) -> Hook:
    visit = run.plan.visits[index]
    kept = visit.only_kept and not run.plan.guards and not run.left
    return keeping_hook(run, index, visit.slot) if kept else output_hook(run, index)


def _add_directly(module: torch.nn.Module, table: str, hook: Hook, with_kwargs: bool, undo: Undo) -> None:
    if table == "always":  # a forward hook that is called also where the forward raises
        _put(module.__dict__["_forward_hooks_always_called"], hook, True, undo)
        _put(module.__dict__["_forward_hooks"], hook, hook, undo)
        return
    hooks: OrderedDict[Any, Hook] = module.__dict__[table]
    if not with_kwargs:
        capturing = [key for key, other in list(hooks.items()) if _captures(other)] if hooks else ()
        undo.append(partial(take, hooks, hook))
        put(hooks, hook, hook)
        for key in capturing:  # transformers keeps its hooks once it has captured: they record what the model goes on with
            hooks.move_to_end(key)
        return
    flags: dict[Any, bool] = module.__dict__[table + "_with_kwargs"]
    undo.append(partial(take, flags, hook))
    put(flags, hook, True)
    undo.append(partial(take, hooks, hook))
    put(hooks, hook, hook)


def _add_always(module: torch.nn.Module, hook: Hook) -> Callable[[], None]:
    """A forward hook that is called also where the forward raises."""
    hooks, flags = module.__dict__["_forward_hooks"], module.__dict__["_forward_hooks_always_called"]
    put(flags, hook, True)
    put(hooks, hook, hook)

    def remove() -> None:
        take(hooks, hook)
        take(flags, hook)

    return remove


def _captures(hook: Hook) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


def _put(table: Any, hook: Hook, value: Any, undo: Undo) -> None:
    undo.append(partial(take, table, hook))
    put(table, hook, value)


def _add_publicly(module: torch.nn.Module, table: str, hook: Hook, with_kwargs: bool, undo: Undo) -> None:
    if table in ("_forward_hooks", "always"):
        undo.append(module.register_forward_hook(hook, always_call=table == "always").remove)
    else:
        undo.append(module.register_forward_pre_hook(hook, with_kwargs=with_kwargs).remove)


def _tables_are_as_expected() -> bool:
    names = ("_forward_hooks", "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    fresh = torch.nn.Module().__dict__
    return all(isinstance(fresh.get(name), dict) for name in names)


add_hook = _add_directly if _tables_are_as_expected() else _add_publicly
"""Puts a hook into a table of a module.

A dictionary entry costs a twentieth of a registration; the public way stays for a torch that keeps hooks elsewhere.
"""
