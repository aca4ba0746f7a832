"""Tensors, arrays and modules from outside: a line keeps the value they had when it was written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
model = nnsight.NNsight(nn.Identity())

CHANGES = {
    "method": lambda c: c.mul_(2),
    "index": lambda c: c.__setitem__(0, 7),
    "augmented": lambda c: c.__iadd__(1),
    "view": lambda c: c[1:].zero_(),
    "out": lambda c: torch.add(c, 1, out=c),
    "data": lambda c: c.data.fill_(9),
    "init": lambda c: nn.init.zeros_(c),
    "function": lambda c: torch.relu_(c.sub_(3)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_tensor_changed_between_two_lines(change):
    captured, plain = torch.ones(4), torch.ones(4)
    change(plain)
    with model.trace(X):
        above = (model.output + captured).save()
        change(captured)
        below = (model.output + captured).save()
    assert torch.equal(above.value, X + 1)
    assert torch.equal(below.value, X + plain)
    assert torch.equal(captured, plain)


def test_a_change_through_a_view_and_of_a_view():
    captured = torch.ones(4)
    part = captured[1:]
    with model.trace(X):
        first = (model.output[:, 1:] + part).save()
        captured += 1
        second = (model.output[:, 1:] + part).save()
    assert torch.equal(first.value, X[:, 1:] + 1)
    assert torch.equal(second.value, X[:, 1:] + 2)


def test_a_module_changed_between_two_lines():
    layer = nn.Linear(4, 4)
    before = layer(X).detach()
    with model.trace(X):
        above = layer(model.output).save()
        with torch.no_grad():
            layer.weight.zero_()
        below = layer(model.output).save()
    assert torch.equal(above.value, before)
    assert torch.equal(below.value, layer(X))


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_an_array_changed_between_two_lines():
    captured = np.ones(4, dtype=np.float32)
    with model.trace(X):
        above = (model.output * captured).save()
        captured *= 2
        below = (model.output * captured).save()
    assert torch.equal(below.value, X * 2)
    assert torch.equal(above.value, X)


def test_a_list_changed_between_two_lines():
    captured = [1]
    with model.trace(X):
        above = nnsight.apply(lambda _, items: list(items), model.output, captured).save()
        captured.append(2)
        below = nnsight.apply(lambda _, items: list(items), model.output, captured).save()
    assert (above.value, below.value) == ([1], [1, 2])


def test_a_traced_value_is_written_into_a_captured_tensor():
    captured = torch.zeros(2, 4)
    with model.trace(X):
        captured[:, 0] = model.output[:, 0]
        got = (model.output * 0 + captured).save()
    expected = torch.zeros(2, 4)
    expected[:, 0] = X[:, 0]
    assert torch.equal(got.value, expected)
    assert torch.equal(captured, expected)


def test_a_traced_value_is_added_to_a_captured_tensor():
    captured = torch.ones(2, 4)
    other_name = captured
    with model.trace(X):
        captured += model.output
        got = nnsight.save(captured)
    assert torch.equal(nnsight.value(got), X + 1)
    assert torch.equal(other_name, X + 1)


def test_a_captured_tensor_is_used_below_a_traced_write():
    captured = torch.zeros(2, 4)
    with model.trace(X):
        captured[:, 0] = model.output[:, 0]
        got = (model.output * 0 + captured * 2).save()
    assert torch.equal(got.value[:, 0], X[:, 0] * 2)


@pytest.mark.parametrize(
    "write", [lambda new, v: new.__setitem__(..., v), lambda new, v: new.copy_(v), lambda new, v: torch.add(v, 0, out=new)]
)
def test_a_tensor_made_in_the_block_is_filled(write):
    with model.trace(X):
        new = torch.zeros_like(model.output)
        write(new, model.output)
        got = new.save()
    assert torch.equal(got.value, X)


def test_the_models_own_input_does_not_change():
    given = X.clone()
    with model.trace(given):
        model.input[:] = 0
        model.output.add_(1)
        got = model.output.save()
    assert torch.equal(given, X)
    assert torch.equal(got.value, torch.ones(2, 4))


def test_one_tensor_used_twice_and_two_equal_ones():
    for first, second in [(torch.ones(4),) * 2, (torch.ones(4), torch.ones(4)), (torch.ones(4), torch.zeros(4))]:
        with model.trace(X):
            got = (model.output * first + second).save()
        assert torch.equal(got.value, X * first + second)
