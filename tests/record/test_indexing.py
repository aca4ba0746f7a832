"""Every form of index, read and written, against the same index on a plain tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

CUBE = torch.arange(24.0).reshape(2, 3, 4)
model = nnsight.NNsight(nn.Identity())
FORMS = {
    "integer": 1,
    "negative": -1,
    "slice": slice(1, None),
    "step": slice(None, None, 2),
    "ellipsis": ...,
    "ellipsis and integer": (..., 0),
    "none": None,
    "none in the middle": (0, None, slice(None)),
    "list": [0, 1, 0],
    "lists": ([0, 1], [1, 2]),
    "integers": (0, 1, 2),
    "tensor": torch.tensor([1, 0]),
    "tensors": (torch.tensor([1, 0]), torch.tensor([0, 2])),
    "tensor of no dimension": torch.tensor(1),
    "tensor between slices": (slice(None), torch.tensor([0, 2]), slice(1, 3)),
    "slice of tensors": slice(torch.tensor(0), torch.tensor(2)),
    "mask": CUBE > 5,
    "row mask": torch.tensor([True, False]),
    "list of booleans": [True, False],
    "true": True,
    "false": False,
    "array": np.array([0, 1]),
    "numpy integer": np.int64(1),
    "empty list": [],
    "empty tuple": (),
    "range": range(2),
    "size": torch.Size([0, 1]),
}


@pytest.mark.parametrize("index", FORMS.values(), ids=FORMS)
def test_reading(index):
    with model.trace(CUBE):
        got = model.output[index].save()
    assert torch.equal(got.value, CUBE[index])


@pytest.mark.parametrize("index", FORMS.values(), ids=FORMS)
def test_writing(index):
    expected = CUBE.clone()
    expected[index] = 7.0
    with model.trace(CUBE) as tracer:
        model.output[index] = 7.0
        got = tracer.result.save()
    assert torch.equal(got.value, expected)
    assert torch.equal(CUBE, torch.arange(24.0).reshape(2, 3, 4))


@pytest.mark.parametrize("index", FORMS.values(), ids=FORMS)
def test_adding_in_place(index):
    expected = CUBE.clone()
    expected[index] += 2.0
    with model.trace(CUBE) as tracer:
        model.output[index] += 2.0
        got = tracer.result.save()
    assert torch.equal(got.value, expected)


@pytest.mark.parametrize("index", [3, (0, 5), "a", [9], (0, 0, 0, 0)], ids=repr)
def test_a_wrong_index_is_the_error_that_torch_raises(index):
    with pytest.raises((IndexError, TypeError)) as plain:
        CUBE[index]
    with pytest.raises(plain.type) as traced:
        with model.trace(CUBE):
            model.output[index].save()
    assert isinstance(traced.value, nnsight.NNsightError)
    assert str(traced.value) == str(plain.value)


def ways(value, n, best, mask):
    """Reads by traced integers, tensors and masks, on a matrix."""
    return [
        value[n],
        value[:n],
        value[-n:, None, ...],
        value[torch.arange(n + 1), best],
        value[mask],
        value[n, n],
        value[[n, 0]],
        value[n - 1 : n],
        value[best[0] - 1],
    ]


MATRIX = torch.tensor([[0.0, 1, 5, 3], [4, 9, 6, 7], [8, 9, 10, 1]])


@pytest.mark.parametrize("number", range(9))
def test_a_traced_index(number):
    plain = ways(MATRIX, 2, MATRIX.argmax(-1), MATRIX > 5)[number]
    with model.trace(MATRIX):
        value = model.output
        got = ways(value, value.shape[0] - 1, value.argmax(-1), value > 5)[number].save()
    assert torch.equal(got.value, plain)


@pytest.mark.parametrize("number", range(9))
def test_a_traced_index_into_a_real_tensor(number):
    real = MATRIX.clone()
    with model.trace(MATRIX):
        value = model.output
        got = ways(real, value.shape[0] - 1, value.argmax(-1), value > 5)[number].save()
    assert torch.equal(got.value, ways(MATRIX, 2, MATRIX.argmax(-1), MATRIX > 5)[number])


def test_writing_by_traced_indices():
    expected = MATRIX.clone()
    mask = expected > 5
    expected[2], expected[mask], expected[0, :2], expected[[0, 1], [2, 2]] = 0, -1, 9, 5
    with model.trace(MATRIX) as tracer:
        value = model.output
        n, mask = value.shape[0] - 1, value > 5
        value[n] = 0
        value[mask] = -1
        value[0, :n] = 9
        value[[0, 1], [n, n]] = 5
        got = tracer.result.save()
    assert torch.equal(got.value, expected)


@pytest.mark.parametrize("index", [0, slice(1, 3), [0, 2]], ids=repr)
def test_the_same_code_with_another_index_is_another_value(index):
    for shift in (0, 1):
        with model.trace(MATRIX):
            got = model.output[:, shift:][index].save()
        assert torch.equal(got.value, MATRIX[:, shift:][index])
