"""One run of a recorded trace: compiled, checked where that is due, executed, its values given out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from ..compile import Plan, cached_plan
from ..errors import NNsightError
from ..ops.control import NEVER
from ..ops.evaluate import UNBOUND
from ..record import Recording
from ..run import Run, execute, prepare
from ..run.driving import Driving, drives_itself
from ..run.early import end_early
from ..run.failures import explain, missed, unset_reasons
from ..run.limits import Meter
from ..run.progress import progress
from ..run.untrusted import UntrustedRun
from ..source_location import traceback_at
from .cache import Caches
from .invoker import UNKNOWN, Call
from .layouts import layouts_of
from .rehearsing import check, note_changes

if TYPE_CHECKING:
    from .nnsight import NNsight

Give = Callable[[int, Any], None]


def run_trace(
    envoy: NNsight, recording: Recording, call: Call, frame: FrameType | None, give: Give, *,
    validate: bool | str = False, shown: bool = False, caches: Caches | None = None, meter: Meter | None = None, whole: bool = False,
) -> tuple[BaseException | None, dict[int, str]]:  # fmt: skip
    """Run a call of a model with what was recorded.

    Args:
        envoy: The model.
        recording: The program.
        call: The call.
        frame: The user's frame.
        give: Gets the value of each saved node that was reached.
        validate: Whether the program is checked on fakes first.
        shown: Whether a bar shows how many forwards are done.
        caches: What is kept of all modules.
        meter: What keeps the program within its limits.
        whole: Whether the model's own operations are to be within them, too.

    Returns:
        The error of the run, on the user's line, or ``None``; and why saved nodes have no value.

    Raises:
        BaseException: what the model itself raised.
    """
    tree, plan, own = envoy._tree, None, envoy._returns_result
    try:
        plan = cached_plan(recording.key, recording.graph, call.most_steps if recording.open_ended else 1, not call.function)
        if not tree.index.are_as_listed(plan.hooks):  # a module was put in another's place since
            tree.replace(tree.index.root)
    except NNsightError as refused:
        return _on_its_line(refused, plan, recording, frame), {}
    if (plan.fresh or validate is True) and (problem := _checked(envoy, recording, call, plan, frame, validate)) is not None:
        return problem, {}
    plan.fresh = False
    function = envoy._callable(call.function)  # loads weights that are not there yet
    if call.before is not None:
        try:
            call.before()
        except NNsightError as refused:
            return refused.with_traceback(None), {}
    if not own:
        function = partial(envoy.interleave, function)
    modules = tree.index
    constants = recording.constants if recording.edits_constants else modules.beside(recording.constants)
    layouts = None
    if plan.layouts and len(call.rows) > 1:
        declarations = {**recording.declared, **tree.declared}
        layouts = layouts_of(envoy, call, declarations, plan.repeats or bool(plan.caches), plan.hooks)
    run = prepare(plan, constants, modules, call.rows, layouts)
    if whole and isinstance(run, UntrustedRun):
        give = run.exporting(give)
    if call.function and not drives_itself(modules.root, call.function):
        run.driving = Driving(run, modules)
    if plan.ends_early and own and not call.function:
        end_early(run, modules, call.args, call.kwargs)
    if caches is not None:
        try:
            run.captures = caches.captures(run, modules)
        except NNsightError as refused:
            return _on_its_line(refused, None, recording, frame), {}
    complete = False
    try:
        if shown or meter is not None:
            with _watched(run, modules.root, call, shown, meter, whole):
                execute(run, modules, function, call.args, call.kwargs)
        else:
            execute(run, modules, function, call.args, call.kwargs)
        reasons = {} if _settle(run, give) else unset_reasons(run, recording)
        problem = explain(run, recording, modules, frame) if run.error is not None else missed(run, recording, frame)
        complete = problem is None
    except BaseException as raised:
        _settle(run, give)
        run.let_go()
        note_changes(envoy, recording, call, raised)
        raise
    finally:
        if caches is not None:
            caches.fill(run.captures, complete)
    run.let_go()
    return problem, reasons


@contextmanager
def _watched(run: Run, root: torch.nn.Module, call: Call, shown: bool, meter: Meter | None, whole: bool) -> Iterator[None]:
    """A run with a bar that shows its forwards, within limits, or both."""
    run.meter = meter
    with (
        progress(run, None if call.steps == UNKNOWN else call.steps) if shown else nullcontext(),
        meter.around(root, whole) if meter is not None else nullcontext(),
    ):
        yield


def _checked(
    envoy: NNsight, recording: Recording, call: Call, plan: Plan, frame: FrameType | None, wanted: bool | str
) -> BaseException | None:
    """The error that a rehearsal finds, where there is to be one."""
    if wanted is True or (wanted == "auto" and (not envoy.dispatched or envoy._scanned(call))):
        return check(envoy, recording, call, plan, frame, wanted is True)
    return None


def _on_its_line(refused: NNsightError, plan: Plan | None, recording: Recording, frame: FrameType | None) -> NNsightError:
    """An error that knows the node, or the module, it is about."""
    node = getattr(refused, "node", None)
    if plan is not None and hasattr(refused, "path"):
        before, after = plan.hooks[refused.path]
        node = plan.visits[next(iter((after or before).values()))].nodes[0]
    return refused if node is None else refused.with_traceback(traceback_at(recording.place(node), frame))


def _settle(run: Run, give: Give) -> bool:
    """Give out the values that were reached; whether all were."""
    everything = True
    given, slots = run.plan.given, run.slots
    for node, slot, segment, visit in run.plan.saved:
        reached = (segment < 0 or run.waits[segment] == -1) and (visit < 0 or run.seen[visit]) and slot != run.lost
        taken = not given or node not in given or slots[given[node][0]] is given[node][1]
        if reached and taken and slots[slot] is not NEVER and slots[slot] is not UNBOUND:
            give(node, slots[slot])
        else:
            everything = False
    return everything
