"""Copies and pickles of wrappers and envoys trace; methods that return the module return the envoy."""

from __future__ import annotations

import copy
import inspect
import io
import multiprocessing
import pickle
import types
from multiprocessing import resource_sharer

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import Envoy, NNsight, eproperty, requires_output
from nnsight_graph.model.tuples import TupleEnvoy

X = torch.tensor([[1.0, -2.0], [3.0, 0.5]])


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(self.linear(x)) + 1

    def frozen(self):
        return self.requires_grad_(False)

    def gate(self, x):
        return x * 3

    def child(self):
        return self.linear


class Own(Envoy):
    """What mirrors a block."""


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(Inner(), nn.Linear(2, 2))


class Doubling(Envoy):
    @eproperty()
    @requires_output
    def doubled(self): ...

    @doubled.preprocess
    def doubled(self, value):
        return value * 2


class Mine(NNsight):
    """A wrapper with attributes of its own, one of them an envoy."""

    def __init__(self, module, scale):
        super().__init__(module, envoys={nn.Linear: Doubling}, rename={"act": "activation"})
        self.__dict__["scale"] = scale
        self.__dict__["first"] = self[0].linear
        self.__dict__["pair"] = [self[0], self[1]]


class Loose(NNsight):
    def __init__(self, module):
        self.size = 3
        super().__init__(module)


class Remembering(NNsight):
    """Leaves something out when it is pickled, in the usual way."""

    def __getstate__(self):
        return {**super().__getstate__(), "left": "out"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.__dict__["came"] = self.__dict__.pop("left")


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


DEEP = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved}
COPIES = {"copy": copy.copy, **DEEP}
each_copy = pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
each_deep = pytest.mark.parametrize("make", DEEP.values(), ids=DEEP)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def by_hand(net, change=lambda h: h):
    with torch.no_grad():
        return net[1](change(net[0](X)))


def traced(model):
    with torch.no_grad(), model.trace(X):
        model[0].output[:, 0] = 0
        out = model.output.save()
    return out


def zeroed(hidden):
    return torch.cat([hidden[:, :1] * 0, hidden[:, 1:]], 1)


# ---------------------------------------------------------------------- wrappers


@each_copy
def test_a_copy_traces(net, make):
    model = NNsight(net)
    assert [list(model), model[0].linear]  # envoys that are kept at hand
    other = make(model)
    assert type(other) is NNsight
    assert other is not model
    assert torch.equal(traced(other), by_hand(net, zeroed))
    assert torch.equal(traced(model), by_hand(net, zeroed))
    assert other[0].linear.path == "model.0.linear"


def test_a_shallow_copy_has_the_same_weights_and_edits_of_its_own(net):
    model = NNsight(net)
    other = copy.copy(model)
    assert other._module is net
    assert other[0].linear.weight is net[0].linear.weight
    with other.edit(inplace=True):
        other[0].output = other[0].output * 0
    assert torch.equal(other(X), by_hand(net, lambda h: h * 0))
    assert torch.equal(model(X), by_hand(net))


@each_deep
def test_a_deep_copy_has_weights_of_its_own(net, make):
    model = NNsight(net)
    other = make(model)
    expected = by_hand(net)
    assert other[0].linear._module is other._module[0].linear
    with torch.no_grad():
        other[0].linear.weight.zero_()
        other[1].bias.zero_()
    assert torch.equal(model(X), expected)
    assert torch.equal(other(X), by_hand(other._module))
    assert not torch.equal(other(X), expected)


@each_copy
def test_names_classes_and_own_attributes_are_copied(net, make):
    model = Mine(net, 4)
    other = make(model)
    assert type(other) is Mine
    assert other.scale == 4
    assert other.first is other[0].linear if make is not copy.copy else other.first is model.first
    assert [envoy.path for envoy in other.pair] == ["model.0", "model.1"]
    assert other[0].activation is other[0].act
    with torch.no_grad(), other.trace(X):
        doubled = other[1].doubled.save()
    assert torch.equal(doubled, by_hand(net) * 2)


def test_an_own_attribute_that_is_an_envoy_stays_in_an_edited_view(net):
    model = Mine(net, 4)
    with model.edit() as edited:
        model[0].output = model[0].output * 0
    assert edited.first is model.first
    assert torch.equal(edited(X), by_hand(net, lambda h: h * 0))


@each_copy
def test_what_a_class_does_with_its_state_is_done(net, make):
    other = make(Remembering(net))
    assert make is copy.copy or other.came == "out"
    assert torch.equal(traced(other), by_hand(net, zeroed))


def test_attributes_before_init_are_an_error_that_says_so(net):
    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(module\) before"):
        Loose(net)


def plus(value, more):
    return value + more


@each_copy
def test_edits_are_copied(net, make):
    vector = torch.tensor([1.0, 5.0])
    model = NNsight(net)
    with model.edit(inplace=True):
        model[0].output = nnsight.apply(plus, model[0].output, vector)
        model[1].output[:, 0] = 7
    expected = by_hand(net, lambda h: h + vector)
    expected[:, 0] = 7
    other = make(model)
    with torch.no_grad():
        assert torch.equal(other(X), expected)
        with other.trace(X):
            out = other.output.save()
        assert torch.equal(out, expected)
    other.clear_edits()
    assert torch.equal(other(X), by_hand(net))
    assert torch.equal(model(X), expected)


@each_deep
def test_an_edit_in_a_copy_fails_on_the_line_that_was_written(net, make):
    model = NNsight(net)
    with model.edit(inplace=True):
        model[0].output = model[0].output.view(7)  # the line
    with pytest.raises(RuntimeError) as caught:
        make(model)(X)
    frames = [entry.lineno for entry in inspect.getinnerframes(caught.tb)]
    line = inspect.getsourcelines(test_an_edit_in_a_copy_fails_on_the_line_that_was_written)[1] + 4
    assert line in frames


def test_a_trained_vector_of_an_edit_is_copied(net):
    vector = torch.ones(2, requires_grad=True)
    model = NNsight(net)
    with model.edit(inplace=True):
        model[0].output = model[0].output + vector
    other = copy.deepcopy(model)
    before = other(X)
    with torch.no_grad():
        vector.add_(1)
    assert torch.equal(other(X), before)
    assert not torch.equal(model(X), before)


def test_a_tensor_that_was_computed_is_shared_by_edits(net):
    vector = torch.ones(2, requires_grad=True) * 2
    model = NNsight(net)
    with model.edit(inplace=True):
        model[0].output = model[0].output + vector
    assert torch.equal(copy.deepcopy(model)(X), model(X))


@each_deep
def test_a_module_called_in_an_edit_is_the_copys(net, make):
    model = NNsight(net)
    with model.edit(inplace=True):
        model[0].output = model[1](model[0].output)
    other = make(model)
    assert torch.equal(other(X), model(X))
    with torch.no_grad():
        other[1].weight.zero_()
        other[1].bias.fill_(2)
    assert other(X).eq(2).all()
    assert not model(X).eq(2).all()


def test_attached_modules_are_copied(net):
    model = NNsight(net)
    model[0].probe = nn.Linear(2, 1)
    other = copy.deepcopy(model)
    with torch.no_grad(), other.trace(X):
        probed = other[0].probe(other[0].output, hook=True)
        inside = other[0].probe.output.save()
        probed = probed.save()
    assert torch.equal(probed, net[0].probe(net[0](X)))
    assert torch.equal(inside, probed)
    assert other[0].probe.weight is not net[0].probe.weight


class Probe(nn.Module):
    """A module that knows an envoy of the model that it stands in."""

    def __init__(self, envoy):
        super().__init__()
        self.envoy = envoy

    def forward(self, x):
        return x


@each_deep
@pytest.mark.parametrize("begin", ["model", "envoy", "module"])
def test_a_model_whose_module_knows_an_envoy(net, make, begin):
    model = NNsight(net)
    model[0].probe = Probe(model[1])
    if begin == "model":
        other = make(model)
        assert other[0].probe._module.envoy is other[1]
        assert torch.equal(traced(other), by_hand(net, zeroed))
    elif begin == "envoy":
        other = make(model[1])
        assert other._tree.index.root[0].probe.envoy is other
    else:
        other = make(net)
        assert other[0].probe.envoy._module is other[1]
        assert torch.equal(traced(NNsight(other)), by_hand(net, zeroed))


# ---------------------------------------------------------------------- envoys


@each_deep
def test_a_deep_copy_of_an_envoy_mirrors_a_copy(net, make):
    model = NNsight(net)
    other = make(model[0].linear)
    assert type(other) is Envoy
    assert other.path == "model.0.linear"
    assert torch.equal(other.weight, net[0].linear.weight)
    assert other.weight is not net[0].linear.weight
    assert torch.equal(other(X), net[0].linear(X))


@each_deep
def test_envoys_in_one_container_stay_envoys_of_one_model(net, make):
    model = NNsight(net)
    first, whole, parts = make([model[0], model, {"last": model[1], "again": model[0]}])
    assert first is whole[0] is parts["again"]
    assert parts["last"] is whole[1]
    with torch.no_grad(), whole.trace(X):
        hidden = first.output.save()
        parts["last"].output = parts["last"].output + hidden
        out = whole.output.save()
    assert torch.equal(hidden, net[0](X))
    assert torch.equal(out, by_hand(net) + net[0](X))


@each_deep
def test_a_model_and_its_edited_view_stay_of_one_model(net, make):
    model = NNsight(net)
    with model.edit() as edited:
        model[0].output = model[0].output * 0
    view, whole = make((edited, model))
    assert view._module is whole._module
    assert whole.modules()[0] is whole
    assert torch.equal(view(X), by_hand(net, lambda h: h * 0))
    assert torch.equal(whole(X), by_hand(net))


def test_a_shallow_copy_of_an_envoy_is_of_the_same_model(net):
    model = NNsight(net)
    other = copy.copy(model[0])
    assert other is not model[0]
    assert other._module is net[0]
    with torch.no_grad(), model.trace(X):
        other.output = other.output * 0
        out = model.output.save()
    assert torch.equal(out, by_hand(net, lambda h: h * 0))
    model.extra = nn.Identity()  # the tree is made anew
    assert other.linear._module is net[0].linear


@each_copy
def test_operations_are_copied(net, make):
    model = NNsight(net)
    whole, source, operation = make(model), make(model[0].source), make(model[0].source.self_act_0)
    assert source.names == model[0].source.names
    assert operation.path == "model.0.source.self_act_0"
    if make is copy.deepcopy:
        whole, operation = make([model, model[0].source.self_act_0])
        with torch.no_grad(), whole.trace(X):
            out = operation.output.save()
        assert torch.equal(out, net[0].act(net[0].linear(X)))


def test_a_module_that_copies_itself_in_its_own_way_is_copied_as_such(net):
    graph = torch.fx.symbolic_trace(net)
    other = copy.deepcopy(NNsight(graph))
    assert type(other) is NNsight
    assert isinstance(other._module, torch.fx.GraphModule)
    assert torch.equal(other(X), by_hand(net))


@each_deep
def test_an_envoy_of_two_classes_is_copied(net, make):
    model = NNsight(net, envoys={Inner: Own})
    model._tree.shown = {"0": TupleEnvoy}
    other, whole = make((model[0], model))
    assert isinstance(other, Own)
    assert isinstance(other, TupleEnvoy)
    with torch.no_grad(), whole.trace(X):
        first = other.output[0].save()
    assert torch.equal(first, net[0](X))


# ---------------------------------------------------------------------- processes


def in_a_worker(model):
    torch.set_num_threads(1)
    return traced(model).tolist(), [envoy.path for envoy in model], model(X).tolist()


@pytest.mark.slow
def test_a_spawned_worker_gets_a_model(net):
    model = Mine(net, 3)
    with model.edit(inplace=True):
        model[1].output = model[1].output + model.scale
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        out, paths, called = pool.apply(in_a_worker, (model,))
    resource_sharer.stop(timeout=10)  # the thread that hands weights over
    assert torch.allclose(torch.tensor(out), by_hand(net, zeroed) + 3)
    assert paths == ["model.0", "model.1"]
    assert torch.allclose(torch.tensor(called), by_hand(net) + 3)


# ---------------------------------------------------------------------- methods that return the module

SAME = {
    "eval": (), "train": (), "float": (), "double": (), "half": (), "bfloat16": (), "cpu": (), "requires_grad_": (False,),
    "to": ("cpu",), "to_empty": (), "apply": (print,), "share_memory": (), "type": (torch.float64,),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_method_that_returns_the_module_returns_the_envoy(net, name, capsys):
    model = NNsight(net)
    with model.edit() as edited:
        model[0].output = model[0].output * 0
    kwargs = {"device": "cpu"} if name == "to_empty" else {}
    for envoy in (model, model[0], model[0].linear, edited):
        assert getattr(envoy, name)(*SAME[name], **kwargs) is envoy


def test_what_such_methods_do_is_done(net):
    model = NNsight(net)
    assert model.zero_grad() is None
    model[0].eval()
    assert (net[0].linear.training, net[1].training) == (False, True)
    assert model.train(False).requires_grad_(False).double() is model
    assert not net[1].training
    assert not net[1].weight.requires_grad
    assert net[1].weight.dtype is torch.float64
    seen = []
    model.apply(seen.append)
    assert seen[-1] is net
    with torch.no_grad(), model.half().float().trace(X):
        hidden = model[0].output.save()
    assert torch.equal(hidden, net[0](X))


def test_methods_of_ones_own(net):
    model = NNsight(net)
    assert model[0].frozen() is model[0]
    assert not net[0].linear.weight.requires_grad
    assert model[0].child() is net[0].linear
    with model.trace(X):
        gated = model[0].gate(model[0].output).save()
        assert model.eval() is model
    assert torch.equal(gated, net[0](X) * 3)


def test_other_methods_are_the_modules(net):
    model = NNsight(net)
    assert model.forward == net.forward
    assert model[0].gate.__self__ is net[0]
    assert inspect.signature(model[0].gate) == inspect.signature(net[0].gate)
    assert inspect.getsource(model[0].frozen) == inspect.getsource(Inner.frozen)
    assert isinstance(model[0].gate, types.MethodType)
    assert model[0].gate.__name__ == "gate"
    assert model.state_dict().keys() == net.state_dict().keys()
    assert [id(each) for each in model.parameters()] == [id(each) for each in net.parameters()]
    assert dict(model.named_parameters()).keys() == dict(net.named_parameters()).keys()
    assert list(model.children()) == list(net.children())


def test_a_container_that_grows_returns_its_envoy(net):
    model = NNsight(net)
    assert len(list(model)) == 2
    assert model.append(nn.ReLU()) is model
    assert model[2]._module is net[2]
    assert model.path == "model"
