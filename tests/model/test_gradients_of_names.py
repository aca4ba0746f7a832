"""A gradient belongs to the value that a name stands for, in its version at the line: against tensors kept by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import NNsight, NNsightError

X = torch.linspace(-1, 1, 12).reshape(3, 4)
V = torch.tensor([0.5, -1.0, 2.0, 0.25])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.pair, self.two, self.three = nn.Linear(4, 4), Pair(), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        left, right = self.pair(self.one(x))
        return self.three(torch.tanh(self.two(left) + right))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x), self.b(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def model(net):
    return NNsight(net)


def kept(value):
    value.retain_grad()
    return value


def loss_of(value):
    return value.pow(2).sum()


def same(value, expected):
    torch.testing.assert_close(torch.as_tensor(value.value).detach(), expected.detach(), rtol=1e-5, atol=1e-6)


def scaled(net, x=X):
    """Old and new outputs of ``one`` and ``two`` where the trace has made them three times and twice as large."""
    one = kept(net.one(x))
    new_one = kept(one * 3)
    left, right = net.pair(new_one)
    two = kept(net.two(left))
    new_two = kept(two * 2)
    loss_of(net.three(torch.tanh(new_two + right))).backward()
    return one.grad, new_one.grad, two.grad, new_two.grad


@pytest.mark.parametrize("block", [False, True])
def test_a_name_above_an_assignment_keeps_its_value(model, net, block):
    expected = scaled(net)
    with model.trace(X):
        one = model.one.output
        model.one.output = one * 3
        new_one = model.one.output
        two = model.two.output
        model.two.output = two * 2
        if block:
            with loss_of(model.output).backward():
                found = [value.grad.save() for value in (one, new_one, two, model.two.output)]
        else:
            found = [value.grad.save() for value in (one, new_one, two, model.two.output)]
            loss_of(model.output).backward()
    for got, right in zip(found, expected, strict=True):
        same(got, right)


def test_the_same_gradient_whether_it_is_named_above_or_below_the_assignment(model, net):
    expected = scaled(net)[0]
    with model.trace(X):
        one = model.one.output
        above = one.grad.save()
        model.one.output = one * 3
        below = one.grad.save()
        model.two.output = model.two.output * 2
        loss_of(model.output).backward()
    same(above, expected)
    same(below, expected)


def test_slices_views_and_elements(model, net):
    one = kept(net.one(X))
    left, right = net.pair(one * 3)
    left, right = kept(left), kept(right)
    loss_of(net.three(torch.tanh(net.two(left * 2) + right * V))).backward()
    with model.trace(X):
        whole = model.one.output
        part, turned = whole[:, 1:3], whole.T
        model.one.output = whole * 3
        old_left, old_right = model.pair.output
        model.pair.output = (old_left * 2, old_right * V)
        found = [value.grad.save() for value in (part, turned, old_left, old_right[1])]
        loss_of(model.output).backward()
    for got, expected in zip(found, (one.grad[:, 1:3], one.grad.T, left.grad, right.grad[1]), strict=True):
        same(got, expected)


def test_an_element_above_the_assignment_of_that_element(model, net):
    left, right = net.pair(net.one(X))
    left, right = kept(left), kept(right)
    new = kept(left * 2)
    loss_of(net.three(torch.tanh(net.two(new) + right))).backward()
    with model.trace(X):
        old = model.pair.output[0]
        model.pair.output[0] = old * 2
        fresh, other = model.pair.output[0], model.pair.output[1]
        found = [value.grad.save() for value in (old, fresh, other)]
        loss_of(model.output).backward()
    for got, expected in zip(found, (left.grad, new.grad, right.grad), strict=True):
        same(got, expected)


@pytest.mark.parametrize("spelling", ["input", "inputs", "hidden_states"])
def test_inputs_and_hidden_states(model, net, spelling):
    one = kept(net.one(X))
    left, right = net.pair(one * 3)
    loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
    with model.trace(X):
        if spelling == "input":
            old = model.pair.input
            model.pair.input = old * 3
        elif spelling == "inputs":
            (old,), _ = model.pair.inputs
            model.pair.inputs = (old * 3,), {}
        else:
            old = model.one.hidden_states
            model.one.hidden_states = old * 3
        got = old.grad.save()
        loss_of(model.output).backward()
    same(got, one.grad)


def test_in_invokes(model, net):
    def alone(x, scale):
        one = kept(net.one(x))
        new = kept(one * scale)
        left, right = net.pair(new)
        loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
        return one.grad, new.grad

    found, total = [], 0
    with model.trace() as tracer:
        for rows, scale in ((X[:1], 3), (X[1:], -2)):
            with tracer.invoke(rows):
                old = model.one.output
                model.one.output = old * scale
                found += [old.grad.save(), model.one.output.grad.save()]
                total = total + loss_of(model.output)
        total.backward()
    for got, expected in zip(found, (*alone(X[:1], 3), *alone(X[1:], -2)), strict=True):
        same(got, expected)


@pytest.mark.parametrize("edits", [False, True])
def test_in_invokes_where_another_edits_in_place(model, net, edits):
    """Copies of rows take part only where something was edited in them; what lines make of them counts in any case."""

    def alone(x, edit):
        one = kept(net.one(x))
        if edit:
            one = kept(one * 2)
        left, right = net.pair(one)
        (loss_of(net.three(torch.tanh(net.two(left) + right))) + loss_of(one)).backward()
        return one.grad

    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            first = model.one.output
            first *= 2
            first_gradient = first.grad.save()
            total = loss_of(model.output) + loss_of(first)
        with tracer.invoke(X[1:]):
            second = model.one.output
            if edits:
                second *= 2
            second_gradient = second.grad.save()
            total = total + loss_of(model.output) + loss_of(second)
        total.backward()
    same(first_gradient, alone(X[:1], True))
    same(second_gradient, alone(X[1:], edits))


@pytest.mark.parametrize("taken", [True, False])
def test_in_branches(model, net, taken):
    one = kept(net.one(X))
    left, right = net.pair(one * 3 if taken else one)
    loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
    with model.trace(X):
        old = model.one.output
        if old.sum() < (1e9 if taken else -1e9):
            model.one.output = old * 3
        got = old.grad.save()
        loss_of(model.output).backward()
    same(got, one.grad)


def test_in_a_loop_over_blocks_that_scales_each():
    torch.manual_seed(0)
    net = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    net.forward = lambda x: net[2](net[1](net[0](x)))
    hidden, values = X, []
    for block in net:
        values.append(kept(block(hidden)))
        hidden = values[-1] * 2
    loss_of(hidden).backward()
    model = NNsight(nn.Sequential(*net))
    with model.trace(X):
        found = nnsight.list().save()
        for block in model:
            old = block.output
            block.output = old * 2
            found.append(old.grad)
        loss_of(model.output).backward()
    for got, value in zip(found, values, strict=True):
        torch.testing.assert_close(got, value.grad)


def test_in_sessions(model, net):
    expected = scaled(net)[0]
    with model.session():
        for _ in range(2):
            with model.trace(X):
                old = model.one.output
                model.one.output = old * 3
                model.two.output = model.two.output * 2
                gradient = old.grad
                loss_of(model.output).backward()
        got = (gradient * 2).save()
    same(got, expected * 2)


def test_changes_go_where_the_name_stands(model, net):
    """A change of the old value's gradient reaches what made it, and not the new value."""
    one = kept(net.one(X))
    one.register_hook(lambda gradient: gradient * 10)
    new = kept(one * 3)
    left, right = net.pair(new)
    loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
    weight, expected = net.one.weight.grad.clone(), new.grad
    net.zero_grad()
    with model.trace(X):
        old = model.one.output
        model.one.output = old * 3
        got = model.one.output.grad.save()
        old.grad *= 10
        loss_of(model.output).backward()
    same(got, expected)
    torch.testing.assert_close(net.one.weight.grad, weight)


def test_a_gradient_that_is_put_upstream(model, net):
    one = kept(net.one(X))
    new = kept(one * 3)
    left, right = net.pair(new)
    loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
    expected = new.grad
    net.zero_grad()
    one = net.one(X)
    one.backward(expected)
    weight = net.one.weight.grad.clone()
    for way in ("name", "site"):
        net.zero_grad()
        with model.trace(X):
            old = model.one.output
            model.one.output = old * 3
            if way == "name":
                new = model.one.output
                old.grad = new.grad
            else:
                old.grad = model.one.output.grad
            loss_of(model.output).backward()
        torch.testing.assert_close(net.one.weight.grad, weight)


# ---------------------------------------------------------------------- in-place edits


def behind(net, edit, loss=lambda out, h: loss_of(out)):
    hidden = edit(net.one(X)).detach().requires_grad_()
    left, right = net.pair(hidden)
    return torch.autograd.grad(loss(net.three(torch.tanh(net.two(left) + right)), hidden), hidden)[0]


def augmented(h):
    h *= 2
    h += V
    return h


def in_a_slice(h):
    h[:, 1] *= 3
    return h


def by_a_view(h):
    h[:, 1:].mul_(3)
    return h


def filled(h):
    h[0] = V
    return h


EDITS = {
    "augmented": augmented, "in a slice": in_a_slice, "by a view": by_a_view, "filled": filled,
    "mul_": lambda h: h.mul_(2), "add_": lambda h: h.add_(V), "chain": lambda h: h.add_(V).mul_(2), "relu_": lambda h: h.relu_(),
    "clamp_": lambda h: h.clamp_(-0.1, 0.3), "torch.relu_": lambda h: torch.relu_(h), "clone": lambda h: h.mul_(2),
    "relu": lambda h: nn.functional.relu(h, inplace=True), "div": lambda h: h.div_(4).sub_(V), "view of it": lambda h: h.mul_(2),
}  # fmt: skip


@pytest.mark.parametrize("how", ["plain", "block", "invoke", "input", "retained"])
@pytest.mark.parametrize("edit", EDITS)
def test_behind_edits(model, net, edit, how):
    change = EDITS[edit]
    expected = behind(net, change)

    def lines():
        h = change(model.pair.input if how == "input" else model.one.output)
        return h.view(3, 4) if edit == "view of it" else h

    if how == "invoke":
        with model.trace() as tracer:
            with tracer.invoke(X):
                got = lines().grad.save()
                loss_of(model.output).backward()
    else:
        with model.trace(X):
            h = lines()
            if how == "block":
                with loss_of(model.output).backward():
                    got = h.grad.save()
            elif how == "retained":
                got = h.save()
                h.retain_grad()
                loss_of(model.output).backward()
            else:
                got = h.grad.save()
                loss_of(model.output).backward()
    if how == "retained":
        torch.testing.assert_close(got.grad, expected)
    else:
        same(got, expected)


def test_each_version_has_its_own_gradient(model, net):
    expected = behind(net, lambda h: h * 2 + V)
    with model.trace(X):
        h = model.one.output
        first = h.grad.save()
        h.mul_(2)
        second = h.grad.save()
        third = h.grad.save()
        h += V
        last = h.grad.save()
        loss_of(model.output).backward()
    same(first, expected * 2)
    for got in (second, third, last):
        same(got, expected)


def test_an_edit_of_something_else_leaves_it_one_gradient(model, net):
    expected = behind(net, lambda h: h)
    weights = by_weight(net, 0.5)
    with model.trace(X):
        h = model.one.output
        h.grad *= 0.5
        fresh = model.one.output.clone()
        fresh[:, 0] = 0
        h.grad[:] = h.grad
        after = h.grad.save()
        loss_of(model.output).backward()
    same(after, expected * 0.5)
    torch.testing.assert_close(net.one.weight.grad, weights)


def by_weight(net, scale):
    net.zero_grad()
    one = net.one(X)
    one.register_hook(lambda gradient: gradient * scale)
    left, right = net.pair(one)
    loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
    weight = net.one.weight.grad.clone()
    net.zero_grad()
    return weight


def test_changes_of_the_gradient_behind_an_edit(model, net):
    one = net.one(X)
    edited = one * 2
    edited.register_hook(lambda gradient: torch.cat([gradient[:, :1] * 0, gradient[:, 1:]], 1))
    left, right = net.pair(edited)
    loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
    weight = net.one.weight.grad.clone()
    net.zero_grad()
    with model.trace(X):
        h = model.one.output
        h *= 2
        h.grad[:, 0] = 0
        loss_of(model.output).backward()
    torch.testing.assert_close(net.one.weight.grad, weight)


def test_a_value_that_is_edited_below_its_replacement(model, net):
    """Named above the edit it is the value that the model had; below, the copy that only the lines of the trace know."""
    expected = scaled(net)[0]
    with model.trace(X):
        old = model.one.output
        model.one.output = old * 3
        above = old.grad.save()
        old[0] = 7
        below = old.grad.save()
        model.two.output = model.two.output * 2
        (loss_of(model.output) + (old * V).sum() * 0).backward()
    same(above, expected)
    assert not below.value.any()


def test_parts_of_a_split(model, net):
    expected = behind(net, lambda h: h)
    with model.trace(X):
        found = [part.grad.save() for part in model.one.output.split(2, -1)]
        loss_of(model.output).backward()
    torch.testing.assert_close(torch.cat([part.value for part in found], -1), expected)


def test_a_gradient_that_comes_too_late_to_be_put_there(model):
    with pytest.raises(NNsightError, match="reaches only after it"):
        with model.trace(X):
            model.two.output.grad = model.one.output.grad
            loss_of(model.output).backward()


class Heads(nnsight.Envoy):
    """A view, and a copy, of the output."""

    @nnsight.eproperty()
    @nnsight.requires_output
    def heads(self):
        """Two groups of two."""

    @heads.preprocess
    def heads(self, value):
        return value.unflatten(-1, (2, 2))

    @heads.transform
    def heads(value):
        return value.flatten(-2)

    @nnsight.eproperty()
    @nnsight.requires_output
    def doubled(self):
        """Twice the output."""

    @doubled.preprocess
    def doubled(self, value):
        return value * 2

    @doubled.transform
    def doubled(value):
        return value / 2


@pytest.mark.parametrize("name", ["heads", "doubled"])
@pytest.mark.parametrize("how", ["assigned", "edited", "both"])
def test_own_properties(net, name, how):
    view, back = (
        (lambda x: x.unflatten(-1, (2, 2)), lambda x: x.flatten(-2)) if name == "heads" else (lambda x: x * 2, lambda x: x / 2)
    )
    old = kept(view(kept(net.one(X))))
    edited = kept(old * 0.5) if how != "assigned" else old
    new = kept(edited * 3) if how != "edited" else edited
    left, right = net.pair(back(new))
    loss_of(net.three(torch.tanh(net.two(left) + right))).backward()
    model = NNsight(net, envoys={nn.Linear: Heads})
    with model.trace(X):
        value = getattr(model.one, name)
        if how != "assigned":
            value *= 0.5
        if how != "edited":
            setattr(model.one, name, value * 3)
        got = value.grad.save()
        loss_of(model.output).backward()
    same(got, edited.grad)
    with model.trace(X):
        value = getattr(model.one, name)
        if how != "assigned":
            value *= 0.5
        if how != "edited":
            setattr(model.one, name, value * 3)
        present = getattr(model.one, name).grad.save()
        loss_of(model.output).backward()
    same(present, new.grad)
