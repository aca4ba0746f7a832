"""A saved value of an earlier trace in a later one: it is a constant there, on either side of an operation."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.run.lines import users_line

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
model = nnsight.NNsight(nn.Identity())


def earlier(function=lambda v: v * 2):
    with model.trace(X):
        value = function(model.output).save()
    return value


USES = {
    "right operand": lambda old, v: v + old,
    "function": lambda old, v: torch.add(old, v),
    "method": lambda old, v: old.add(v),
    "list": lambda old, v: torch.cat([old, v]),
    "attribute": lambda old, v: old.T @ v,
    "rows": lambda old, v: torch.stack([*old, v[0]]),
    "index": lambda old, v: v[old.argmax(-1) % 2],
    "left operand": lambda old, v: old + v,
    "comparison": lambda old, v: old == v,
    "matmul": lambda old, v: old @ v.T,
    "indexed": lambda old, v: old[v.argmax() % 2],
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_saved_tensor(use):
    old = earlier()
    with model.trace(X):
        got = use(old, model.output).save()
    assert torch.equal(got.value, use(X * 2, X))


@pytest.mark.parametrize(
    "function",
    [operator.add, lambda v, n: n * v, lambda v, n: v[:, :n], lambda v, n: torch.zeros((n, 3)) + v[0, 0]],
)
def test_a_saved_number(function):
    number = earlier(lambda v: v.shape[0])
    with model.trace(X):
        got = function(model.output, number).save()
    assert torch.equal(got.value, function(X, 2))


@pytest.mark.parametrize(
    "edit",
    [
        lambda old, v: old.__setitem__(0, v[1]),
        lambda old, v: old.copy_(v),
        lambda old, v: old.__iadd__(v),
    ],
)
def test_a_saved_tensor_is_edited_by_a_later_trace(edit):
    old, plain = earlier(), X * 2
    with model.trace(X):
        edit(old, model.output)
    edit(plain, X)
    assert torch.equal(old.value, plain)


def test_it_is_written_where_the_model_goes_on():
    old = earlier()
    with model.trace(X) as tracer:
        model.output[:] = old
        got = tracer.result.save()
    assert torch.equal(got.value, X * 2)
    with model.trace(X) as tracer:
        model.output = old
        got = tracer.result.save()
    assert torch.equal(got.value, X * 2)


def test_the_input_of_a_later_trace():
    with model.trace(earlier()):
        got = (model.output + 1).save()
    assert torch.equal(got.value, X * 2 + 1)


@pytest.mark.parametrize(
    "use",
    [lambda old, v: v + old, lambda old, v: old + v, lambda old, v: old.sum(), lambda old, v: torch.add(v, old), lambda old, v: v[old]],
)
def test_an_unsaved_one_is_refused(use):
    with model.trace(X):
        old = model.output * 2
    with pytest.raises(nnsight.UnsetValueError, match=r"test_later_traces.py:\d+ `old = model.output \* 2`: it was not saved") as caught:
        with model.trace(X):
            kept = model.output.save()
            use(old, model.output)
    assert users_line(caught.value)[0] == "test_later_traces.py"
    with pytest.raises(nnsight.UnsetValueError, match="given up"):
        kept.value


def test_the_plan_of_a_loop_over_earlier_values_is_shared():
    values = [earlier(), earlier(lambda v: v - 1)]
    graphs = []
    for value in values:
        with model.trace(X) as tracer:
            (model.output + value).save()
        graphs.append(tracer.graph)
    assert graphs[0] == graphs[1]
