"""Gradients of rows, and graphs that start in an invoke, against each input alone by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import NNsight, NNsightError
from tests.run.lines import ends_on

A, B = torch.linspace(-1, 1, 4).reshape(1, 4), torch.linspace(2, -1, 8).reshape(2, 4)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x), self.b(x)


class Net(nn.Module):
    """``drop`` passes on its input itself: the model uses one tensor at several sites."""

    def __init__(self):
        super().__init__()
        self.one, self.drop, self.pair, self.last = nn.Linear(4, 4), nn.Dropout(0.5), Pair(), nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.drop(torch.tanh(self.one(x)))
        left, right = self.pair(hidden)
        return self.last(left * right + hidden)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.fixture
def model(net):
    return NNsight(net)


def loss_of(value):
    return value.pow(2).sum()


def started(net, site, x, edit=lambda value: value):
    """The gradient of a value at ``site`` that starts the graph."""
    kept = []

    def hook(_module, _args, output):
        tensor = output[0] if isinstance(output, tuple) else output
        tensor = tensor.detach().requires_grad_()
        kept.append(tensor)
        return (edit(tensor), *output[1:]) if isinstance(output, tuple) else edit(tensor)

    handle = net.get_submodule(site).register_forward_hook(hook)
    loss_of(net(x)).backward()
    handle.remove()
    return kept[0].grad


def same(value, expected):
    torch.testing.assert_close(torch.as_tensor(value.value if isinstance(value, nnsight.Proxy) else value).detach(), expected)


def begin(value, how):
    if how == "attribute":
        value.requires_grad = True
    elif how == "method":
        value.requires_grad_()
    else:
        value.requires_grad_(True)
    return value


SITES = {
    "one": lambda model: model.one.output, "drop": lambda model: model.drop.output, "pair": lambda model: model.pair.output[0],
    "input": lambda model: model.pair.input, "hidden": lambda model: model.drop.hidden_states,
}  # fmt: skip
OF = {"input": "drop", "hidden": "drop"}


@pytest.mark.parametrize("how", ["method", "attribute", "argument"])
@pytest.mark.parametrize("site", SITES)
def test_each_invoke_starts_its_own_graph(model, net, site, how):
    found, total = [], 0
    with model.trace() as tracer:
        for x in (A, B):
            with tracer.invoke(x):
                found.append(begin(SITES[site](model), how).grad.save())
                total = total + loss_of(model.output)
        total.backward()
    for got, x in zip(found, (A, B), strict=True):
        same(got, started(net, OF.get(site, site), x))


@pytest.mark.parametrize("other", ["nothing", "edit above", "edit below", "write", "grad too"])
def test_beside_what_another_invoke_does(model, net, other):
    with model.trace() as tracer:
        with tracer.invoke(A):
            if other == "edit above":
                model.drop.output.mul_(0.5)
            elif other == "write":
                model.drop.output = model.drop.output * 0.5
            elif other == "grad too":
                model.one.output.requires_grad_()
            out = model.output.save()
        with tracer.invoke(B):
            hidden = model.drop.output
            hidden.requires_grad_()
            part, whole = hidden[:, 1:].grad.save(), hidden.grad.save()
            loss = loss_of(model.output)
        if other == "edit below":
            with tracer.invoke(A):
                late = model.drop.output
                late[:] = 0
        loss.backward()
    expected = started(net, "drop", B)
    same(whole, expected)
    same(part, expected[:, 1:])
    half = 0.5 if other in ("edit above", "write") else 1
    hidden = torch.tanh(net.one(A)) * half
    left, right = net.pair(hidden)
    same(out, net.last(left * right + hidden))


def test_a_graph_that_starts_above_an_assignment(model, net):
    with model.trace() as tracer:
        with tracer.invoke(B):
            hidden = model.drop.output
            hidden.requires_grad_()
            model.drop.output = hidden * 2
            old, new = hidden.grad.save(), model.drop.output.grad.save()
            loss = loss_of(model.output)
        with tracer.invoke(A):
            model.drop.output = model.drop.output * 0
        loss.backward()
    expected = started(net, "drop", B, lambda value: value * 2)
    same(old, expected)
    same(new, expected / 2)


def test_retained_and_in_a_block_and_in_a_session(model, net):
    expected = started(net, "drop", B)
    with model.trace() as tracer:
        with tracer.invoke(A):
            model.one.output.save()
        with tracer.invoke(B):
            hidden = model.drop.output.save()
            hidden.requires_grad_()
            hidden.retain_grad()
            with loss_of(model.output).backward():
                again = hidden.grad.save()
    same(hidden.grad, expected)
    same(again, expected)
    with model.session(batch=True):
        with model.trace(A):
            model.one.output.save()
        with model.trace(B):
            hidden = model.drop.output
            hidden.requires_grad_()
            got = hidden.grad.save()
            loss_of(model.output).backward()
    same(got, expected)


def test_no_row_of_another_invoke_gets_a_graph(model):
    with model.trace() as tracer:
        with tracer.invoke(A):
            needs = (model.drop.output * 1).requires_grad.save()
        with tracer.invoke(B):
            hidden = model.drop.output
            hidden.requires_grad_()
            started = (hidden * 1).requires_grad.save()
    assert (needs, started) == (False, True)


def test_where_a_line_sees_all_rows(model, net):
    with pytest.raises(NNsightError, match="outside of the invokes") as caught:
        with model.trace() as tracer:
            with tracer.invoke(A):
                model.one.output.sum().save()
            with tracer.invoke(B):
                hidden = model.drop.output
                hidden.requires_grad_()
                hidden.grad.save()
                loss = loss_of(model.output)
            with tracer.invoke():
                model.drop.output.sum().save()
            loss.backward()
    assert ends_on(caught.value)[1] == "hidden.grad.save()"
    with model.trace() as tracer:
        with tracer.invoke(A):
            model.one.output.sum().save()
        with tracer.invoke(B):
            loss = loss_of(model.output)
        with tracer.invoke():
            hidden = model.drop.output
            hidden.requires_grad_()
            got = hidden.grad.save()
            loss.backward()
    same(got, torch.cat([torch.zeros(1, 4), started(net, "drop", B)]))


def test_retained_behind_edits_of_a_part_and_in_a_batch():
    torch.manual_seed(0)
    net = Net().eval()
    model = NNsight(net)
    hidden = net.one(B)
    part = hidden[:, 1:] * 2
    part.retain_grad()
    hidden = torch.tanh(torch.cat([hidden[:, :1], part], 1))
    left, right = net.pair(hidden)
    loss_of(net.last(left * right + hidden)).backward()
    for batch in (False, True):
        with model.trace() as tracer:
            if batch:
                with tracer.invoke(A):
                    model.one.output.mul_(3)
            with tracer.invoke(B):
                kept = model.one.output[:, 1:].save()
                kept *= 2
                kept.retain_grad()
                loss_of(model.output).backward()
        torch.testing.assert_close(kept.grad, part.grad)
