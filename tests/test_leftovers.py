"""The fixture that looks for what tests leave behind does find it."""

from __future__ import annotations

import contextvars
import functools
import sys
import threading
from collections.abc import Callable
from types import MethodType

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tests.leftovers.namespaces import Namespace
from tests.leftovers.process import changed_process_state, new_threads, process_state, threads
from tests.leftovers.torch_state import TorchState, switches


def ours() -> Callable[..., None]:
    """A function as the package would have made it."""
    scope: dict[str, object] = {"__name__": "nnsight_graph.run.hooks"}
    exec("def hook(*args): return None", scope)
    return scope["hook"]  # type: ignore[return-value]


def users(*args: object) -> None: ...


PLANTS: dict[str, Callable[[nn.Module, Callable[..., None]], Callable[[], None]]] = {
    "forward hook": lambda m, f: m[0].register_forward_hook(f).remove,
    "pre-hook": lambda m, f: m.register_forward_pre_hook(functools.partial(f)).remove,
    "backward hook": lambda m, f: m.register_full_backward_hook(MethodType(f, m)).remove,
    "gradient hook": lambda m, f: m[0].weight.register_hook(f).remove,
    "accumulation hook": lambda m, f: m[0].bias.register_post_accumulate_grad_hook(f).remove,
    "global hook": lambda m, f: nn.modules.module.register_module_forward_hook(f).remove,
    "forward": lambda m, f: (setattr(m[1], "forward", f), functools.partial(delattr, m[1], "forward"))[1],
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_what_hangs_on_a_module_is_found(plant: Callable[..., Callable[[], None]], torch_state: TorchState) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    remove = plant(model, ours())
    found = torch_state.modules.leftovers()
    remove()
    assert len(found) == 1
    assert torch_state.modules.leftovers() == []


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_what_the_user_hangs_on_a_module_is_the_users_own(plant: Callable[..., Callable[[], None]], torch_state: TorchState) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    remove = plant(model, users)
    found = torch_state.modules.leftovers()
    remove()
    assert found == []


def test_a_lone_module_is_found_in_memory(torch_state: TorchState) -> None:
    lone = nn.Identity()
    handle = lone.register_forward_hook(ours())
    assert torch_state.modules.leftovers() == []
    found = torch_state.end_of_file()
    handle.remove()
    assert found == ["Identity._forward_hooks holds a hook of the package"]


def test_a_replaced_function_is_found_also_under_wraps() -> None:
    real, torch_names = torch.relu, {"relu": torch.relu, "exp": torch.exp}
    space = Namespace("torch", torch_names)
    torch_names["relu"] = functools.wraps(real)(ours())
    assert space.replaced() == ["torch.relu was replaced"]
    assert space.replaced() == []


def test_modes_and_switches_are_found() -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return func(*args, **(kwargs or {}))

    before = switches()
    with Mode(), torch.no_grad():
        assert [name for name, value in switches().items() if value != before[name]] == [
            "the stack of torch function modes",
            "torch.is_grad_enabled()",
        ]
    assert switches() == before


def test_handlers_and_context_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_state()
    monkeypatch.setattr(sys, "excepthook", users)
    assert [line.split()[0] for line in changed_process_state(before)] == ["sys.excepthook"]
    monkeypatch.undo()
    current = contextvars.ContextVar[object]("current run", default=None)
    token = current.set(type("Run", (), {"__module__": "nnsight_graph.run.local"})())
    found = changed_process_state(before)
    current.reset(token)
    assert [line[:11] for line in found] == ["current run"]
    assert changed_process_state(before) == []


def test_a_thread_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.leftovers.process.PATIENCE", 0.01)
    before, end = threads(), threading.Event()
    thread = threading.Thread(target=end.wait, name="left over")
    thread.start()
    found = new_threads(before)
    end.set()
    thread.join()
    assert found == ["thread still alive: left over"]
    assert new_threads(before) == []
