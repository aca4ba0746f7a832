"""The twin of a model: the same structure on fakes, and nothing shared with the model."""

from __future__ import annotations

import functools
import types
import weakref
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from nnsight_graph.run.fakes import Fakes
from nnsight_graph.run.twin import build_twin
from tests.run.untouched import state

TABLE = torch.zeros(3)


class Settings:
    def __init__(self) -> None:
        self.width = 4
        self.nested = {"names": ["a"]}


class Net(torch.nn.Module):
    """Holds tensors in all sorts of ways, and changes itself whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Settings()
        self.embed = torch.nn.Embedding(7, 4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.norm = torch.nn.BatchNorm1d(4)
        self.same = self.norm
        self.register_buffer("steps", torch.zeros((), dtype=torch.long), persistent=False)
        self.table = torch.ones(4)
        self.parts = [torch.ones(4), {"more": torch.ones(4)}]
        self.hidden = [torch.nn.Linear(4, 4)]
        self.log: list[Any] = []
        self.parent = weakref.ref(self.norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(x)
        self.config.nested["names"].append("b")
        self.config.width += 1
        self.steps += 1
        self.table = self.table + 1
        self.parts[0].add_(1)
        TABLE.add_(1)
        self.last = self.hidden[0](self.norm(self.embed(x)) + self.table + self.parts[0] + self.parts[1]["more"])
        self.register_buffer("fresh", self.last, persistent=False)
        return self.head(self.last)


@pytest.fixture
def net() -> Net:
    return Net()


def run(twin: Any, mode: Fakes, *shape: int) -> Any:
    with mode:
        return twin(torch.zeros(shape, dtype=torch.long))


def test_a_twin_computes_on_fakes_alone(net: Net) -> None:
    mode = Fakes()
    result = run(build_twin(net, mode), mode, 5)
    assert isinstance(result, FakeTensor)
    assert (result.shape, result.dtype, result.device, result.requires_grad) == ((5, 7), torch.float32, torch.device("cpu"), True)


def test_a_forward_of_the_twin_changes_nothing_of_the_model(net: Net) -> None:
    before, table = state(net), TABLE.clone()
    mode = Fakes()
    twin = build_twin(net, mode)
    run(twin, mode, 5)
    assert state(net) == before
    assert torch.equal(TABLE, table)
    assert (twin.config.width, twin.config.nested["names"], len(twin.log)) == (5, ["a", "b"], 1)


def test_neither_does_a_forward_that_fails(net: Net) -> None:
    before = state(net)
    mode = Fakes()
    twin = build_twin(net, mode)
    with mode, pytest.raises(RuntimeError):
        twin(torch.zeros(5))
    assert state(net) == before


def test_what_is_tied_stays_tied(net: Net) -> None:
    twin = build_twin(net, Fakes())
    assert twin.head.weight is twin.embed.weight
    assert twin.same is twin.norm
    assert twin.parent() is twin.norm
    assert [path for path, _ in twin.named_modules()] == [path for path, _ in net.named_modules()]
    assert [(name, p.shape, p.requires_grad) for name, p in twin.named_parameters()] == [
        (name, p.shape, p.requires_grad) for name, p in net.named_parameters()
    ]


def test_tensors_are_fakes_wherever_they_are_held(net: Net) -> None:
    twin = build_twin(net, Fakes())
    held = [twin.table, twin.parts[0], twin.parts[1]["more"], twin.hidden[0].weight, twin.steps, *twin.parameters()]
    assert all(isinstance(tensor, FakeTensor) for tensor in held)
    assert isinstance(twin.embed.weight, torch.nn.Parameter)
    assert type(twin.config) is Settings


def test_hooks_are_left_out(net: Net) -> None:
    ran = []
    handles = [net.register_forward_hook(lambda *_: ran.append(1)), net.norm.register_forward_pre_hook(lambda *_: ran.append(2))]
    mode = Fakes()
    run(build_twin(net, mode), mode, 5)
    for handle in handles:
        handle.remove()
    assert ran == []


def bound(module: Any) -> Any:
    original = module.forward
    return types.MethodType(lambda self, x: original(x) * self.weight.sum(), module)


def partial(module: Any) -> Any:
    return functools.update_wrapper(functools.partial(lambda own, x: own.weight.sum() * x, module), module.forward)


def closure(module: Any) -> Any:
    calls = [0]

    def forward(x: torch.Tensor, scale: int = 2) -> torch.Tensor:
        calls[0] += 1
        assert isinstance(module.weight, FakeTensor)
        return type(module).forward(module, x) * scale

    forward.calls = calls  # type: ignore[attr-defined]
    return forward


@pytest.mark.parametrize("replace", [bound, partial, closure])
def test_a_replaced_forward_belongs_to_the_twin(replace: Any) -> None:
    layer = torch.nn.Linear(3, 3)
    layer.forward = replace(layer)
    before = state(layer)
    mode = Fakes()
    twin = build_twin(layer, mode)
    with mode:
        assert twin(torch.ones(2, 3)).shape == (2, 3)
    assert state(layer) == before
    assert getattr(layer.forward, "calls", [0]) == [0]


def test_functions_without_anything_of_the_model_are_shared() -> None:
    factor = 3
    net = torch.nn.Identity()
    net.scale = lambda x: x * factor  # type: ignore[assignment]
    assert build_twin(net, Fakes()).scale is net.scale


def test_a_model_on_the_meta_device_seems_to_lie_where_it_is_said_to() -> None:
    layer = torch.nn.Linear(3, 4, device="meta")
    mode = Fakes()
    twin = build_twin(layer, mode, torch.device("cpu"))
    with mode:
        assert twin(torch.ones(2, 3)).device.type == "cpu"
    assert layer.weight.device.type == "meta"
    assert build_twin(layer, Fakes()).weight.device.type == "meta"


def test_tensors_keep_their_kind() -> None:
    net = torch.nn.Module()
    net.leaf = torch.ones(2, requires_grad=True)
    net.made = net.leaf * 2
    net.turned = torch.ones(2, 3, dtype=torch.bfloat16).T
    net.sparse = torch.eye(3).to_sparse()
    twin = build_twin(net, Fakes())
    assert (twin.leaf.is_leaf, twin.made.is_leaf, twin.made.requires_grad) == (True, False, True)
    twin.made[0] = 1  # which a leaf would not allow
    assert (twin.turned.stride(), twin.turned.dtype) == (net.turned.stride(), torch.bfloat16)
    assert twin.sparse.layout is torch.sparse_coo


def test_what_holds_itself_is_copied_once() -> None:
    net = torch.nn.Identity()
    net.ring = [1]
    net.ring.append(net.ring)
    net.owner = net.__dict__["owners"] = [net]
    twin = build_twin(net, Fakes())
    assert twin.ring[1] is twin.ring is not net.ring
    assert twin.owner[0] is twin


def test_modules_compiled_by_torch_run_as_they_were() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    net[1] = torch.compile(net[1])
    net[0].compile()
    mode = Fakes()
    twin = build_twin(net, mode)
    with mode:
        assert twin(torch.ones(1, 2)).shape == (1, 2)
