"""Batches in which one input assigns rows and another edits them in place, of a tensor that the model uses twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nnsight_graph as nnsight

A, B, C = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).unbind()


class Twice(nn.Module):
    """A residual stream beside two modules that get the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        return x + self.second(self.first(x))


@pytest.fixture
def module() -> Twice:
    torch.manual_seed(0)
    return Twice()


@pytest.mark.parametrize("where", ["first", "second"])
@pytest.mark.parametrize("grad", [True, False])
def test_an_edit_beside_an_assignment_reaches_the_residual_stream(module: Twice, where: str, grad: bool) -> None:
    model = nnsight.NNsight(module)
    with torch.set_grad_enabled(grad), model.trace() as tracer:
        with tracer.invoke(A):
            model.first.input = C
            one = model.output.save()
        with tracer.invoke(B):
            getattr(model, where).input[:, 0] = 5
            two = model.output.save()
    edited = B.clone()
    edited[:, 0] = 5
    torch.testing.assert_close(one.value, A + module.second(C))
    torch.testing.assert_close(two.value, edited + module.second(edited))


def test_an_edit_of_the_residual_stream_reaches_what_stands_for_it(module: Twice) -> None:
    model = nnsight.NNsight(module)
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(A):
            model.first.input = C
        with tracer.invoke(B):
            model.first.output.mul_(2)
            held = model.first.input.save()
            two = model.output.save()
    torch.testing.assert_close(held.value, B)
    torch.testing.assert_close(two.value, B * 2 + module.second(B * 2))


def test_gradients_of_inputs_beside_an_edit(module: Twice) -> None:
    model = nnsight.NNsight(module)
    with model.trace() as tracer:
        with tracer.invoke(A):
            one = model.second.input.pow(2).sum() + model.output.sum()
            one = one.save()
        with tracer.invoke(B):
            model.second.input.mul_(3)
            two = model.output.pow(2).sum().save()
    found = torch.autograd.grad(one.value + two.value, list(module.parameters()))
    right = (A.pow(2).sum() + (A + module.second(A)).sum()) + (B * 3 + module.second(B * 3)).pow(2).sum()
    torch.testing.assert_close(found, torch.autograd.grad(right, list(module.parameters())))
