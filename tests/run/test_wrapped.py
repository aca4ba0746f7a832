"""The function that runs below decorators: what they wrap, or what they choose in its place; its operations are read and edited."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph.run.wrapped import innermost

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Kernels(dict[str, Callable[..., Any]]):
    def get_interface(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        return self.get(name, plain)


def doubled(self: Dispatching, x: torch.Tensor) -> torch.Tensor:
    scaled = x * self.factor
    return torch.relu(scaled) + 1


KERNELS = Kernels(doubled=doubled)


def with_kernels(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Chooses the function by what the module says."""

    @functools.wraps(forward)
    def wrapper(self: Dispatching, *args: Any, **kwargs: Any) -> Any:
        chosen = KERNELS.get_interface(self.kernel, forward)
        return chosen(self, *args, **kwargs)

    return wrapper


def logged(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Looks something up, and calls what it wraps."""

    @functools.wraps(forward)
    def wrapper(self: Dispatching, *args: Any, **kwargs: Any) -> Any:
        self.calls = vars(self).get("calls", 0) + 1
        return forward(self, *args, **kwargs)

    return wrapper


class Dispatching(nn.Module):
    def __init__(self, kernel: str) -> None:
        super().__init__()
        self.kernel, self.factor = kernel, 3.0

    @logged
    @with_kernels
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)


def test_the_function_that_a_decorator_chooses() -> None:
    assert innermost(Dispatching("doubled").forward) is doubled
    assert innermost(Dispatching("none").forward).__name__ == "forward"
    assert nnsight.NNsight(Dispatching("doubled")).source.names == ["op_mul_0", "torch_relu_0", "op_add_0"]
    assert nnsight.NNsight(Dispatching("none")).source.names == ["torch_tanh_0"]


def test_its_operations_are_read_and_edited() -> None:
    module = Dispatching("doubled")
    model = nnsight.NNsight(module)
    with model.trace(X):
        scaled = model.source.op_mul_0.output.save()
        model.source.torch_relu_0.output = model.source.torch_relu_0.output * 2
        out = model.output.save()
    assert torch.equal(scaled, X * 3)
    assert torch.equal(out, torch.relu(X * 3) * 2 + 1)
    assert module.calls == 1
    assert torch.equal(module(X), torch.relu(X * 3) + 1)


def test_what_runs_hangs_on_the_module_at_the_time() -> None:
    module = Dispatching("doubled")
    model = nnsight.NNsight(module)
    module.kernel = "none"
    with model.trace(X):
        out = model.source.torch_tanh_0.output.save()
    assert torch.equal(out, torch.tanh(X))
    with pytest.raises(AttributeError, match=r"no operation 'op_mul_0'.*There is torch_tanh_0"), model.trace(X):
        model.source.op_mul_0.output.save()
