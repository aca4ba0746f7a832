"""Blocks that are entered in another way than by a `with` of their own; blocks that nobody leaves do not count as open."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from nnsight_graph import NNsight, RecordError, UnsetValueError

NET = torch.nn.Linear(4, 2).requires_grad_(False)
X = torch.arange(8.0).reshape(2, 4)
RIGHT = NET(X)
model = NNsight(NET)


def traced():
    with model.trace(X):
        out = model.output.save()
    return out


def test_an_exit_stack_enters_as_with_does():
    with contextlib.ExitStack() as stack:
        tracer = stack.enter_context(model.trace(X))
        model.output[:] *= 2
        out = tracer.result.save()
    assert torch.equal(out, 2 * RIGHT)


def test_an_exit_stack_with_several_blocks():
    with contextlib.ExitStack() as stack:
        tracer = stack.enter_context(model.trace())
        with contextlib.ExitStack() as inner:
            inner.enter_context(tracer.invoke(X))
            first = model.output.save()
        with tracer.invoke(X * 2):
            second = model.output.save()
    assert torch.equal(first, RIGHT)
    assert torch.equal(second, NET(X * 2))


def test_an_error_below_an_exit_stack_runs_nothing():
    with pytest.raises(ValueError, match="mine"), contextlib.ExitStack() as stack:
        stack.enter_context(model.trace(X))
        out = model.output.save()
        raise ValueError("mine")
    with pytest.raises(UnsetValueError, match="given up"):
        _ = out.shape
    assert torch.equal(traced(), RIGHT)


def test_an_exit_stack_in_a_session():
    with model.session(), contextlib.ExitStack() as stack:
        stack.enter_context(model.trace(X))
        out = (model.output + 1).save()
    assert torch.equal(out, RIGHT + 1)


def test_edits_sessions_and_scans_in_exit_stacks():
    with contextlib.ExitStack() as stack:
        edited = stack.enter_context(model.edit())
        edited.output[:] = 3
    with contextlib.ExitStack() as stack:
        stack.enter_context(edited.session())
        with edited.trace(X):
            out = edited.output.save()
    assert torch.equal(out, torch.full((2, 2), 3.0))
    with contextlib.ExitStack() as stack:
        stack.enter_context(model.scan(X))
        width = model.output.shape[1]
    assert width == 2


def test_control_flow_is_refused_with_the_way_to_write_it():
    with pytest.raises(RecordError, match="not entered by a `with` of its own") as caught, contextlib.ExitStack() as stack:
        stack.enter_context(model.trace(X))
        if model.output.sum() > 0:
            model.output[:] = 0
    assert caught.traceback[-1].path.name == "test_entered_by_hand.py"
    assert torch.equal(traced(), RIGHT)


def test_by_hand_below_a_with_that_is_rewritten():
    with model.trace(X):
        out = model.output.save()
        if out.sum() > 1e9:
            out = out * 2
    tracer = model.trace(X)
    tracer.__enter__()
    again = model.output.save()
    tracer.__exit__(None, None, None)
    assert torch.equal(again, RIGHT)
    assert torch.equal(out, RIGHT)


def test_by_hand_in_the_wrong_order():
    tracer = model.trace(X)
    with pytest.raises(RecordError, match="not entered"):
        tracer.__exit__(None, None, None)
    tracer.__enter__()
    with pytest.raises(RecordError, match="open already"):
        tracer.__enter__()
    out = model.output.save()
    tracer.__exit__(None, None, None)
    with pytest.raises(RecordError, match="left already"):
        tracer.__exit__(None, None, None)
    with pytest.raises(RecordError, match="has run already"):
        tracer.__enter__()
    assert torch.equal(out, RIGHT)


def test_a_context_manager_of_ones_own():
    @contextlib.contextmanager
    def doubled():
        with model.trace(X) as tracer:
            model.output[:] *= 2
            yield tracer

    with doubled():
        out = model.output.save()
    assert torch.equal(out, 2 * RIGHT)


# ---------------------------------------------------------------------- blocks that are dead


def lose_tracer():
    tracer = model.trace(X)
    tracer.__enter__()
    return model.output.save()


def lose_tracer_in_a_circle():
    tracer = model.trace(X)
    tracer.__enter__()
    circle = [tracer]
    circle.append(circle)


def lose_rewritten_scan():
    model.scan(X).__enter__()


def lose_session():
    model.session().__enter__()


def lose_edit():
    model.edit().__enter__()


def half():
    with model.trace(X):
        model.output[:] = 0
        yield


def drop_generator():
    next(half())


def close_generator():
    turns = half()
    next(turns)
    turns.close()


def drop_generator_in_a_circle():
    turns = half()
    next(turns)
    circle = [turns]
    circle.append(circle)


DROPS = [
    lose_tracer, lose_tracer_in_a_circle, lose_rewritten_scan, lose_session, lose_edit, drop_generator, close_generator,
    drop_generator_in_a_circle,
]  # fmt: skip


@pytest.mark.parametrize("drop", DROPS, ids=lambda drop: drop.__name__)
def test_a_block_that_nobody_can_leave_is_not_open(drop):
    kept = drop()
    assert torch.equal(traced(), RIGHT)
    assert torch._C._len_torch_function_stack() == 0
    with model.session():
        with model.trace(X):
            out = model.output.save()
    assert torch.equal(out, RIGHT)
    if kept is not None:
        with pytest.raises(UnsetValueError, match="its block was lost"):
            _ = kept.shape


def test_a_block_is_given_up_as_soon_as_it_is_lost():
    lose_tracer()
    gc.collect()
    assert torch._C._len_torch_function_stack() == 0
    with pytest.raises(RecordError, match="only inside a trace"):
        _ = model.output


def test_a_block_lost_on_another_thread_than_its_own():
    tracers = [model.trace(X)]
    tracers[0].__enter__()
    thread = threading.Thread(target=lambda: (tracers.clear(), gc.collect()))
    thread.start()
    thread.join()
    assert torch.equal(traced(), RIGHT)
    assert torch._C._len_torch_function_stack() == 0


# ---------------------------------------------------------------------- blocks that live


def test_a_block_that_lives_is_open():
    turns = half()
    next(turns)
    with pytest.raises(RecordError, match="a trace is open already"):
        traced()
    turns.close()

    tracer = model.trace(X)
    tracer.__enter__()
    with pytest.raises(RecordError, match=r"entered by hand: test_entered_by_hand.py:\d+"):
        traced()
    out = model.output.save()
    tracer.__exit__(None, None, None)
    assert torch.equal(out, RIGHT)


def test_a_trace_in_a_trace_is_refused_in_a_rewritten_block_too():
    with pytest.raises(RecordError, match="a trace is open already"), model.trace(X):
        if model.output.sum() > 0:
            model.output[:] = 0
        traced()
    with pytest.raises(RecordError, match="a trace is open already"), model.trace(X):
        [traced() for _ in range(1)]


def test_another_threads_block_is_its_own():
    begun, finish, found = threading.Event(), threading.Event(), []

    def work():
        with model.trace(X):
            out = model.output.save()
            begun.set()
            finish.wait(10)
        found.append(out)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(10)
    lose_tracer_in_a_circle()
    assert torch.equal(traced(), RIGHT)
    finish.set()
    thread.join()
    assert torch.equal(found[0], RIGHT)


def test_other_modes_stay_when_a_dead_block_is_cleared_away():
    class Counting(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.seen += 1
            return function(*args, **(kwargs or {}))

    tracer = [model.trace(X)]
    tracer[0].__enter__()
    with Counting() as counting:
        tracer.clear()
        assert torch._C._len_torch_function_stack() == 1
        before = counting.seen
        torch.ones(2)
        assert counting.seen == before + 1
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["thread", "main"])
def test_a_process_ends_well_with_a_block_open(where):
    program = """
        import threading, torch
        from nnsight_graph import NNsight
        model, kept = NNsight(torch.nn.Linear(4, 2)), []
        def leave_open():
            kept.append(model.trace(torch.ones(1, 4)))
            kept[-1].__enter__()
            model.output.save()
    """
    begin = """
        for _ in range(20):
            threading.Thread(target=leave_open).start()
    """
    text = textwrap.dedent(program) + textwrap.dedent(begin if where == "thread" else "leave_open()") + "\nprint('over')\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
