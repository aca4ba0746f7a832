"""In-place edits, views and copies: what a line returns, and what the model goes on with, as on the plain tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import nnsight_graph as nnsight

START = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
model = nnsight.NNsight(nn.Identity())

VIEWS = {
    "transpose": lambda v: v.T,
    "matrix transpose": lambda v: v.mT,
    "row": lambda v: v[0],
    "slice of a slice": lambda v: v[:, 1:][:, :2],
    "view": lambda v: v.view(-1),
    "reshape, no copy": lambda v: v.reshape(4, 2),
    "reshape, a copy": lambda v: v.T.reshape(8),
    "contiguous, no copy": lambda v: v.contiguous(),
    "contiguous, a copy": lambda v: v.T.contiguous(),
    "to, no copy": lambda v: v.to(torch.float32),
    "double": lambda v: v.double(),
    "float": lambda v: v.float(),
    "list index": lambda v: v[[0, 1]],
    "mask": lambda v: v[v > 0],
    "chunk": lambda v: v.chunk(2, 1)[0],
    "split": lambda v: torch.split(v, 2, dim=1)[1],
    "unbind": lambda v: v.unbind(0)[0],
    "diagonal": lambda v: v.diagonal(),
    "unsqueeze": lambda v: v.unsqueeze(0),
    "squeeze": lambda v: torch.squeeze(v[None]),
    "detach": lambda v: v.detach(),
    "real": lambda v: v.real,
    "other dtype of the same bits": lambda v: v.view(torch.int32),
    "strided": lambda v: torch.as_strided(v, (2, 2), (1, 1)),
    "narrow": lambda v: v.narrow(0, 0, 1),
    "unfold": lambda v: v.unfold(1, 2, 1),
    "unflatten": lambda v: v.unflatten(1, (2, 2)),
    "flatten": lambda v: torch.flatten(v),
    "broadcast": lambda v: torch.broadcast_tensors(v, torch.ones(2, 4))[0],
    "padding by nothing": lambda v: functional.pad(v, (0, 0)),
    "dropout that is off": lambda v: functional.dropout(v, 0.5, training=False),
    "identity module": lambda v: nn.Identity()(v),
    "flatten module": lambda v: nn.Flatten(0)(v),
    "cat": lambda v: torch.cat([v[:1], v[1:]]),
    "clone": lambda v: v.clone(),
    "abs": abs,
    "plus": lambda v: +v,
    "none at the end": lambda v: v[..., None],
    "true": lambda v: v[True],
    "index by a tensor of no dimension": lambda v: v[torch.tensor(0)],
    "numpy": lambda v: v.numpy(),
    "traced integer": lambda v: v[v.shape[0] - 1],
    "traced tensor": lambda v: v[v.argmax() % 2],
    "traced mask": lambda v: v[(v[0] > 0)[0]],
    "item": lambda v: v[v[0, 1].int().item() - 1],
}


def compare(body):
    """``body`` on the traced output and on a plain copy: the same value, and the same passes on."""
    plain = START.clone()
    expected = body(plain)
    with model.trace(START.clone()) as tracer:
        got = body(model.output).save()
        result = tracer.result.save()
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    torch.testing.assert_close(result.value, plain, rtol=0, atol=0)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_an_edit_through_a_view_reaches_what_a_plain_one_reaches(view):
    def body(value):
        part = view(value)
        part[0] = 9
        return part

    compare(body)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_name_shows_the_edits_below_it_if_it_is_a_view(view):
    def body(value):
        part = view(value)
        value *= 2
        return part

    compare(body)


EDITS = {
    "add_": lambda v: v.add_(1),
    "chain": lambda v: v.clamp_(min=0).add_(1).mul_(2),
    "with itself": lambda v: v.add_(v).mul_(v.T.sum()),
    "copy_": lambda v: v.copy_(v.flip(0)),
    "fill_": lambda v: v.fill_(v.sum()),
    "index_fill_": lambda v: v.index_fill_(1, torch.tensor([0]), 7),
    "masked_fill_": lambda v: v.masked_fill_(v < 0, 0),
    "scatter_": lambda v: v.scatter_(1, torch.zeros(2, 1, dtype=torch.long), 9.0),
    "index_put_": lambda v: v.index_put_((torch.tensor([0]), torch.tensor([1])), torch.tensor(5.0)),
    "out": lambda v: torch.add(v, 1, out=v),
    "relu, inplace=True": lambda v: functional.relu(v, inplace=True),
    "relu_": lambda v: functional.relu_(v),
    "ReLU module": lambda v: nn.ReLU(inplace=True)(v),
    "data": lambda v: v.data.mul_(3),
    "part of a part": lambda v: v[:, 1:][0].mul_(3),
    "setitem by dunder": lambda v: (v.__setitem__(0, 4), v)[1],
    "requires_grad_": lambda v: v.requires_grad_(False),
    "set_": lambda v: v.set_(torch.ones(2, 4)),
    "nan_to_num_": lambda v: v.nan_to_num_(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit(edit):
    compare(edit)


def test_swapping_rows():
    def body(value):
        value[0], value[1] = value[1].clone(), value[0].clone()
        return value

    compare(body)


def test_a_method_taken_above_an_edit_and_called_below_it():
    def body(value):
        total = value.sum
        value[0] = 0
        return total() + total(1)

    compare(body)


def test_reads_above_an_edit_keep_the_old_value():
    def body(value):
        total, row = value.sum(), value[0].clone()
        value.zero_()
        return total + row

    compare(body)


def test_an_attribute_is_edited():
    def body(value):
        value.data += 1
        return value

    compare(body)
