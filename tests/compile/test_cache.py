"""The same program with other numbers and tensors shares a plan; another structure has another, and its own meaning."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import nnsight_graph as nnsight
from nnsight_graph.compile import cache

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
model = nnsight.NNsight(nn.Sequential(nn.Identity(), nn.Identity()))


def graph_of(function):
    with model.trace(X) as tracer:
        got = function(model[0].output).save()
    torch.testing.assert_close(got.value, function(X), rtol=0, atol=0)
    return tracer.graph


SHARED = {
    "numbers": (lambda v: v * 2.0 + 1, lambda v: v * 3.0 + 7),
    "integers as indices": (lambda v: v[0], lambda v: v[1]),
    "bounds of slices": (lambda v: v[:, 1:3], lambda v: v[:, 0:2]),
    "tensors": (lambda v: v + torch.ones(4), lambda v: v + torch.zeros(4)),
    "sizes of tensors": (lambda v: v + torch.ones(4), lambda v: v + torch.ones(1)),
    "strings": (lambda v: functional.mse_loss(v, X * 2, reduction="sum"), lambda v: functional.mse_loss(v, X * 2, reduction="mean")),
    "functions of one's own": (lambda v: own(v, abs_), lambda v: own(v, negative)),
}
DIFFERENT = {
    "another operator": (lambda v: v * 2.0, lambda v: v + 2.0),
    "the operands swapped": (lambda v: v - 2.0, lambda v: 2.0 - v),
    "type of a number": (lambda v: v * 2.0, lambda v: v * 2),
    "rank of a tensor": (lambda v: v + torch.ones(4), lambda v: v + torch.ones(2, 4)),
    "dtype of a tensor": (lambda v: v + torch.ones(4), lambda v: v + torch.ones(4).double()),
    "a dtype": (lambda v: v.to(torch.float64), lambda v: v.to(torch.int32)),
    "a slice for an integer": (lambda v: v[0], lambda v: v[0:1]),
    "a bound left out": (lambda v: v[:1], lambda v: v[0:1]),
    "none for ellipsis": (lambda v: v[None], lambda v: v[...]),
    "true for false": (lambda v: v.sum(-1, keepdim=True), lambda v: v.sum(-1, keepdim=False)),
    "name of an argument": (lambda v: v.sum(dim=-1), lambda v: v.sum(-1)),
    "a list for a tuple": (lambda v: v[[0, 1]], lambda v: v[(0, 1)]),
    "one line more": (lambda v: v * 2.0, lambda v: v * 2.0 * 2.0),
    "one constant twice": (lambda v: twice(v, torch.ones(4)), lambda v: v * torch.ones(4) + torch.ones(4)),
}


def own(value, function):
    return nnsight.apply(function, value) if isinstance(value, nnsight.Proxy) else function(value)


def abs_(value):
    return value.abs() + 1


def negative(value):
    return -value


def twice(value, constant):
    return value * constant + constant


@pytest.mark.parametrize(("one", "other"), SHARED.values(), ids=SHARED)
def test_shared(one, other):
    first = graph_of(one)
    plans = list(cache._plans)
    second = graph_of(other)
    assert list(cache._plans) == plans
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_different(one, other):
    assert graph_of(one) != graph_of(other)
    assert graph_of(one) == graph_of(one)


def test_another_site_is_another_program():
    graphs = []
    for point in ("input", "output", "inputs"):
        for envoy in (model[0], model[1]):
            with model.trace(X) as tracer:
                getattr(envoy, point).save()
            graphs.append(tracer.graph)
    assert len(set(graphs)) == 6


def test_what_a_function_may_write_belongs_to_the_program():
    for mutates in ((0,), ()):
        with model.trace(X.clone()):
            nnsight.apply(torch.Tensor.zero_ if mutates else torch.Tensor.abs, model[0].output, **({"mutates": mutates} if mutates else {}))
            got = model[1].output.save()
        assert torch.equal(got.value, torch.zeros(2, 4) if mutates else X)


def test_an_old_plan_makes_room(monkeypatch):
    monkeypatch.setattr(cache, "_LIMIT", 3)
    monkeypatch.setattr(cache, "_plans", {})
    for power in range(5):
        graph_of(lambda v, n=power: sum([v] * (n + 1)) * 1.5)
    assert len(cache._plans) == 3
    graph_of(lambda v: v * 1.5)


def test_a_wrong_program_is_not_kept():
    size = len(cache._plans)
    for _ in range(2):
        with pytest.raises(nnsight.RecordError, match="parameter"):
            with nnsight.NNsight(nn.Linear(4, 4)).trace(X) as tracer:
                tracer.result.sum().save()
                nnsight.NNsight(nn.Linear(4, 4)) and tracer._envoy.weight.T.add_(1)
    assert len(cache._plans) == size
