"""Copies and pickles of a module that a run has hooks, a forward or parameters on, are free of them."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import nnsight_graph as nnsight

X = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
OWN = set(vars(nn.Module()))


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda module: pickle.loads(pickle.dumps(module)), "torch.save": saved}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return torch.relu(self.linear(x))


def doubled(_module, _args, output):
    return output * 2


def changed(_module, _args):
    return None


def hooked(model):
    model.layer.output = model.layer.output + 1
    model.layer.linear.input = model.layer.linear.input * 2


def skipped(model):
    model.layer.skip(model.layer.input * 0)


def inside(model):
    model.layer.source.torch_relu_0.output = model.layer.source.torch_relu_0.output + 1


def weighted(model):
    model.layer.linear.weight = model.layer.linear.weight * 2


def cached(_model, tracer):
    tracer.cache(include_inputs=True)


LINES = {"hooks": hooked, "skip": skipped, "source": inside, "parameter": weighted, "cache": cached}


class Net(nn.Module):
    """Calls ``meanwhile`` in the midst of its forward, as another thread may."""

    def __init__(self):
        super().__init__()
        self.layer = Layer()
        self.meanwhile = None

    def forward(self, x):
        if self.meanwhile is not None:
            self.meanwhile()
        return self.layer(x)


def copied_in_a_run(net, lines, make):
    """What ``make`` gives of a module's layer while a trace runs."""
    found = []
    net.__dict__["meanwhile"] = lambda: found.append(make(net.layer))
    model = nnsight.NNsight(net)
    with torch.no_grad(), model.trace(X) as tracer:
        lines(model, tracer) if lines is cached else lines(model)
        model.output.save()
    net.__dict__["meanwhile"] = None
    return found[0]


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_a_copy_made_in_a_run_is_free_of_it(lines, make):
    torch.manual_seed(0)
    net = Net()
    expected = net.layer(X)
    other = copied_in_a_run(net, lines, make)
    for module in (*other.modules(), *net.layer.modules()):
        assert set(vars(module)) <= OWN | {"in_features", "out_features"}
        assert not any(vars(module)[name] for name in OWN if name.endswith(("hooks", "kwargs")))
        assert type(module._parameters) is type(module._buffers) is dict
        assert not vars(module._forward_hooks)
        assert not vars(module._forward_pre_hooks_with_kwargs)
    assert torch.equal(other(X), expected)


@pytest.mark.parametrize("make", [copy.deepcopy, COPIES["pickle"]])
def test_the_users_own_hooks_are_copied(make):
    net = Net()
    net.layer.register_forward_hook(doubled)
    net.layer.linear.register_forward_pre_hook(changed)
    other = copied_in_a_run(net, hooked, make)
    assert list(other._forward_hooks.values()) == [doubled]
    assert list(other.linear._forward_pre_hooks.values()) == [changed]
    assert torch.equal(other(X), net.layer(X))


def test_a_deep_copy_made_in_a_run_has_weights_of_its_own():
    for lines in LINES.values():
        net = Net()
        other = copied_in_a_run(net, lines, copy.deepcopy)
        with torch.no_grad():
            other.linear.weight.zero_()
            other.linear.bias.fill_(3)
        assert torch.equal(other(X), torch.full((2, 2), 3.0))
        assert not net.layer.linear.weight.eq(0).all()


class Twice(nn.Module):
    def forward(self, weight):
        return weight * 2


def test_a_class_that_copies_its_attributes_itself_runs_on_its_own_weights():
    net = Net()
    net.layer.linear = nn.Linear(2, 2)
    parametrize.register_parametrization(net.layer.linear, "weight", Twice())
    lines = {"hooks": hooked, "skip": lambda model: model.layer.linear.skip(model.layer.linear.input * 0)}
    for each in lines.values():
        other = copied_in_a_run(net, each, copy.deepcopy)
        with torch.no_grad():
            other.linear.parametrizations.weight.original.zero_()
            other.linear.bias.fill_(3)
        assert torch.equal(other(X), torch.full((2, 2), 3.0))
        assert not other.linear._forward_hooks
        assert not other.linear._forward_pre_hooks


def test_one_that_copies_its_attributes_itself_is_free_of_a_run_in_its_next_copy():
    net = Net()
    parametrize.register_parametrization(net.layer.linear, "weight", Twice())
    other = copied_in_a_run(net, lambda model: model.layer.linear.skip(model.layer.linear.input * 0), copy.deepcopy)
    assert torch.equal(other(X), net.layer(X))
    assert torch.equal(copy.copy(other)(X), net.layer(X))


def test_a_forward_of_ones_own_is_copied():
    net = Net()
    net.layer.forward = double
    other = copied_in_a_run(net, skipped, copy.deepcopy)
    assert vars(other)["forward"] is double
    assert vars(net.layer)["forward"] is double


def double(x):
    return x * 2


def test_a_bar_and_limits_are_not_copied():
    net = Net()
    found = []
    net.__dict__["meanwhile"] = lambda: found.append((len(net._forward_hooks) + len(net._forward_pre_hooks), copied_hooks(net)))
    model = nnsight.NNsight(net)
    with model.trace(X, progress=True) as tracer:
        out = (model.layer.output + 1).save()
    tracer.graph.run(model, X, limits=nnsight.Limits())
    assert found == [(1, []), (1, [])]
    assert copied_hooks(net) == []
    assert torch.equal(out, net.layer(X) + 1)


def copied_hooks(net):
    return [*copy.deepcopy(net._forward_hooks), *copy.deepcopy(net._forward_pre_hooks)]
