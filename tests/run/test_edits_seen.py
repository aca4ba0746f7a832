"""Where a backward fails for an edit in place, the error stands at the line of that edit, and says to assign."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from nnsight_graph import NNsight, NNsightError
from tests.run.lines import ends_on

X = torch.linspace(-1, 1, 8).reshape(2, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return NNsight(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Linear(4, 2)))


def zeroed(model, _other):
    model[1].output[:, 0] = 0  # the edit


def own_product(model, other):
    h = model[0].output
    h[:, -1:] += (h @ other)[:, -1:]  # the edit


def method(model, _other):
    h = model[1].output
    model[1].output.mul_(h.sigmoid())  # the edit


def second_of_two(model, other):
    h = model[1].output.clone()
    h *= 2
    model[1].output = h @ other
    model[2].input.mul_(2)
    h += 1  # the edit


def by_a_view(model, _other):
    model[2].input.view(8)[3:].zero_()  # the edit


CASES = [zeroed, own_product, method, second_of_two, by_a_view]


@pytest.mark.parametrize("how", ["trace", "invokes", "autograd.grad", "block"])
@pytest.mark.parametrize("lines", CASES)
def test_the_line_is_named(model, lines, how):
    other = nn.Parameter(torch.eye(4))
    with pytest.raises(RuntimeError, match="Assign a new value in place of the") as caught:
        if how == "invokes":
            with model.trace() as tracer:
                with tracer.invoke(X[:1]):
                    model[3].input.sum().save()
                with tracer.invoke(X):
                    lines(model, other)
                    model.output.sum().backward()
        else:
            with model.trace(X):
                lines(model, other)
                if how == "autograd.grad":
                    torch.autograd.grad(model.output.sum(), [model._module[0].weight, other], allow_unused=True)[0].save()
                elif how == "block":
                    with model.output.sum().backward():
                        pass
                else:
                    model.output.sum().backward()
    assert isinstance(caught.value, NNsightError)
    assert ends_on(caught.value)[1].endswith("# the edit")
    assert "modified by an inplace operation" in str(caught.value)
    assert re.search(r"the backward of line \d+ of \S*test_edits_seen.py", str(caught.value))


def test_what_the_error_says_works(model):
    net = model._module
    hidden = torch.sigmoid(net[0](X))
    kept = torch.cat([hidden[:, :1] * 0, hidden[:, 1:]], 1)
    net[3](net[2](kept)).sum().backward()
    expected = net[0].weight.grad.clone()
    net.zero_grad()
    with model.trace(X):
        h = model[1].output.clone()
        h[:, 0] = 0
        model[1].output = h
        model.output.sum().backward()
    torch.testing.assert_close(net[0].weight.grad, expected)


def test_what_the_model_edits_is_not_the_traces(model):
    class Edits(nn.Module):
        def forward(self, x):
            y = x.sigmoid()
            return y.mul_(2)

    model = NNsight(nn.Sequential(nn.Linear(4, 4), Edits(), nn.Linear(4, 3)))
    with pytest.raises(RuntimeError, match="modified by an inplace operation") as caught:
        with model.trace(X):
            model[2].output[:, 0] = 0
            model.output.sum().backward()
    assert ends_on(caught.value)[1] == "model.output.sum().backward()"
    assert "Assign" not in str(caught.value)
