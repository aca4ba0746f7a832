"""Wherever an interrupt comes, nothing is left: no hook, no mode, no open trace; the next run gives the same numbers."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import NNsight, RecordError
from tests.leftovers.process import changed_process_state, process_state
from tests.leftovers.torch_state import switches

LIBRARY = str(Path(nnsight.__file__).parent)
X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Repeated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)

    def thrice(self, x):
        for _ in range(3):
            x = self(x)
        return x


torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)).eval()
STEPS = Repeated().eval()
model, steps = NNsight(NET), NNsight(STEPS)


def trace():
    with torch.no_grad(), model.trace(X):
        model[0].output[:] *= 2
        out = model.output.save()
    return out


def session():
    with torch.no_grad(), model.session():
        with model.trace(X):
            h = model[0].output * 2
        with model.trace(X):
            model[0].output[:] = h
            out = model.output.save()
    return out


def branch_in_session():
    with torch.no_grad(), model.session():
        with model.trace(X):
            h = model[0].output.sum()
        if h > 0:
            h = h * 2
        with model.trace(X):
            model[0].output = model[0].output * h
            out = model.output.save()
    return out


def branch():
    with torch.no_grad(), model.trace(X):
        if model[0].output.sum() > 100:
            model[0].output = model[0].output * 2
        else:
            model[0].output = model[0].output * 3
        out = model.output.save()
    return out


def explicit_branch():
    with torch.no_grad(), model.trace(X) as tracer:
        with tracer.cond(model[0].output.sum() < 100) as small:
            model[0].output = model[0].output * 2
        with small.else_():
            model[0].output[:] = 0
        out = model.output.save()
    return out


def loop():
    with torch.no_grad(), model.trace(X):
        total = 0
        for row in model[0].output:
            total = total + row
        out = nnsight.save(total)
    return out


def invokes():
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(X):
            model[0].output[:] = 1
        with tracer.invoke(X):
            out = model.output.save()
    return out


def edit():
    with model.edit() as edited:
        model[0].output[:] *= 3
    with torch.no_grad(), edited.trace(X):
        out = edited.output.save()
    return out


def gradient():
    with model.trace(X):
        h = model[0].output
        with (model.output**2).sum().backward():
            found = h.grad.save()
    NET.zero_grad()
    return found


def generation():
    with torch.no_grad(), steps.trace(X, fn="thrice") as tracer:
        with tracer.iter[:]:
            steps.fc.output[:] *= 2
        out = tracer.result.save()
    return out


def scan():
    with model.scan(X):
        width = model[0].output.shape[-1]
        doubled = (model.output * 2).save()
    return torch.full(doubled.shape, float(width))


def checked():
    with torch.no_grad(), model.trace(X, validate=True):
        out = (model.output * int(model[0].output.shape[1])).save()
    return out


def replacements():
    with torch.no_grad(), model.trace(X):
        model[0].weight = model[0].weight * 2
        model[1].skip(model[1].input[:, :2] * 3)
        out = model.output.save()
    return out


def cache():
    with torch.no_grad(), model.trace(X) as tracer:
        kept = tracer.cache()
        model[0].output[:] = 2
    return kept["model.1"].output


def source():
    with torch.no_grad(), steps.trace(X):
        steps.source.self_fc_0.output[:] *= 5
        out = steps.output.save()
    return out


def modes():
    with model.session():
        with torch.no_grad(), torch.autocast("cpu"):
            with model.trace(X):
                h = model[0].output
            product = h @ h.T
        out = product.float().save()
    return out


def exit_stack():
    with torch.no_grad(), contextlib.ExitStack() as stack:
        stack.enter_context(model.trace(X))
        model[0].output[:] = 4
        out = model.output.save()
    return out


RUNS = [
    trace, session, branch_in_session, branch, explicit_branch, loop, invokes, edit, gradient, generation, scan, checked, replacements,
    cache, source, modes, exit_stack,
]  # fmt: skip


def interrupted(run: Callable[[], Any], place: int, event: str = "line", kept: list[BaseException] | None = None) -> int:
    """Run until the library has executed so many lines, or instructions; how many it has. The interrupt that comes out may be kept."""
    count, before = 0, sys.gettrace()

    def step(frame: Any, what: str, _argument: Any) -> Any:
        nonlocal count
        count += what == event
        if count == place and what == event:
            sys.settrace(None)
            came_at[:] = [(frame.f_code.co_name, (frame.f_lineno or 0) - frame.f_code.co_firstlineno)]
            raise KeyboardInterrupt
        return step

    def called(frame: Any, _what: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(LIBRARY):
            return None
        frame.f_trace_opcodes = event == "opcode"
        return step

    sys.settrace(called)
    try:
        run()
    except KeyboardInterrupt as error:
        if kept is not None:
            kept.append(error)
    finally:
        sys.settrace(before)
    return count


came_at: list[tuple[str, int]] = []
"""The function and the line in it that the last interrupt came at."""


def put_in_place() -> list[object]:
    """What runs put into modules."""
    found: list[object] = []
    for module in (*NET.modules(), *STEPS.modules()):
        found += [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._forward_pre_hooks_with_kwargs.values()]
        found += [module.__dict__["forward"]] if "forward" in module.__dict__ else []
        found += [table for table in (module._parameters, module._buffers) if type(table) is not dict]
        found += [hook for parameter in module.parameters() for hook in (parameter._backward_hooks or {}).values()]
    return found


def check(run: Callable[[], Any], places: int, event: str = "line", keep: bool = False) -> None:
    """Interrupt it at places all over, and look what is left."""
    for _ in range(2):
        right = run()
    lines = interrupted(run, -1, event)
    torch_before, process_before = switches(), process_state()
    for place in sorted({*range(1, lines, max(1, lines // places)), *range(2, min(lines, places // 2))}):
        kept: list[BaseException] = []
        interrupted(run, place, event, kept if keep else None)
        # As long as somebody keeps the error, it keeps the frames, and with them the block. Before the first line of `__exit__` nothing
        # can be given back, where a name of the frame has the block: the next one finds it.
        if not keep and came_at != [("__exit__", 1)]:
            if switches() != torch_before:  # an ExitStack keeps the error in a circle
                gc.collect()
            assert (put_in_place(), switches(), changed_process_state(process_before)) == ([], torch_before, []), place
        assert torch.equal(run(), right), place
        assert (put_in_place(), switches(), changed_process_state(process_before)) == ([], torch_before, []), place


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_nothing_is_left_by_an_interrupt(run):
    check(run, 12)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_nothing_is_left_by_an_interrupt_at_many_places(run):
    check(run, 150)


@pytest.mark.parametrize("run", [trace, session, branch, exit_stack], ids=lambda run: run.__name__)
def test_the_next_trace_works_while_the_error_is_kept(run):
    check(run, 30, keep=True)


@pytest.mark.slow
@pytest.mark.parametrize("run", [trace, branch, gradient], ids=lambda run: run.__name__)
def test_between_two_instructions(run):
    check(run, 300, "opcode")


def test_an_interrupt_is_what_comes_out():
    lines = interrupted(branch, -1)
    for place in range(1, lines, lines // 40):
        kept: list[BaseException] = []
        interrupted(branch, place, "line", kept)
        assert len(kept) == 1, place


def test_a_random_call_after_a_block_that_nobody_left_is_a_call():
    kept = None

    def leave(frame, event, argument):
        if frame.f_code.co_name == "__exit__" and frame.f_code.co_filename.startswith(LIBRARY):
            sys.settrace(None)
            raise KeyboardInterrupt
        return None

    before = sys.gettrace()
    sys.settrace(leave)
    try:
        trace()
    except KeyboardInterrupt as error:
        kept = error
    finally:
        sys.settrace(before)
    assert kept is not None
    assert type(torch.rand(2)) is torch.Tensor  # recorded while a trace is written
    trace()


def test_an_interrupt_that_is_caught_in_the_block_is_not_passed_over():
    with pytest.raises(RecordError, match="KeyboardInterrupt came while a part of this trace was written"):
        with model.trace() as tracer:
            with contextlib.suppress(KeyboardInterrupt):
                with tracer.invoke(X):
                    model[0].output[:] = 1
                    raise KeyboardInterrupt
            with tracer.invoke(X):
                model.output.save()


def test_a_session_goes_on_after_none_of_its_traces_was_left_half_written():
    with pytest.raises(RecordError, match=r"left without its end \(ValueError in its block\)"):
        with model.session():
            with contextlib.suppress(ValueError), model.trace(X):
                model[0].output[:] = 1
                raise ValueError
            with model.trace(X):
                model.output.save()
