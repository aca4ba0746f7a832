"""A trace changes nothing about gradients that its lines do not change."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


def net(train=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).train(train)


def gradients(result, module):
    module.zero_grad()
    result.sum().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


def same(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


def seeded(function):
    torch.manual_seed(3)
    return function()


def traced(module, lines=lambda model: None):
    model = nnsight.NNsight(module)
    with model.trace(X) as tracer:
        lines(model)
        result = tracer.result.save()
    return result


READS = [
    lambda m: None,
    lambda m: m[1].output.save(),
    lambda m: [e.output.save() for e in m],
    lambda m: (m[0].output * 2).sum().save(),
    lambda m: m[0].output.clone().zero_(),
]


@pytest.mark.parametrize("lines", READS)
@pytest.mark.parametrize("train", [True, False])
def test_a_trace_that_only_reads_is_the_model_bit_for_bit(lines, train):
    module = net(train)
    expected = seeded(lambda: module(X))
    got = seeded(lambda: traced(module, lines))
    assert torch.equal(got.value, expected)
    assert same(gradients(got, module), gradients(expected, module))
    assert module.training is train


def test_saved_values_keep_their_history():
    model = nnsight.NNsight(net(train=False))
    with model.trace(X):
        hidden, doubled = model[0].output.save(), (model[1].output * 2).save()
    assert hidden.grad_fn is not None
    assert doubled.requires_grad
    hidden.sum().backward()
    assert torch.equal(model[0].bias.grad, torch.full((5,), 2.0))


def test_no_grad_around_a_trace_holds():
    model = nnsight.NNsight(net())
    with torch.no_grad(), model.trace(X):
        got = model.output.save()
    assert not got.requires_grad


def by_hook(module, change):
    handle = module[1].register_forward_hook(lambda m, args, output: change(output))
    try:
        return seeded(lambda: module(X))
    finally:
        handle.remove()


def masked(output):
    output = output.clone()
    output[:, 0] = 0
    return output


EDITS = {
    "replaced": (lambda m: setattr(m[1], "output", m[1].output * 3), lambda o: o * 3),
    "in place": (lambda m: m[1].output.mul_(3), lambda o: o * 3),
    "a part": (lambda m: m[1].output.__setitem__((slice(None), 0), 0), masked),
    "cut off": (lambda m: setattr(m[1], "output", m[1].output.detach()), lambda o: o.detach()),
}


@pytest.mark.parametrize("name", [name for name in EDITS if name != "cut off"])
def test_gradients_flow_through_an_edit_as_through_a_hooks(name):
    lines, change = EDITS[name]
    module = net()
    if name != "replaced":
        module[1] = nn.Softplus()  # tanh keeps its output for its gradient: torch itself refuses to edit it in place
    expected = by_hook(module, change)
    got = seeded(lambda: traced(module, lines))
    assert torch.equal(got.value, expected)
    assert same(gradients(got, module), gradients(expected, module))


def test_what_is_detached_gets_no_gradient():
    module = net()
    got = seeded(lambda: traced(module, EDITS["cut off"][0]))
    got.sum().backward()
    assert module[0].weight.grad is None
    assert module[3].weight.grad is not None


def test_the_gradient_of_the_input():
    module = net(train=False)
    given, plain = X.clone().requires_grad_(), X.clone().requires_grad_()
    model = nnsight.NNsight(module)
    with model.trace(given):
        model[0].input = model[0].input * 2
        got = model.output.save()
    got.sum().backward()
    module(plain * 2).sum().backward()
    assert torch.equal(given.grad, plain.grad)


class Checkpointed(nn.Module):
    """Its inner layer runs again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = nn.Linear(4, 4), reentrant

    def forward(self, x):
        return checkpoint(lambda v: torch.tanh(self.inner(v)), x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_reading_inside_a_checkpointed_region(reentrant):
    module, given = Checkpointed(reentrant), X.clone().requires_grad_()
    model = nnsight.NNsight(module)
    with model.trace(given):
        hidden, got = model.inner.output.save(), model.output.save()
    assert torch.equal(hidden.value, module.inner(X))
    assert same(gradients(got, module), gradients(torch.tanh(module.inner(X)), module))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_write_inside_a_checkpointed_region_is_refused(reentrant):
    module, given = Checkpointed(reentrant), X.clone().requires_grad_()
    model = nnsight.NNsight(module)
    with pytest.raises(nnsight.NNsightError):
        with model.trace(given):
            model.inner.output = model.inner.output * 2
            model.output.save()
