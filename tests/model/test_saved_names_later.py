"""Saved names in later traces, in loops over traces, sessions and helpers: ordinary values, as in plain Python."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2.0, -3.0, 4.0], [-2.0, 0.0, 5.0, 1.0]])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


@pytest.fixture(scope="module")
def model(net):
    return nnsight.NNsight(net)


@pytest.fixture
def frozen(net):
    return nnsight.NNsight(copy.deepcopy(net).requires_grad_(False))


def saved(model):
    with model.trace(X):
        tensor = model[0].output.save()
        number = model[0].output.sum().item().save()
        whole = model[0].output.argmax().item().save()
        listed = model[0].output[0].tolist().save()
    return tensor, number, whole, listed


def test_a_later_trace_takes_them(net, model):
    tensor, number, whole, listed = saved(model)
    with model.trace(X) as plain:
        expected = (model[0].output * tensor.detach().clone() + float(number) + int(whole)).save()
    with model.trace(X) as tracer:
        got = (model[0].output * tensor.detach() + number + whole).save()
        first = (model[0].output[:, whole % 4] * listed[0]).save()
        stacked = torch.stack([model[0].output, tensor]).save()
    assert torch.equal(got, expected)
    assert torch.equal(first, net[0](X)[:, whole % 4] * listed[0])
    assert torch.equal(stacked, torch.stack([net[0](X), tensor]))
    assert tracer.graph.graph.constants[1] == number
    assert [type(value) for value in plain.graph.graph.constants] == [torch.Tensor, float, int]
    assert type(tracer.graph.graph.constants[1]) is float


def test_the_plan_is_the_same_as_for_plain_values(frozen):
    tensor, number, *_ = saved(frozen)
    keys = set()
    for vector, factor in ((torch.ones(2, 4), 0.5), (tensor, number), (tensor.detach(), number.value)):
        with frozen.trace(X) as tracer:
            (frozen[0].output * vector * factor).save()
        keys.add(tracer.graph._recording.key)
    assert len(keys) == 1


def test_as_inputs_parameters_and_in_graph_files(frozen, tmp_path):
    tensor, number, *_ = saved(frozen)
    with frozen.trace(tensor) as tracer:
        factor = tracer.parameter("factor", number)
        scaled = (frozen[0].output * factor + tensor).save()
    expected = frozen._module[0](tensor) * number + tensor
    assert torch.equal(scaled, expected)
    tracer.graph.save(tmp_path / "scaled.nng")
    loaded = nnsight.load(tmp_path / "scaled.nng")
    assert torch.equal(loaded.run(frozen, tensor)["scaled"], expected)
    assert torch.equal(loaded.run(frozen, tensor, parameters={"factor": number})["scaled"], expected)
    assert type(loaded.parameters["factor"]) is float


def test_a_list_of_an_earlier_trace_is_filled_in_a_later_one(frozen):
    with frozen.trace(X):
        found = nnsight.list().save()
        found.append(1)
    same = found
    with frozen.trace(X):
        if frozen[0].output.sum() > -1e9:
            found.append(frozen[0].output.sum().item())
        found.append(frozen[2].output.sum().item().save())
    assert found is same
    assert sorted(map(type, found), key=str) == sorted(map(type, [1, *found[1:]]), key=str)
    assert found[1:] == [frozen._module[0](X).sum().item(), frozen._module(X).sum().item()]


def test_sums_and_maxima_over_traces(frozen):
    total: Any = 0
    added: Any = torch.zeros(())
    best: Any = float("-inf")
    for scale in (1.0, 3.0, 2.0):
        with frozen.trace(X * scale):
            now = frozen.output.sum()
            total = total + now
            added += now
            total.save()
            peak = now.item().save()
        if peak > best:
            best = peak
    sums = [frozen._module(X * scale).sum() for scale in (1.0, 3.0, 2.0)]
    assert torch.equal(total, sum(sums))
    assert torch.equal(added, sum(sums))
    assert best == max(one.item() for one in sums)


def test_a_name_that_was_not_reached_never_has_its_old_number(frozen):
    found: Any = 17
    with frozen.trace(X) as tracer:
        with tracer.cond(frozen[0].output.sum() > 1e9):
            found = frozen[0].output.save()
    with pytest.raises(nnsight.UnsetValueError, match="the branch it stands in was not taken"):
        found + 1
    best: Any = 17
    with frozen.trace(X):
        if frozen[0].output.sum() > 1e9:
            best = frozen[0].output.sum().item()
        best.save()
    assert best == 17


def test_a_failed_run_hands_over_what_was_reached(frozen):
    with pytest.raises(ZeroDivisionError):
        with frozen.trace(X):
            before = frozen[0].output.save()
            after = nnsight.apply(lambda v: 1 / 0, frozen[2].output).save()
    assert torch.equal(before, frozen._module[0](X))
    assert isinstance(before, torch.Tensor)
    with pytest.raises(nnsight.UnsetValueError):
        after + 1


def test_sessions_edits_and_scans(frozen):
    with frozen.session():
        collected = []
        with frozen.trace(X):
            first = frozen[0].output.save()
        with frozen.trace(X):
            second = (frozen[0].output + first).save()
            collected.append(second.sum().item().save())
    assert (first.value is first, second.value is second) == (True, True)
    assert torch.equal(second, 2 * first)
    assert collected == [second.sum().item()]
    with frozen.edit() as edited:
        edited[0].output[:] = 0
    with edited.trace(X):
        zeros = edited[0].output.save()
    assert torch.equal(zeros.value, torch.zeros(2, 4))
    with frozen.scan(X):
        shape, fake = frozen[0].output.shape, frozen[0].output.save()
    assert (shape, fake.shape) == ((2, 4), (2, 4))


def test_a_helper_function(frozen):
    def below() -> Any:
        with frozen.trace(X):
            hidden = frozen[0].output.save()
        return hidden, {"again": [hidden]}

    def inside() -> Any:
        with frozen.trace(X):
            return frozen[0].output.save()

    hidden, again = below()
    assert again["again"][0] is hidden is hidden.value
    found = inside()
    assert type(found) is nnsight.Proxy
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, hidden)
    with frozen.trace(X):
        other = (frozen[0].output + found).save()
    assert isinstance(found, torch.Tensor)
    assert type(found) is type(other)


def test_attributes_and_closures(frozen):
    class Probe:
        def __init__(self) -> None:
            self.acts: dict[str, list[Any]] = {}

        def run(self) -> None:
            with frozen.trace(X):
                self.last = frozen[2].output.save()
                self.acts.setdefault("relu", []).append(frozen[1].output.save())

    def keep(name: str, value: Any) -> None:
        kept[name] = value.save()

    kept: dict[str, Any] = {}
    probe = Probe()
    probe.run()
    with frozen.trace(X):
        for place in range(3):
            keep(str(place), frozen[place].output)
    assert {type(value) for value in (probe.last, *probe.acts["relu"], *kept.values())} == {type(probe.last)}
    assert probe.last.value is probe.last
    assert torch.equal(kept["2"], probe.last)
