"""Torch functions, methods, attributes, factories and plain modules on traced values, against the same on plain tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
LINEAR, NORM = nn.Linear(4, 3), nn.LayerNorm(4)
model = nnsight.NNsight(nn.Identity())
FUNCTIONS = {
    "where": lambda v: torch.where(v > 0, v, 0.0),
    "where, one argument": lambda v: torch.where(v > 0)[0],
    "topk": lambda v: torch.topk(v, 2)[1],
    "topk, named": lambda v: v.topk(2).values,
    "max": lambda v: v.max(-1).indices + v.max(-1)[0],
    "einsum": lambda v: torch.einsum("ij,kj->ik", v, v),
    "softmax": lambda v: torch.softmax(v, dim=-1),
    "layer_norm": lambda v: functional.layer_norm(v, (4,)),
    "cross_entropy": lambda v: functional.cross_entropy(v, torch.tensor([0, 1])),
    "norm": lambda v: v.norm(dim=-1, keepdim=True),
    "svd": lambda v: torch.linalg.svd(v)[1],
    "attention": lambda v: functional.scaled_dot_product_attention(v[None, None], v[None, None], v[None, None]),
    "cat": lambda v: torch.cat([v, v], dim=v.shape[0] - 1),
    "stack": lambda v: torch.stack((v[0], v[1], v.sum(0)), -1),
    "sum of a list": lambda v: sum([v[0], v[1]]),
    "gather": lambda v: v.gather(1, v.argmax(-1)[:, None]),
    "to": lambda v: v.to(torch.float64),
    "to another": lambda v: torch.ones(2, dtype=torch.int).to(v),
    "to its device": lambda v: v.to(v.device),
    "dtype of another": lambda v: torch.ones(2, dtype=v.dtype, device=v.device),
    "embedding": lambda v: functional.embedding(v.argmax(-1), torch.eye(4)),
    "out": lambda v: torch.add(v, 1, out=torch.zeros_like(v)),
    "meshgrid": lambda v: torch.meshgrid(v[0], v[1], indexing="ij")[0],
    "unique": lambda v: torch.unique(v),
    "pad": lambda v: functional.pad(v, (1, v.shape[0])),
    "one_hot": lambda v: functional.one_hot(torch.tensor([0, 1]), v.shape[0]),
    "tensor of a size": lambda v: torch.tensor([v.shape[0], 3]),
    "relu module": lambda v: nn.ReLU()(v),
    "plain modules": lambda v: nn.Sequential(NORM, LINEAR, nn.Flatten(0))(v),
    "dropout module": lambda v: nn.Dropout(0.5).eval()(v),
    "arange": lambda v: torch.arange(v.shape[0]),
    "arange, end by name": lambda v: torch.arange(end=v.shape[0]),
    "zeros, one size": lambda v: torch.zeros(v.shape[0]),
    "zeros, tuple": lambda v: torch.zeros((v.shape[0], 3)),
    "zeros, shape": lambda v: torch.zeros(v.shape),
    "zeros, size by name": lambda v: torch.zeros(size=(v.shape[0], 3)),
    "zeros, traced size last": lambda v: torch.zeros(3, v.shape[0], dtype=torch.float64),
    "zeros, traced size first": lambda v: torch.zeros(v.shape[0], 3),
    "ones, traced sizes": lambda v: torch.ones(v.shape[0], v.shape[1]),
    "full": lambda v: torch.full((v.shape[0], 2), v.shape[0]),
    "eye": lambda v: torch.eye(v.shape[0]),
    "linspace": lambda v: torch.linspace(0, 1, v.shape[0]),
    "tril": lambda v: torch.tril(torch.ones((v.shape[1], v.shape[1]))),
    "new_zeros": lambda v: v.new_zeros(v.shape[0], 2),
    "view": lambda v: v.view(v.shape[1], v.shape[0]),
    "reshape": lambda v: v.reshape(v.size(0) * 2, -1),
    "expand": lambda v: v[0].expand(v.shape[0], -1),
    "half": lambda v: v[:, : v.shape[-1] // 2],
    "filled": lambda v: torch.empty_like(v).fill_(v.shape[0]),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_tensor(function):
    with model.trace(X):
        got = function(model.output).save()
    torch.testing.assert_close(nnsight.value(got), function(X), rtol=0, atol=0)


PLAIN = {
    "shape": lambda v: v.shape,
    "one size": lambda v: v.shape[-1] // 2,
    "size": lambda v: v.size(),
    "dtype": lambda v: v.dtype,
    "device": lambda v: v.device,
    "ndim": lambda v: v.ndim,
    "numel": lambda v: v.numel() + 1,
    "item": lambda v: v[0, 0].item() + 1,
    "tolist": lambda v: v.tolist(),
    "allclose": lambda v: torch.allclose(v, v),
    "floating point": lambda v: torch.is_floating_point(v),
    "contiguous": lambda v: v.is_contiguous(),
}


@pytest.mark.parametrize("function", PLAIN.values(), ids=PLAIN)
def test_plain_value(function):
    with model.trace(X):
        got = function(model.output).save()
    assert nnsight.value(got) == function(X)


@pytest.mark.parametrize("number", range(3))
def test_a_shape_is_unpacked(number):
    with model.trace(X):
        rows, columns = model.output.size()
        got = [rows, columns, torch.zeros((columns, rows))][number].save()
    assert torch.as_tensor(got.value).tolist() == [2, 4, torch.zeros(4, 2).tolist()][number]


def test_the_attribute_shape_is_unpacked():
    with model.trace(X):
        rows, columns = model.output.shape
        got = torch.zeros((columns, rows)).save()
    assert got.shape == (4, 2)


def test_modes_of_gradients_around_native_lines_are_plain():
    with nnsight.NNsight(LINEAR).trace(X) as tracer:
        with torch.no_grad():
            native = LINEAR.weight * 2
        got = (tracer.result * native.sum()).save()
    assert not native.requires_grad
    assert got.requires_grad


DRAWS = {
    "randn": lambda v: torch.randn(2, 4) + v,
    "randn_like": lambda v: torch.randn_like(v),
    "dropout": lambda v: functional.dropout(v, 0.5),
    "randint": lambda v: torch.randint(0, 9, (3,)) + v[0, :3],
    "normal_": lambda v: v.clone().normal_(),
    "bernoulli": lambda v: torch.bernoulli(torch.full((3,), 0.5)),
    "randperm": lambda v: torch.randperm(5),
    "sizes": lambda v: torch.rand((v.shape[0], 3)),
    "generator": lambda v: torch.randn(4, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_seed_draws_the_same_as_plain(draw):
    torch.manual_seed(5)
    expected = draw(X)
    torch.manual_seed(5)
    with model.trace(X):
        got = draw(model.output).save()
    torch.testing.assert_close(got.value, expected, rtol=0, atol=0)


def test_numbers_are_drawn_while_the_model_runs():
    state = torch.get_rng_state()
    with model.trace(X):
        torch.randn(2).save()
        assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(torch.get_rng_state(), state)


def test_draws_come_when_what_they_need_is_there():
    torch.manual_seed(5)
    early, late = torch.rand(3), torch.randn_like(X)
    torch.manual_seed(5)
    with model.trace(X):
        got = torch.randn_like(model.output).save(), torch.rand(3).save()
    assert torch.equal(got[0].value, late)
    assert torch.equal(got[1].value, early)


def test_draws_of_libraries_stay_native():
    with model.trace(X):
        layer, loader = nn.Linear(4, 2), torch.utils.data.DataLoader([1, 2, 3], shuffle=True)
        order = sorted(int(item) for item in loader)
        got = layer(model.output).save()
    assert order == [1, 2, 3]
    assert torch.equal(got.value, layer(X))
