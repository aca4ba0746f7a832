"""What a trace computes from values inside an activation checkpoint leaves its backward pass alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nnsight_graph as nnsight
from nnsight_graph import NNsight, NNsightError
from tests.run.lines import ends_on

X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Net(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.reentrant = nn.Linear(4, 4), reentrant
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, x):
        return checkpoint(self.inner, self.first(x), use_reentrant=self.reentrant)


def loss_of(value):
    return value.pow(2).sum()


@pytest.fixture(params=[False, True], ids=["plain", "reentrant"])
def net(request):
    torch.manual_seed(0)
    return Net(request.param)


READS = {
    "saved": lambda h: h * 1,
    "norm": lambda h: h.norm(),
    "softmax": lambda h: h.softmax(-1),
    "chain": lambda h: (h.exp() @ h.T).tanh().sum(),
    "slice": lambda h: h[:, 0].sigmoid(),
    "applied": lambda h: nnsight.apply(lambda t: t.exp().sum(), h) if isinstance(h, nnsight.Proxy) else h.exp().sum(),
    "detached": lambda h: h.detach().norm(),
    "own edit": lambda h: h.clone().mul_(2).relu_(),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("invokes", [False, True])
def test_reads_leave_the_gradients(net, read, invokes):
    loss_of(net(X)).backward()
    expected = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    value = READS[read](net.inner[0](net.first(X))).detach()
    net.zero_grad()
    model = NNsight(net)
    if invokes:
        with model.trace() as tracer:
            with tracer.invoke(X):
                got = READS[read](model.inner[0].output).save()
                loss_of(model.output).backward()
    else:
        with model.trace(X):
            got = READS[read](model.inner[0].output).save()
            loss_of(model.output).backward()
    torch.testing.assert_close(got.detach(), value)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_a_lens_and_a_cache(net):
    loss_of(net(X)).backward()
    expected = net.first.weight.grad.clone()
    lens = net.inner[2](net.inner[0](net.first(X))).softmax(-1).detach()
    net.zero_grad()
    model = NNsight(net)
    with model.trace(X) as tracer:
        cache = tracer.cache()
        got = model.inner[2](model.inner[0].output).softmax(-1).save()
        loss_of(model.output).backward()
    torch.testing.assert_close(got.detach(), lens)
    torch.testing.assert_close(cache["model.inner.0"].output, net.inner[0](net.first(X)).detach())
    torch.testing.assert_close(net.first.weight.grad, expected)


@pytest.mark.parametrize("net", [False], indirect=True, ids=["plain"])
def test_losses_of_what_is_read_and_second_derivatives(net):
    """As a hook by hand that computes outside of the checkpoint's count: the parameters get the gradients of both losses."""
    plain = net.inner[0](net.first(X))
    (loss_of(net.inner(net.first(X))) + loss_of(plain.exp())).backward()
    expected = net.first.weight.grad.clone()
    net.zero_grad()
    model = NNsight(net)
    with model.trace(X):
        hidden = model.inner[0].output
        (loss_of(model.output) + loss_of(hidden.exp())).backward()
    torch.testing.assert_close(net.first.weight.grad, expected)
    net.zero_grad()
    hidden = net.inner[0](net.first(X))
    (slope,) = torch.autograd.grad(hidden.exp().sum(), hidden, create_graph=True)
    loss_of(slope).backward()
    twice = net.first.weight.grad.clone()
    net.zero_grad()
    with model.trace(X):
        hidden = model.inner[0].output
        slope = torch.autograd.grad(hidden.exp().sum(), hidden, create_graph=True)[0]
        loss_of(slope).backward()
        model.output.sum().save()
    torch.testing.assert_close(net.first.weight.grad, twice)


@pytest.mark.parametrize("net", [False], indirect=True, ids=["plain"])
def test_an_edit_of_what_a_backward_needs_is_found(net):
    model = NNsight(net)
    with pytest.raises(RuntimeError, match="Assign a new value") as caught:
        with model.trace(X):
            own = model.inner[0].output.sigmoid()
            total = own.pow(2).sum()
            own[:, 0] = 0
            (loss_of(model.output) + total).backward()
    assert ends_on(caught.value)[1] == "own[:, 0] = 0"


@pytest.mark.parametrize("net", [False], indirect=True, ids=["plain"])
def test_gradients_inside_and_changes_that_are_refused(net):
    hidden = net.inner[0](net.first(X)).detach().requires_grad_()
    loss_of(net.inner[2](net.inner[1](hidden))).backward()
    model = NNsight(net)
    with model.trace(X):
        got = model.inner[0].output.grad.save()
        model.inner[0].output.norm().save()
        loss_of(model.output).backward()
    torch.testing.assert_close(got.value, hidden.grad)
    with pytest.raises(NNsightError, match="lies in an activation checkpoint"):
        with model.trace(X):
            model.inner[0].output = model.inner[0].output * 2
            loss_of(model.output).backward()
