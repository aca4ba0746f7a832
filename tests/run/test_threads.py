"""Several threads trace one model at the same time, each with its own interventions."""

from __future__ import annotations

import copy
import sys
import threading

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph.run import ModuleIndex

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


@pytest.fixture
def restless():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(count, work):
    """``work(number)`` in ``count`` threads at once; what they raised or found wrong."""
    wrong, start = [], threading.Barrier(count)

    def guarded(number):
        start.wait()
        try:
            wrong.extend(work(number) or [])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@pytest.mark.usefixtures("restless")
def test_each_thread_sees_its_own_edits():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    models = [nnsight.NNsight(module), nnsight.NNsight(module)]
    hidden = module[0](X)

    def work(number):
        model, expected = models[number % 2], module[2](torch.tanh(hidden) * number)
        for turn in range(60):
            with model.trace(X):
                model[1].output = model[1].output * number
                before, after = model[0].output.save(), model.output.save()
            if not (torch.equal(before.value, hidden) and torch.equal(after.value, expected)):
                yield number, turn

    assert together(4, work) == []
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.usefixtures("restless")
def test_a_thread_that_fails_disturbs_no_other():
    module = nn.Sequential(*[nn.Identity() for _ in range(4)])
    model = nnsight.NNsight(module)
    list(model)

    def fail(turn):
        with pytest.raises(RuntimeError):
            with model.trace(X):
                model[turn % 4].output.view(7)

    def work(number):
        for turn in range(40):
            if number == 0:
                fail(turn)
                continue
            with model.trace(X):
                for envoy in model:
                    envoy.output = envoy.output + number
                got = model.output.save()
            if not torch.equal(got.value, X + 4 * number):
                yield number, turn

    assert together(3, work) == []


def test_a_plain_call_beside_a_trace_is_plain():
    inside, finish = threading.Event(), threading.Event()

    def hold(value):
        inside.set()
        finish.wait(10)
        return value

    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = nnsight.NNsight(module)
    expected, seen = module(X), []

    def beside():
        inside.wait(10)
        seen.append(module(X))
        finish.set()

    thread = threading.Thread(target=beside)
    thread.start()
    with model.trace(X):
        nnsight.apply(hold, model[0].output)
        model[1].output[:] = 0
        model[0].output = model[0].output * 5
        got = model.output.save()
    thread.join()
    assert torch.equal(seen[0], expected)
    assert torch.equal(got.value, torch.zeros(2, 4))


def test_two_threads_write_traces_at_the_same_time():
    model = nnsight.NNsight(nn.Identity())
    turn = threading.Barrier(2)

    def work(number):
        with model.trace(X):
            turn.wait(10)
            value = model.output + number
            turn.wait(10)
            got = value.save()
        if not torch.equal(got.value, X + number):
            yield number

    assert together(2, work) == []


def test_a_value_of_another_threads_open_trace_is_refused():
    model = nnsight.NNsight(nn.Identity())
    refusals = []

    def use(value):
        with pytest.raises(nnsight.NNsightError) as caught:
            with model.trace(X):
                (model.output + value).save()
        refusals.append(str(caught.value))

    with model.trace(X):
        value = model.output * 2
        thread = threading.Thread(target=use, args=(value,))
        thread.start()
        thread.join()
        got = value.save()
    assert refusals == ["a value of another open trace cannot be used here"]
    assert torch.equal(got.value, X * 2)


def test_an_envoy_is_found_only_when_it_is_whole(monkeypatch):
    model, early = nnsight.NNsight(nn.Sequential(nn.Identity())), []
    plain = ModuleIndex.canonical

    def canonical(index, module, path):
        early.append(path in model._tree.envoys)
        return plain(index, module, path)

    monkeypatch.setattr(ModuleIndex, "canonical", canonical)
    model[0]
    assert set(early) == {False}


@pytest.mark.usefixtures("restless")
def test_copies_made_while_others_trace_compute_as_the_model_alone():
    """At the very moment when a run begins or ends, a copy may fail, as it may while torch's own hooks come and go."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model, expected, done, copied = nnsight.NNsight(module), module(X), [], []

    def work(number):
        if number == 0:
            try:
                for turn in range(60):
                    try:
                        copied.append(copy.deepcopy(module))
                    except RuntimeError as error:
                        if "during iteration" not in str(error):  # of a module's dictionary, or its table of hooks
                            raise
                        continue
                    if not torch.equal(copied[-1](X), expected):
                        yield turn
            finally:
                done.append(True)  # the others go on until then
        while number and not done:
            with model.trace(X):
                model[1].skip(model[0].output * 0) if number == 1 else model[0].input.save()
                model.output.save()

    assert together(3, work) == []
    assert copied
    assert all(torch.equal(other(X), expected) for other in copied)
    assert not any(vars(part._forward_hooks) or set(vars(part)) - set(vars(nn.Linear(4, 4))) for part in module.modules())


def test_a_copy_made_by_another_thread_in_the_middle_of_a_run_is_free_of_it():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model, expected, copied = nnsight.NNsight(module), module(X), []

    def copy_elsewhere(value):
        thread = threading.Thread(target=lambda: copied.append(copy.deepcopy(module)))
        thread.start()
        thread.join()
        return value

    with model.trace(X):
        model[1].skip(nnsight.apply(copy_elsewhere, model[0].output) * 0)
        model.output.save()
    for part in copied[0].modules():
        assert "forward" not in vars(part)
        assert not vars(part)["_forward_hooks"]
    assert torch.equal(copied[0](X), expected)
