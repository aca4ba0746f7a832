"""Gradients in loops over steps that are recorded once, against the same by hand; backwards of several losses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import NNsight, RecordError

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Rolling(torch.nn.Module):
    """A module that is called several times by a method of its own, with gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.tanh(self.one(x)))

    def roll(self, x: torch.Tensor, turns: int = 3) -> torch.Tensor:
        for _ in range(turns):
            x = self(x)
        return x


@pytest.fixture
def net() -> Rolling:
    return Rolling()


@pytest.fixture
def model(net: Rolling) -> NNsight:
    return NNsight(net)


def by_hand(net: Rolling, change: Callable[[torch.Tensor], torch.Tensor] = lambda gradient: gradient) -> list[torch.Tensor]:
    """The gradients of ``one`` in each turn, of that turn's loss; ``change`` may replace those of ``two``."""
    found, x = [], X
    for _ in range(3):
        hidden = net.one(x)
        hidden.retain_grad()
        x = net.two(torch.tanh(hidden))
        handle = x.register_hook(change)
        x.pow(2).sum().backward(retain_graph=True)
        handle.remove()
        found.append(hidden.grad)
    return found


def same(values: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(values) == len(expected)
    for value, right in zip(values, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=0, atol=0)


def test_all_forms_of_a_loop(net: Rolling, model: NNsight) -> None:
    expected = by_hand(net)
    with model.trace(X, fn="roll") as tracer:
        unrolled = nnsight.list().save()
        for _ in tracer.iter[0:3]:
            unrolled.append(model.one.output.grad)
            model.output.pow(2).sum().backward(retain_graph=True)
    with model.trace(X, fn="roll") as tracer:
        bounded = nnsight.list().save()
        with tracer.iter[0:3]:
            bounded.append(model.one.output.grad)
            model.output.pow(2).sum().backward(retain_graph=True)
    with model.trace(X, fn="roll") as tracer:
        open_range = nnsight.list().save()
        for _ in tracer.iter[:]:
            open_range.append(model.one.output.grad)
            last = model.one.output.grad.save()
            model.output.pow(2).sum().backward(retain_graph=True)
    for found in (unrolled, bounded, open_range):
        same(found.value, expected)
    same([last.value], expected[-1:])


def test_an_edit_of_a_gradient_in_each_turn(net: Rolling, model: NNsight) -> None:
    expected = by_hand(net, lambda gradient: gradient * 3)
    with model.trace(X, fn="roll") as tracer:
        found = nnsight.list().save()
        for _ in tracer.iter[:]:
            found.append(model.one.output.grad)
            model.output.grad = model.output.grad * 3
            model.output.pow(2).sum().backward(retain_graph=True)
    same(found.value, expected)


def test_a_block_in_each_turn(net: Rolling, model: NNsight) -> None:
    expected = by_hand(net)
    with model.trace(X, fn="roll") as tracer:
        found = nnsight.list().save()
        for _ in tracer.iter[:]:
            with model.output.pow(2).sum().backward(retain_graph=True):
                found.append(model.one.output.grad)
    same(found.value, expected)


def test_a_loss_of_several_turns(net: Rolling, model: NNsight) -> None:
    x, total, hiddens = X, 0.0, []
    for _ in range(3):
        hiddens.append(net.one(x))
        hiddens[-1].retain_grad()
        x = net.two(torch.tanh(hiddens[-1]))
        total = total + x.pow(2).sum()
    total.backward()  # type: ignore[attr-defined]
    with model.trace(X, fn="roll") as tracer:
        found, loss = [], 0.0
        for _ in tracer.iter[0:3]:
            found.append(model.one.output.grad.save())
            loss = loss + model.output.pow(2).sum()
        loss.backward()  # type: ignore[attr-defined]
    same([value.value for value in found], [hidden.grad for hidden in hiddens])


def test_a_backward_outside_a_loop_that_is_recorded_once(model: NNsight) -> None:
    with pytest.raises(RecordError, match="belongs to a backward below it in the same loop"):
        with model.trace(X, fn="roll") as tracer:
            for _ in tracer.iter[:]:
                model.one.output.grad.save()
            model.output.sum().backward()


def test_a_backward_of_several_losses(net: Rolling, model: NNsight) -> None:
    hidden = net.one(X)
    hidden.retain_grad()
    out = net.two(torch.tanh(hidden))
    torch.autograd.backward([out[0].sum(), out[1].pow(2).sum()], [torch.tensor(2.0), None])
    with model.trace(X):
        found = model.one.output.grad.save()
        torch.autograd.backward([model.output[0].sum(), model.output[1].pow(2).sum()], [torch.tensor(2.0), None])
    same([found.value], [hidden.grad])
    with model.trace(X):
        alone = model.one.output.grad.save()
        torch.autograd.backward(model.output.sum())
    hidden = net.one(X)
    hidden.retain_grad()
    net.two(torch.tanh(hidden)).sum().backward()
    same([alone.value], [hidden.grad])
