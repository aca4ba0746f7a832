"""The mirror of a model's modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.by_name = nn.ModuleDict({"a": nn.Linear(4, 4)})
        self.alias = self.h[0]

    def forward(self, x):
        for layer in self.h:
            x = layer(x)
        return self.by_name["a"](self.alias(x) * 0 + x)


class Named(nn.Module):
    """With submodules called as what passes."""

    def __init__(self):
        super().__init__()
        self.input, self.output = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.output(self.input(x))


def test_it_prints_as_the_module():
    module = Net()
    assert repr(nnsight.NNsight(module)) == str(nnsight.NNsight(module)) == repr(module)


def test_only_modules_are_wrapped():
    with pytest.raises(TypeError, match=r"NNsight wraps an nn\.Module, not function"):
        nnsight.NNsight(lambda v: v)


def test_indices_slices_iteration_and_length():
    model = nnsight.NNsight(Net())
    assert [envoy.path for envoy in model.h] == ["model.h.0", "model.h.1", "model.h.2"]
    assert [envoy.path for envoy in model.h[1:]] == ["model.h.1", "model.h.2"]
    assert model.h[-1] is model.h[2] is model.get("h.2") is model.get("model.h.2") is model.h["2"]
    assert len(model.h) == 3
    assert bool(nnsight.NNsight(nn.ReLU()))
    with pytest.raises(IndexError):
        model.h[3]


def test_paths_and_names():
    model = nnsight.NNsight(Net())
    assert (model.path, model.h.path, model.by_name.a.path) == ("model", "model.h", "model.by_name.a")
    assert model.by_name["a"] is model.by_name.a
    assert [path for path, _ in model.named_modules()] == [
        f"model.{name}" if name else "model" for name, _ in model._module.named_modules()
    ]
    assert [envoy.path for envoy in model.h.modules()] == ["model.h", "model.h.0", "model.h.1", "model.h.2"]
    assert model.modules(include_fn=lambda envoy: envoy.path.endswith("1")) == [model.h[1]]
    assert model.modules(include_fn=lambda envoy: envoy.path.endswith("1"), names=True) == [("model.h.1", model.h[1])]


def test_other_attributes_are_the_modules():
    model = nnsight.NNsight(Net())
    assert model.h[0].in_features == 4
    assert model.h[0].weight is model._module.h[0].weight
    assert model.eval() is model
    assert model.training is False
    assert list(model.by_name.keys()) == ["a"]
    assert torch.equal(model(X), model._module(X))
    model.note = 3
    assert model._module.note == 3


def test_device_and_dtype():
    model = nnsight.NNsight(nn.Linear(2, 2))
    assert model.device == torch.device("cpu")
    assert model.to(torch.float64) is model
    assert model.weight.dtype == torch.float64
    assert nnsight.NNsight(nn.ReLU()).device is None


def test_completion():
    model = nnsight.NNsight(Net())
    assert {"h", "by_name", "output", "input", "inputs", "trace", "get", "forward"} <= set(dir(model))
    assert "a" in dir(model.by_name)
    assert "weight" in dir(model.h[0])


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda m: m.hh, r"model \(Net\) has no 'hh'. Near: h\."),
        (lambda m: m.outpt, "Near: output"),
        (lambda m: m.byname, "Near: by_name"),
        (lambda m: m.a, "Below it there is by_name.a"),
        (lambda m: m.get("h.7"), r"model.h \(ModuleList\) has no '7'"),
        (lambda m: m.h[0].wieght, "Near: weight"),
    ],
)
def test_a_wrong_name_says_what_is_near(wrong, hint):
    with pytest.raises(AttributeError, match=hint):
        wrong(nnsight.NNsight(Net()))


def test_submodules_called_output_and_input():
    module = Named()
    model = nnsight.NNsight(module)
    hidden = module.input(X)
    with model.trace(X):
        values = [
            v.save()
            for v in (
                model.output,
                model.nns_output,
                model.E_output.output,
                model.E_input.output,
                model.get("output").input,
                model.nns_input,
            )
        ]
    for got, expected in zip(values, (module(X), module(X), module(X), hidden, hidden, X), strict=True):
        assert torch.equal(got, expected)
    with model.trace(X) as tracer:
        model.E_input.output = model.E_input.output * 0
        model.nns_output = model.nns_output + 1
        got = tracer.result.save()
    assert torch.equal(got.value, module.output(torch.zeros(2, 4)) + 1)


def test_one_module_under_two_paths():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.Linear(4, 4)

        def forward(self, x):
            return self.b(x)

    module = Twice()
    model = nnsight.NNsight(module)
    with model.trace(X) as tracer:
        seen = model.b.output.save()
        model.a.output = model.b.output * 2
        below = model.b.output.save()
        got = tracer.result.save()
    assert torch.equal(seen.value, module.a(X))
    assert torch.equal(below.value, got.value)
    assert torch.equal(got.value, module.a(X) * 2)


def test_wrappers_of_one_module_do_not_meet():
    module = Net()
    first, second = nnsight.NNsight(module), nnsight.NNsight(module)
    with first.trace(X):
        first.h[0].output[:] = 0
        a = first.output.save()
    with second.trace(X):
        b = second.output.save()
    assert torch.equal(b.value, module(X))
    assert not torch.equal(a.value, b.value)


def test_a_replaced_submodule_is_seen():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nnsight.NNsight(module)
    model[0]
    module[1] = nn.Tanh()
    with model.trace(X):
        got = model.output.save()
    assert torch.equal(got.value, module(X))


def test_a_replaced_submodule_is_traced():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nnsight.NNsight(module)
    model[1]
    module[1] = nn.Tanh()
    with model.trace(X):
        got = model[1].output.save()
    assert torch.equal(got.value, module(X))


@pytest.mark.parametrize("kind", ["pre", "pre with kwargs", "post", "post with kwargs", "all"])
def test_the_users_own_hooks_come_first(kind):
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    calls = {
        "pre": lambda: module[0].register_forward_pre_hook(lambda m, a: (a[0] * 2,)),
        "pre with kwargs": lambda: module[0].register_forward_pre_hook(lambda m, a, k: ((a[0] + 1,), k), with_kwargs=True),
        "post": lambda: module[0].register_forward_hook(lambda m, a, o: o + 1),
        "post with kwargs": lambda: module[0].register_forward_hook(lambda m, a, k, o: o * 3, with_kwargs=True),
    }
    handles = [add() for name, add in calls.items() if kind in (name, "all")]
    seen = {}
    probes = [
        module[0].register_forward_pre_hook(lambda m, a: seen.update(input=a[0])),
        module[1].register_forward_pre_hook(lambda m, a: seen.update(output=a[0])),
    ]
    module(X)
    for probe in probes:
        probe.remove()
    model = nnsight.NNsight(module)
    with model.trace(X):
        given, made = model[0].input.save(), model[0].output.save()
    for handle in handles:
        handle.remove()
    assert torch.equal(given, seen["input"])
    assert torch.equal(made, seen["output"])


def test_a_users_hook_sees_what_the_module_computed():
    module, seen = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), []
    handle = module[0].register_forward_hook(lambda m, a, o: seen.append(o.clone()))
    model = nnsight.NNsight(module)
    with model.trace(X) as tracer:
        model[0].output = model[0].output * 0
        got = tracer.result.save()
    handle.remove()
    assert torch.equal(seen[0], module[0](X))
    assert torch.equal(got.value, torch.zeros(2, 4))
