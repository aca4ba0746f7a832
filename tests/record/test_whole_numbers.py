"""Whole numbers of traced values are sizes for torch, wherever it takes them: the same values as with plain tensors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import nnsight_graph as nnsight

net = torch.nn.Linear(4, 4)
model = nnsight.NNsight(net)
x = torch.linspace(-1, 1, 24).view(2, 3, 4)

NUMBERS = {
    "size": lambda h: h.size(1),
    "size of a keyword": lambda h: h.size(dim=-1),
    "item of size": lambda h: h.size()[1],
    "item of shape": lambda h: h.shape[1],
    "item of a part": lambda h: h.shape[1:][0],
    "numel": lambda h: h[0].numel(),
    "numel of torch": lambda h: torch.numel(h[0]),
    "ndim": lambda h: h.ndim,
    "stride": lambda h: h.stride(1),
    "product": lambda h: math.prod(h.shape),
    "least": lambda h: min(h.size(1), h.size(2)),
    "arithmetic": lambda h: h.size(2) // 2 + h.size(1) ** 2,
    "item": lambda h: (h > -1e9).sum().item(),
    "item of an index": lambda h: h[0, 0].argmax().item() + 1,
    "item of a truth": lambda h: (h[0, 0] > -1e9)[0].item() + 2,
}
USES = {
    "zeros": lambda n, t: torch.zeros(n, 2),
    "zeros of a tuple": lambda n, t: torch.zeros((n, 2)),
    "ones": lambda n, t: torch.ones(n, 1, n, dtype=torch.int64),
    "full": lambda n, t: torch.full((n,), 2.5),
    "arange": lambda n, t: torch.arange(n),
    "arange from": lambda n, t: torch.arange(1, n + 1, 2),
    "eye": lambda n, t: torch.eye(n, 2),
    "new_zeros": lambda n, t: t.new_zeros(n, 2),
    "expand": lambda n, t: t[:1].expand(n, -1),
    "view": lambda n, t: torch.arange(200)[: 2 * n].view(n, -1),
    "repeat": lambda n, t: t.repeat(n, 1),
    "pad": lambda n, t: F.pad(t, (0, n)),
    "one_hot": lambda n, t: F.one_hot(torch.tensor([0]), n),
    "tensor": lambda n, t: torch.tensor([n, 1]),
    "randint": lambda n, t: torch.randint(0, n, (n,)),
    "randn": lambda n, t: torch.randn(n, 2),
    "number": lambda n, t: t * n + n / 2,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_whole_number(number, use) -> None:
    t = torch.arange(6.0).view(2, 3)
    torch.manual_seed(3)
    right = use(number(net(x)), t)
    torch.manual_seed(3)
    with model.trace(x):
        found = nnsight.save(use(number(model.output), t))
    assert found.dtype == right.dtype
    assert torch.equal(found, right)


def test_sizes_of_sizes_given_by_name_and_by_star() -> None:
    with model.trace(x):
        n = model.output.size(1)
        named = torch.zeros(n, 2, dtype=torch.int32).save()
        spread = torch.ones(*[n, n]).save()
    assert torch.equal(named, torch.zeros(3, 2, dtype=torch.int32))
    assert torch.equal(spread, torch.ones(3, 3))


def test_a_float_is_no_size() -> None:
    with pytest.raises(TypeError, match="zeros") as caught, model.trace(x):
        torch.zeros(model.output.sum().item(), 2).save()
    assert isinstance(caught.value, nnsight.NNsightError)
    with pytest.raises(TypeError), model.trace(x):
        torch.ones(model.output.size(1) / 2, 2).save()


def test_a_float_stays_a_float() -> None:
    with model.trace(x):
        item = model.output.sum().item()
        full, moved = torch.full((2,), item).save(), (torch.zeros(2) + item).save()
    assert torch.equal(full, torch.full((2,), net(x).sum().item()))
    assert torch.equal(moved, torch.zeros(2) + net(x).sum().item())
