"""What went wrong in a run, as an error that stands on the user's line."""

from __future__ import annotations

from types import FrameType, TracebackType
from typing import Any

import torch

from ..config import CONFIG
from ..errors import MissedSiteError, NNsightError, OutOfOrderError, add_note, derived
from ..graph import Const, Ref, Site, graph_text, walk
from ..ops.control import NEVER
from ..ops.evaluate import UNBOUND
from ..ops.nested import tensors_in
from ..record import Recording
from ..record.every import EVERY
from ..source_location import Location, is_users, locate, traceback_at
from .attention import NAME as WEIGHTS
from .edits_seen import line_at_fault
from .engine import Run
from .modules import ModuleIndex


def explain(run: Run, recording: Recording, modules: ModuleIndex, frame: FrameType | None) -> BaseException:
    """The error of a failed run, as the user should see it: raise it, and drop the run."""
    original = run.error
    assert original is not None
    failed, run.error = run.failed, None
    error: BaseException
    if type(failed) is tuple and failed and failed[0] == "late":
        error, node = _late(run, recording, *failed[1:]), failed[1]
    elif type(failed) is tuple and failed and failed[0] == "overwritten":
        error, node = _overwritten(run, recording, modules, *failed[1:])
    elif type(failed) is tuple and failed and failed[0] == "gradient":
        node = run.plan.visits[failed[1]].nodes[0]
        error = NNsightError(
            "no gradient came: no path leads from the loss of the next backward to this value. What the model used may be another tensor "
            "(a copy, or one made under no_grad), or the value comes after the loss."
        )
    elif type(failed) is tuple and failed and failed[0] == "kept":
        node = failed[1]
        error = NNsightError(
            f"{failed[2] or 'the model'} was overwritten in place by the model after the cache had kept it. "
            "Keep copies: tracer.cache(..., copy=True)."
        )
    elif type(failed) is tuple and failed and failed[0] == "limit":
        node = next((node for node, entry in enumerate(recording.entries) if _is_open(entry)), 0)
        error = NNsightError(
            f"this loop over all steps was made for {run.plan.limit}, and the model makes more. Say how many it takes part in: iter[:n]."
        )
    elif type(failed) is tuple and failed and failed[0] == "counted":
        node, path = run.plan.visits[failed[1]].nodes[0], run.plan.visits[failed[1]].path
        error = NNsightError(
            f"a call of {path} was taken for step {run.plan.visits[failed[1]].step}, and then {failed[2] or 'the model'} began to run, "
            f"whose forwards are the steps. Say which call you mean: .call[{run.plan.visits[failed[1]].step}] in step 0."
        )
    elif type(failed) is tuple and failed and failed[0] == "refused":
        error, node = type(original)(str(original)), failed[1]
    elif type(failed) is tuple and failed and failed[0] == "checkpoint":
        node = run.plan.visits[failed[1]].nodes[0]
        error = NNsightError(
            f"{_site_name(run, failed[1])} lies in an activation checkpoint: the backward pass would compute it again without what the "
            "trace changes. Switch checkpointing off, or trace under torch.no_grad()."
        )
    elif (edit := line_at_fault(original, run.edits)) >= 0:
        error, node = _needed(original, recording, failed[6] if failed else edit), edit
    else:
        error, node = _raised(original, failed), failed[6] if failed else 0
        if isinstance(original, IndexError) and _takes_first_row(recording, node):
            add_note(error, _FIRST_ROW)
        if failed and CONFIG.APP.DEBUG:
            add_note(error, _operands(run, failed))
    error.__traceback__ = traceback_at(recording.place(node), frame)
    if CONFIG.APP.DEBUG:
        add_note(error, "in the recorded graph:\n" + graph_text(recording.graph(), around=node))
    _let_go(original)
    run.slots.clear()
    return error


_FIRST_ROW = (
    "the module returns a tensor here, of which [0] is the first row: write .output[:, -1] for the last token, .hidden_states, or load the "
    "model with tuple_outputs=True"
)


def _takes_first_row(recording: Recording, number: int) -> bool:
    """Whether a line indexes ``module.output[0]``, as in code for versions of transformers in which blocks return tuples."""
    nodes = {node.number: node for node in walk(recording.plain().body)}
    node = nodes.get(number)
    while node is not None and node.target in ("getitem", "setitem") and type(node.operands[0]) is Ref:
        base, index = nodes[node.operands[0].node], node.operands[1]
        if base.target == "read" and base.site is not None and base.site.point == "output":
            return type(index) is Const and node.target == "getitem" and recording.constants[index.index] == 0
        node = base
    return False


def _needed(original: BaseException, recording: Recording, backward: int) -> BaseException:
    """A backward failed for an edit in place: the error stands at that line."""
    at = _at(recording, backward)
    error = derived(original)
    text = str(original).partition(" Hint:")[0]
    what = f"this line edits in place what the backward of {at.full} needs as it was"
    advice = "Assign a new value in place of the edit: h = site.clone(), edit h, then site = h; and for h += x write h = h + x"
    error.args = (f"{what}. {advice}. Torch says: {text}",)
    return error


def rehearsed(failure: Any, recording: Recording, frame: FrameType | None) -> BaseException:
    """The error of a line that would fail, found on fakes before the model ran."""
    error = _raised(failure.error, None)
    error.args = tuple(arg.replace("FakeTensor", "Tensor") if isinstance(arg, str) else arg for arg in error.args)
    assigned = recording.entries[failure.node][0] in ("write", "skip") and len(failure.operands) == 3
    if assigned:
        old, new, at = failure.operands
        site = recording.entries[failure.node][1]
        what = f"{site} is {old}; this line assigns {new}"
        if site.point == "inputs" and recording.entries[failure.node][0] == "skip":
            what = f"{site.path} returns {old}; this line gives {new} in its place"
        add_note(error, f"{what}, and the model then fails in {at}")
    if isinstance(failure.error, IndexError) and _takes_first_row(recording, failure.node):
        add_note(error, _FIRST_ROW)
    if CONFIG.APP.DEBUG:
        if failure.operands and not assigned:
            add_note(error, "operands: " + ", ".join(failure.operands))
        text = graph_text(recording.whole(), around=failure.node)
        add_note(error, f"found on fake tensors, before the model ran; in the recorded graph:\n{text}")
    error.__traceback__ = traceback_at(recording.place(failure.node), frame)
    return error


def raised_at(original: BaseException, recording: Recording, node: int, frame: FrameType | None) -> BaseException:
    """An error of a line that ran by itself, between the traces of a session."""
    error = _raised(original, None)
    error.__traceback__ = traceback_at(recording.place(node), frame)
    if CONFIG.APP.DEBUG:
        add_note(error, "in the recorded graph:\n" + graph_text(recording.plain(), around=node))
    _let_go(original)
    return error


def _raised(original: BaseException, failed: Any) -> BaseException:
    """An error of torch, or of the user's function, in the class that is also an :class:`NNsightError`."""
    if isinstance(original, NNsightError):
        return type(original)(*original.args)
    return derived(original)


def _operands(run: Run, failed: Any) -> str:
    kind, _, _, a, b, rest, _ = failed
    slots = [a, b, rest][:kind] if 1 <= kind <= 3 else ([*rest[0], *(slot for _, slot in rest[1])] if kind == 0 else [])
    values = [run.slots[slot] for slot in slots if type(slot) is int and slot < len(run.slots)]
    shown = [description(value) for value in values if not (isinstance(value, str) and value.startswith("mutates:"))]
    return "operands: " + ", ".join(shown) if shown else "operands: none"


def description(value: Any) -> str:
    """A value in a few words: dtype, shape and device of a tensor, the type of a container.

    >>> description(torch.zeros(2, 3))
    'float32[2, 3] on cpu'
    """
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device}"
    if isinstance(value, (tuple, list)) and len(value) <= 4:
        inner = ", ".join(map(description, value))
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    holds = isinstance(value, (dict, tuple, list)) and next(tensors_in(value), None) is not None
    text = type(value).__name__ if holds else repr(value)
    return text if len(text) <= 60 else type(value).__name__


def _at(recording: Recording, node: int) -> Location:
    return locate(recording.place(node))


def _site_name(run: Run, index: int) -> str:
    visit = run.plan.visits[index]
    if index in run.plan.came.values():
        return f"step {visit.step}"
    if index in run.plan.ends:
        return "the end of the run"
    point = {"in": "input", "out": "output", "result": "result"}.get(visit.direction, visit.direction)
    return str(Site(visit.path, point, visit.call, visit.step))


def _is_open(entry: tuple[Any, ...]) -> bool:
    """Whether an entry opens a loop over all steps, or is about every step."""
    if entry[0] == "steps":
        return ":None:" in entry[1]
    return len(entry) > 1 and type(entry[1]) is Site and entry[1].step == EVERY


def _late(run: Run, recording: Recording, node: int, index: int, segment: int) -> OutOfOrderError:
    needs = run.plan.segments[segment].needs
    missing = [i for i, seen in enumerate(run.seen) if not seen and needs >> i & 1]
    at = _at(recording, node)
    sources = [f"{_site_name(run, i)} ({_at(recording, run.plan.visits[i].nodes[0])})" for i in missing]
    what = f"changes {_site_name(run, index)}"
    if recording.entries[node][0] == "replace":
        what = f"replaces a parameter of {run.plan.visits[index].path or 'the model'}"
    if recording.entries[node][0] == "skip":
        what = f"skips {run.plan.visits[index].path or 'the model'}"
    return OutOfOrderError(
        f"{at.full}, `{at.text}`, {what}, but needs {', '.join(sources)}, which the model "
        f"reaches only after it. Take that value from an earlier trace; or, if the edit is not meant for the model, edit a .clone()."
    )


def _overwritten(run: Run, recording: Recording, modules: ModuleIndex, slot: int, cells: Any = None) -> tuple[NNsightError, int]:
    cells = cells or next((owners for group in _held(run) for held, owners in group if held == slot), None)
    cells = cells or tuple(index for index, visit in enumerate(run.plan.visits) if visit.slot == slot)
    site = _site_name(run, cells[0])
    node = run.plan.visits[cells[0]].nodes[0]
    suspects = [path for path, module in modules.modules.items() if getattr(module, "inplace", False) is True]
    who = f"by {' or '.join(suspects[:4])} (inplace=True)" if suspects else "by a later module"
    at = _at(recording, node)
    text = f"{site}, read at {at.address}, was overwritten in place by the model after it was read, {who}."
    return NNsightError(f"{text} Read a copy: {site}.clone()."), node


def _held(run: Run) -> Any:
    yield from (visit.held for visit in run.plan.visits)
    yield from (segment.held for segment in run.plan.segments)


def missed(run: Run, recording: Recording, frame: FrameType | None) -> MissedSiteError | None:
    """The error of a run whose model never reached a site of the trace; ``None`` if it reached them all."""
    early = [i for step, i in run.plan.came.items() if run.seen[i] and step >= run.forwards] if run.driving is not None else ()
    if early:
        visit = run.plan.visits[early[0]]
        why = "calls of other modules, before the steps began, were taken for steps"
        error = MissedSiteError(f"step {visit.step} never came, but this line ran for it: {why}.")
        error.__traceback__ = traceback_at(recording.place(visit.nodes[0]), frame)
        return error
    if all(run.seen) or run.stopped >= 0:
        return None
    unseen = [i for i, seen in enumerate(run.seen) if not seen and _wanted(run, i)]
    index = next((i for i in unseen if run.plan.visits[i].direction != "grad"), unseen[0] if unseen else -1)
    if index < 0:
        return None
    node = run.plan.visits[index].nodes[0]
    at = _at(recording, node)
    name = _site_name(run, index)
    if run.plan.visits[index].direction == "grad":
        error = MissedSiteError(f"this gradient has no backward: {at.address} stands above none. Write loss.backward() below it.")
        error.__traceback__ = traceback_at(recording.place(node), frame)
        return error
    path = run.plan.visits[index].path
    around = next((other for other in run.plan.skips if path.startswith(f"{other}." if other else "")), None)
    cause = "the module did not run in this forward, or was called past its hooks (by module.forward(...), or from compiled code)"
    visit = run.plan.visits[index]
    if run.driving is not None and run.driving.driver and _is_call(run, index):
        cause = f"the run made one step, in which the module was called several times. Say which call you mean: .call[{visit.step}]"
    elif (_by_calls(run) and (visit.call or visit.step)) or visit.call:
        cause = "the module was not called so often"
    if ".source." in f".{path}" and not path.endswith(f"source.{WEIGHTS}"):
        cause = "that line of the forward did not run"
    elif path in run.outside:
        cause = "nothing has provided it in this run"
    if around is not None:
        cause = f"{around or 'the model'} was skipped ({_at(recording, run.plan.skips[around])})"
    error = MissedSiteError(f"{name} ({at.full}) was never reached: {cause}.")
    error.__traceback__ = traceback_at(recording.place(node), frame)
    return error


def unset_reasons(run: Run, recording: Recording) -> dict[int, str]:
    """Why saved values are not there, as far as the run knows."""
    ended = {saved[0]: "its invoke was stopped before it was reached" for saved in run.plan.saved} if run.ended else {}
    return {**ended, **_reasons(run, recording)}


def _reasons(run: Run, recording: Recording) -> dict[int, str]:
    if run.stopped >= 0:
        at = _at(recording, run.stopped)
        return {saved[0]: f"the forward was stopped ({at.full}) before it was reached" for saved in run.plan.saved}
    reasons = {}
    plan = run.plan
    for node, slot, segment, visit in plan.saved:
        filled = run.slots[slot] is not NEVER and run.slots[slot] is not UNBOUND
        if filled and (segment < 0 or run.waits[segment] == -1) and (visit < 0 or run.seen[visit]):
            taken = plan.given.get(node)
            if taken is None or run.slots[taken[0]] is taken[1]:
                continue
        needs = plan.needs.get(node, 0) | (1 << visit if visit >= 0 else 0)
        steps = [v.step for i, v in enumerate(plan.visits) if needs >> i & 1 and not run.seen[i] and _never_came(run, v.step)]
        if steps:
            reasons[node] = f"step {steps[0]} never came: the model made {_times(max(run.forwards, 1))}"
        elif node in plan.given:
            reasons[node] = "the branch it stands in was not taken"
        elif slot >= 0 and run.slots[slot] is NEVER:
            reasons[node] = "the loop it stands in had no turn"
        elif slot >= 0 and run.slots[slot] is UNBOUND:
            reasons[node] = "no turn of its loop, and no branch that was taken, has given it a value"
    return reasons


def _times(count: int) -> str:
    return f"{count} steps" if count != 1 else "1 step"


def _is_call(run: Run, index: int) -> bool:
    """Whether a visit of a later step was to be a call, since no module was run again and again."""
    driving = run.driving
    if driving is None or not driving.driver:
        return driving is not None
    return run.forwards == 1 and index in driving.instead and not run.plan.visits[index].optional


def _by_calls(run: Run) -> bool:
    """Whether no one module drives the run, so that the calls of each are counted."""
    return run.plan.by_calls or (run.driving is not None and not run.driving.driver)


def _never_came(run: Run, step: int | str) -> bool:
    return isinstance(step, int) and step >= max(run.forwards, 1)


def _wanted(run: Run, index: int) -> bool:
    """Whether a line that was to take part in the run stands at the visit: in a step that came, outside branches or in one taken."""
    visit = run.plan.visits[index]
    if visit.optional and _by_calls(run):
        return False
    if _never_came(run, visit.step) and not _is_call(run, index):
        return False
    if all(run.plan.replaced.get(visit.path) == node or node in run.plan.copied for node in visit.nodes) and not visit.musts:
        return False  # a parameter that was there from the beginning: whoever uses it found it
    guards = run.plan.visits[index].guards
    return guards is None or any(run.slots[truth] is polarity for truth, polarity in guards)


def _let_go(error: BaseException) -> None:
    """Keep of a traceback only the user's own function, and empty the frames left out: they hold activations."""
    entries: list[TracebackType] = []
    entry = error.__traceback__
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    keep = next((place for place, e in enumerate(entries) if place and is_users(e.tb_frame.f_code)), len(entries))
    error.__traceback__ = entries[keep] if keep < len(entries) else None
    for dropped in entries[:keep]:
        try:
            dropped.tb_frame.clear()
        except RuntimeError:
            continue
