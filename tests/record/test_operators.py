"""All of Python's operators on traced values, against the same operators on plain tensors."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

FLOATS, INTEGERS = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[1, 2], [3, 5]])
ON_FLOATS = "add sub mul truediv floordiv mod pow matmul eq ne lt le gt ge".split()
ON_INTEGERS = "and_ or_ xor lshift rshift add mod".split()
IN_PLACE = "iadd isub imul itruediv ifloordiv imod ipow".split()
IN_PLACE_INTEGERS = "iand ior ixor ilshift irshift".split()
CASES = [
    *[
        (name, FLOATS, other)
        for name in ON_FLOATS
        for other in (FLOATS.T.clone(), 2, 0.5, torch.tensor(3.0), np.float32(2))
        if name != "matmul"
    ],
    *[(name, INTEGERS, other) for name in ON_INTEGERS for other in (INTEGERS.T.clone(), 2)],
    ("matmul", FLOATS, FLOATS.T.clone()),
]
IDS = [f"{name}-{type(other).__name__}-{tensor.dtype}" for name, tensor, other in CASES]
model = nnsight.NNsight(nn.Identity())


def agree(got, expected):
    assert type(got) is type(expected)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("name", "tensor", "other"), CASES, ids=IDS)
def test_operator(name, tensor, other):
    function = getattr(operator, name)
    with model.trace(tensor):
        got = function(model.output, other).save()
    agree(nnsight.value(got), function(tensor, other))


REFLECTED = [pytest.param(*case, id=name) for case, name in zip(CASES, IDS, strict=True)]


@pytest.mark.parametrize(("name", "tensor", "other"), REFLECTED)
def test_operator_with_the_traced_value_on_the_right(name, tensor, other):
    function = getattr(operator, name)
    with model.trace(tensor):
        got = function(other, model.output).save()
    agree(nnsight.value(got), function(other, tensor))


@pytest.mark.parametrize("name", ON_FLOATS)
def test_operator_on_two_traced_values(name):
    function = getattr(operator, name)
    with model.trace(FLOATS):
        got = function(model.output, model.output.T).save()
    agree(nnsight.value(got), function(FLOATS, FLOATS.T))


@pytest.mark.parametrize(("name", "tensor"), [*[(n, FLOATS) for n in IN_PLACE], *[(n, INTEGERS) for n in IN_PLACE_INTEGERS]])
@pytest.mark.parametrize("whole", [True, False])
def test_augmented_assignment_changes_the_value_and_what_passes(name, tensor, whole):
    function, other = getattr(operator, name), (tensor.abs().T.clone() if whole else 2)
    with model.trace(tensor) as tracer:
        first = model.output
        second = function(first, other)
        first.save(), second.save()
        result = tracer.result.save()
    expected = function(tensor.clone(), other)
    for got in (first, second, result):
        agree(nnsight.value(got), expected)


def test_augmented_matmul_makes_a_new_tensor_as_torch_does():
    with model.trace(FLOATS) as tracer:
        value = model.output
        value @= FLOATS.T
        value.save()
        result = tracer.result.save()
    agree(nnsight.value(value), FLOATS @ FLOATS.T)
    agree(nnsight.value(result), FLOATS)


@pytest.mark.parametrize("function", [operator.neg, operator.pos, abs, lambda v: ~(v > 0)])
def test_operators_of_one_operand(function):
    with model.trace(FLOATS):
        got = function(model.output).save()
    agree(nnsight.value(got), function(FLOATS))


@pytest.mark.parametrize(
    "function",
    [lambda n: divmod(n, 2), lambda n: divmod(7, n), round, lambda n: round(n / 7, 2), lambda n: n // 2 << 1 | 1, lambda n: 7 - n],
)
def test_operators_on_a_traced_number(function):
    with model.trace(torch.zeros(5, 1)):
        got = function(model.output.shape[0]).save()
    assert got.value == function(5)


@pytest.mark.parametrize("way", [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: torch.maximum(a, b), lambda a, b: a @ b.T])
def test_a_real_tensor_and_a_traced_value_in_both_orders(way):
    real = torch.tensor([[5.0, 6.0], [-7.0, 8.0]])
    with model.trace(FLOATS):
        left, right = way(real, model.output).save(), way(model.output, real).save()
    agree(nnsight.value(left), way(real, FLOATS))
    agree(nnsight.value(right), way(FLOATS, real))


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_an_array_stands_on_the_right_of_a_traced_value():
    array = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    with model.trace(FLOATS):
        got = (model.output * array).save()
    agree(nnsight.value(got), FLOATS * torch.from_numpy(array))


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_a_function_of_numpy_is_recorded():
    with model.trace(FLOATS):
        got = np.exp(model.output).save()
    assert np.array_equal(got.value, np.exp(FLOATS.numpy()))


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_a_function_of_numpy_prints():
    with model.trace(FLOATS) as tracer:
        np.exp(model.output).save()
    assert "exp" in str(tracer.graph)
