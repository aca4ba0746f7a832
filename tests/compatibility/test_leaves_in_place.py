"""A detached leaf in place of an output: its gradient is that of the rest of the model, as integrated gradients need it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


def parameter_set(value):
    value.requires_grad = True
    return value


FORMS = {
    "detach, requires_grad_": lambda h: h.detach().requires_grad_(True),
    "clone, detach": lambda h: h.clone().detach().requires_grad_(),
    "detach, clone": lambda h: h.detach().clone().requires_grad_(True),
    "a parameter": lambda h: torch.nn.Parameter(h.detach()),
    "an attribute": lambda h: parameter_set(h.detach()),
    "scaled": lambda h: (h.detach() * 0.5).requires_grad_(),
}


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))


def by_hand(module, form):
    leaf = form(module[0](X))
    out = module[2](module[1](leaf))
    out.sum().backward()
    return leaf.grad, out.detach()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_gradient_of_a_leaf(module, form):
    right, out = by_hand(module, form)
    model = nnsight.NNsight(module)
    with model.trace(X):
        leaf = form(model[0].output)
        model[0].output = leaf
        got = model.output.save()
        gradient = leaf.grad.save()
        model.output.sum().backward()
    assert torch.equal(gradient, right)
    assert torch.equal(got, out)
    with model.trace(X):
        leaf = form(model[0].output)
        model[0].output = leaf
        with model.output.sum().backward():
            gradient = leaf.grad.save()
    assert torch.equal(gradient, right)


def test_integrated_gradients(module):
    right = torch.zeros(2, 4)
    with torch.no_grad():
        hidden = module[0](X)
    for step in range(1, 6):
        leaf = (hidden * step / 5).requires_grad_()
        module[2](module[1](leaf))[:, 0].sum().backward()
        right += leaf.grad / 5
    model, total = nnsight.NNsight(module), torch.zeros(2, 4)
    for step in range(1, 6):
        with model.trace(X):
            scaled = (model[0].output.detach() * (step / 5)).requires_grad_()
            model[0].output = scaled
            with model.output[:, 0].sum().backward():
                gradient = scaled.grad.save()
        total += gradient / 5
    torch.testing.assert_close(total, right)


def test_a_detached_value_has_no_gradient_of_its_own(module):
    model = nnsight.NNsight(module)
    with pytest.raises(nnsight.NNsightError, match="gradient"), model.trace(X):
        model[0].output.detach().grad.save()
        model.output.sum().backward()
