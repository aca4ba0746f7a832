"""What a block puts into containers that were there before it counts as saved."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
LISTED = []


class Probe:
    """An object of the user's own."""

    def __init__(self):
        self.seen, self.last = [], None


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).requires_grad_(False)


@pytest.fixture
def model(module):
    return nnsight.NNsight(module)


def test_lists_dicts_sets_deques_and_attributes(module, model):
    listed, named, several, queue, space, probe = [], {}, set(), deque(), SimpleNamespace(), Probe()
    grouped, ordered, deep = defaultdict(list), OrderedDict(), {"layers": [[], []]}
    with model.trace(X):
        listed.append(model[0].output)
        named["h"] = model[0].output * 2
        queue.appendleft(model[1].output)
        space.h = model[2].output
        probe.seen.append(model[0].output + 1)
        probe.last = model[2].output - 1
        grouped["out"].append(model[2].output)
        ordered[0] = (model[0].output, {"twice": model[1].output})
        deep["layers"][1].append(model[1].output)
    hidden, active, out = module[0](X), torch.tanh(module[0](X)), module(X)
    pairs = [(listed[0], hidden), (named["h"], hidden * 2), (queue[0], active), (space.h, out), (probe.seen[0], hidden + 1)]
    pairs += [(probe.last, out - 1), (grouped["out"][0], out), (ordered[0][0], hidden), (ordered[0][1]["twice"], active)]
    pairs.append((deep["layers"][1][0], active))
    for got, right in pairs:
        assert isinstance(got, torch.Tensor)
        assert torch.equal(got, right)
    assert several == set()


def test_numbers_in_a_counter_and_a_list_of_the_module(module, model):
    counts = Counter()
    LISTED.clear()
    with model.trace(X):
        counts["rows"] = model[0].output.sum().item()
        LISTED.append(model[2].output)
    assert counts["rows"] == module[0](X).sum().item()
    assert torch.equal(LISTED[0], module(X))


def test_items_that_are_assigned(module, model):
    kept = [None] * 200
    with model.trace(X):
        for place, layer in enumerate(model):
            kept[place] = layer.output
    assert [type(each) is type(None) for each in kept[:4]] == [False, False, False, True]
    assert torch.equal(kept[1], torch.tanh(module[0](X)))


def test_over_several_traces_and_invokes(module, model):
    found = {}
    for factor in range(3):
        with model.trace(X * factor):
            found[factor] = model.output
    for factor, got in found.items():
        assert torch.equal(got, module(X * factor))
    rows = []
    with model.trace() as tracer:
        with tracer.invoke(X):
            rows.append(model[0].output)
        with tracer.invoke(X * 2):
            rows.append(model[0].output)
    assert torch.equal(rows[0], module[0](X))
    assert torch.equal(rows[1], module[0](X * 2))


def test_what_is_taken_out_again_is_not_kept(model):
    found, named = [], {}
    with model.trace(X) as tracer:
        found.append(model[0].output)
        found.pop()
        named["h"] = model[0].output
        del named["h"]
        out = model.output.save()
    assert str(tracer.graph).count("save ") == 1
    assert found == []
    assert out.shape == (2, 4)


def test_containers_that_the_block_makes_are_not_kept(model):
    with model.trace(X) as tracer:
        mine = [model[0].output]
        out = model.output.save()
    assert str(tracer.graph).count("save ") == 1
    with pytest.raises(nnsight.UnsetValueError, match="it was not saved"):
        mine[0] + 1
    assert out.shape == (2, 4)


def test_a_list_of_the_functions_own(module, model):
    def collect():
        found = []
        with model.trace(X):
            found.append(model[0].output)
        return found

    assert torch.equal(collect()[0], module[0](X))


def test_an_edit_refuses_them_on_their_line(model):
    found = []
    with pytest.raises(nnsight.RecordError, match=r"an edit runs later.*found.append\(edited\[0\].output\)"), model.edit() as edited:
        found.append(edited[0].output)
    with model.trace(X):
        out = model.output.save()
    assert out.shape == (2, 4)


def test_a_graph_has_them_under_names(module, model):
    found = []
    with model.trace(X) as tracer:
        found.append(model[0].output)
        found.append(model[2].output)
    again = tracer.graph.run(model, X * 2)
    assert [torch.equal(again[name], right) for name, right in zip(again, (module[0](X * 2), module(X * 2)), strict=True)] == [True, True]


def test_a_long_list_costs_no_walk(module, model):
    numbers = list(range(1_000_000))
    with model.trace(X):
        numbers.append(model[0].output)
    assert torch.equal(numbers[-1], module[0](X))
