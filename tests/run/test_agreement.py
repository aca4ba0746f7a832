"""Scans of forwards whose sizes depend on data: what does not depend on them is known all the same; modules that convert themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Experts(nn.Module):
    """Each row goes through the expert that its largest value names."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({f"expert_{number}": nn.Linear(4, 3) for number in range(4)})
        self.head = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen, mixed = x.argmax(-1), x.new_zeros(len(x), 3)
        for number in nn.functional.one_hot(chosen, 4).sum(0).nonzero():
            (rows,) = torch.where(chosen == number)
            mixed[rows] = self.experts[f"expert_{number[0]}"](x[rows])
        return self.head(mixed)  # type: ignore[no-any-return]


class Positive(nn.Module):
    """As many numbers as are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.mean = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> Any:
        kept = self.kept(x[x > 0])
        return self.mean(kept.mean(0, keepdim=True).expand(2, 1)), kept


class Chosen(nn.Module):
    """A module whose name is made of a number; there is no other data in its way."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({f"expert_{number}": nn.Linear(4, 3) for number in range(4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts[f"expert_{x[0].argmax()}"](x)  # type: ignore[no-any-return]


class Converting(nn.Module):
    """Casts one of its parts in its forward, as routers do."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.router.register_buffer("scale", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.router = self.router.to(torch.float64)
        return self.router(x.double()) * self.router.scale  # type: ignore[no-any-return]


def test_what_comes_after_experts_is_known() -> None:
    module = Experts()
    with torch.no_grad():
        right = module(X)
    model = nnsight.NNsight(module)
    with model.scan(X):
        shape, dtype = model.output.shape, model.head.input.dtype
        width = model.head.output.shape[-1] * 2
    assert (shape, dtype, width) == (right.shape, torch.float32, 10)


def test_what_depends_on_data_stays_unknown_with_its_reason() -> None:
    model = nnsight.NNsight(Positive())
    with model.scan(X):
        kept, mean = model.kept.output.shape, model.mean.output.shape
    assert mean == (2, 1)
    with pytest.raises(nnsight.UnsetValueError, match=r"a scan cannot know it.*Dynamic"):
        kept[0] + 1


def test_agreement_refuses_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check before the run asks for what is certain alone."""
    module = Experts()
    model = nnsight.NNsight(module)
    with torch.no_grad(), model.trace(X, validate=True, scan=True):
        got = model.output[:, 4].save()
    with torch.no_grad():
        assert torch.equal(got, module(X)[:, 4])
    with pytest.raises(IndexError), torch.no_grad(), model.trace(X, validate=True, scan=True):
        model.output[:, 5].save()


def test_a_number_written_into_a_name_is_unknown_not_a_mistake_of_the_model() -> None:
    module = Chosen()
    model = nnsight.NNsight(module)
    with model.scan(X):
        shape = model.output.shape
    assert shape == (2, 3)
    with torch.no_grad(), model.trace(X, validate=True, scan=True):
        got = model.output.save()
    assert torch.equal(got, module.experts["expert_3"](X))


def test_a_forward_that_converts_a_part_of_the_model() -> None:
    module = Converting()
    model = nnsight.NNsight(module)
    with model.scan(X):
        shape, dtype = model.output.shape, model.output.dtype
    assert module.router.weight.dtype == module.router.scale.dtype == torch.float32
    with torch.no_grad():
        right = module(X)
    assert (shape, dtype) == (right.shape, right.dtype) == ((2, 3), torch.float64)
