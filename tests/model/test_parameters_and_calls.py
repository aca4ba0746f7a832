"""Parameters and buffers as values, and modules of the model called on traced values."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.run.lines import ends_on, users_line

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


def net():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)).eval()


def test_parameters_and_buffers_are_values():
    module = net()
    model = nnsight.NNsight(module)
    with model.trace(X):
        weight = model[0].weight.save()
        product = (model[0].input @ model[0].weight.T).save()
        shifted = (model[1].running_mean + 1).save()
        copy = model[0].weight[0].clone()
        copy[:] = 0
        copy.save()
    assert weight is module[0].weight
    assert torch.equal(product.value, X @ module[0].weight.T)
    assert torch.equal(shifted.value, torch.ones(4))
    assert torch.equal(copy.value, torch.zeros(4))


EDITS = {
    "zero_": lambda w: w.zero_(),
    "index": lambda w: w.__setitem__(0, 0),
    "augmented": lambda w: w.__iadd__(1),
    "row": lambda w: w[0].zero_(),
    "data": lambda w: w.data.zero_(),
    "init": lambda w: nn.init.zeros_(w),
    "view": lambda w: w.view(-1).__setitem__(0, 1.0),
    "transpose": lambda w: w.T.add_(1),
    "detach": lambda w: w.detach().add_(1),
    "copy_": lambda w: w.copy_(w * 2),
    "out": lambda w: torch.add(w, 1, out=w),
    "data assigned": lambda w: setattr(w, "data", torch.zeros(4, 4)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_a_parameter_is_of_this_run_or_refused(edit):
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model, changed = nnsight.NNsight(module), copy.deepcopy(module)
    with torch.no_grad():
        edit(changed[0].weight)
    refused = None
    try:
        with model.trace(X):
            edit(model[0].weight)
            out = model.output.save()
    except nnsight.RecordError as error:
        refused = error
    if refused is None:
        assert torch.equal(out, changed(X))
    else:
        assert re.search("parameter|no_grad", str(refused))
        assert users_line(refused)[0] in ("test_parameters_and_calls.py", "init.py")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_common_edits_are_not_refused():
    for name in ("zero_", "index", "augmented", "row", "copy_"):
        model = nnsight.NNsight(net())
        with model.trace(X):
            EDITS[name](model[0].weight)
            model.output.save()


def test_a_buffer_is_another_for_one_run():
    module = nn.BatchNorm1d(4).eval()
    model, mean = nnsight.NNsight(module), torch.full((4,), 2.0)
    with model.trace(X):
        model.running_mean[:] = 2
        edited = model.output.save()
    with model.trace(X):
        model.running_mean = mean
        assigned = model.output.save()
    expected = nn.functional.batch_norm(X, mean, module.running_var, module.weight, module.bias, eps=module.eps)
    assert torch.equal(edited, expected)
    assert torch.equal(assigned, expected)
    assert not module.running_mean.any()


def test_a_parameter_that_the_model_passes_is_not_edited():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.inner = nn.Parameter(torch.ones(2, 4)), nn.Identity()

        def forward(self, x):
            return x + self.inner(self.weight)

    module = Table()
    model = nnsight.NNsight(module)
    with pytest.raises(nnsight.NNsightError, match="parameter") as caught:
        with torch.no_grad(), model.trace(X):
            model.inner.output[:] = 0
    assert ends_on(caught.value)[0] == "test_parameters_and_calls.py"
    assert torch.equal(module.weight, torch.ones(2, 4))


def test_a_module_of_the_model_is_called():
    module = net()
    model = nnsight.NNsight(module)
    with model.trace(X):
        hidden = model[0].output
        called, named, sliced = model[2](hidden).save(), model[2](input=hidden).save(), model[1:][1](hidden).save()
        whole = model(hidden).save()
        regular = model[2].output.save()
    first = module[0](X)
    for got in (called, named, sliced):
        assert torch.equal(got.value, module[2](first))
    assert torch.equal(whole.value, module(first))
    assert torch.equal(regular.value, module(X))


def test_such_a_call_is_no_visit():
    module = net()
    model = nnsight.NNsight(module)
    with model.trace(X):
        model[2](model[0].output)
        model[2].output = model[2].output * 2
        seen = model[2].input.save()
        got = model.output.save()
    assert torch.equal(seen.value, module[1](module[0](X)))
    assert torch.equal(got.value, module(X) * 2)


def test_a_module_is_called_on_a_list_of_values():
    class Sum(nn.Module):
        def forward(self, items):
            return items[0] + items[1]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.sum = Sum()

        def forward(self, x):
            return self.sum([x, x])

    model = nnsight.NNsight(Model())
    with model.trace(X):
        got = model.sum([model.input, model.input * 2]).save()
    assert torch.equal(got.value, X * 3)


def test_a_plain_module_is_traced_through():
    module, own = net(), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nnsight.NNsight(module)
    with model.trace(X) as tracer:
        got = own(model[0].output).save()
    assert torch.equal(got.value, own(module[0](X)))
    assert "linear" in str(tracer.graph)
    assert "relu" in str(tracer.graph)


def test_a_plain_module_under_apply_is_one_node():
    own = nn.LSTM(4, 3)
    model = nnsight.NNsight(net())
    with model.trace(X) as tracer:
        got = nnsight.apply(own, model.input)[0].save()
    assert torch.equal(got.value, own(X)[0])
    assert len(tracer.graph) == 4


def test_the_graph_of_a_tracer():
    model = nnsight.NNsight(net())
    with model.trace(X) as tracer:
        model[0].output[:, 0] = 2.5
        (model[2].output + 1).save()
    lines = [line.split("#")[0].strip() for line in str(tracer.graph).splitlines()]
    assert lines == ["%0 = 0.output", "%0[:, 0] = 2.5", "%2 = 2.output", "%3 = %2 + 1", "save %3"]
    assert all("# test_parameters_and_calls.py:" in line for line in str(tracer.graph).splitlines())
    assert (len(tracer.graph), repr(tracer.graph)) == (5, str(tracer.graph))
