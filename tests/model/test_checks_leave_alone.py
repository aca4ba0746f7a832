"""A check never refuses a run that is right: what is refused with it fails without it, and what runs gives the same with every setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsight_graph import NNsight

pytestmark = pytest.mark.slow


class Memory:
    """What a check knows nothing of: an object with methods that the forward calls."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def update(self, value: torch.Tensor) -> torch.Tensor:
        self.seen.append(value)
        return value + len(self.seen)


class Attends(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(4, 4)

    def forward(self, x, scale, *, mask=None, memory=None, parts=(1.0, 2.0)):
        x = self.proj(x) * scale * parts[0] + parts[1]
        x = x if mask is None else x + mask
        return x if memory is None else memory.update(x)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Attends(), Attends()

    def forward(self, x):
        memory = Memory()
        x = self.first(x, 2.0, mask=x, memory=memory)
        return self.second(x, 0.5, mask=None, memory=memory)


Inputs = tuple[Any, Any]
CHANGES: dict[str, Callable[[Any, Any, Any], Inputs]] = {
    "unpacked": lambda a, k, m: (a, {**k, "mask": m}),
    "called": lambda a, k, m: (a, dict(k, mask=m)),
    "plain copy": lambda a, k, m: (a, dict(k)),
    "copy()": lambda a, k, m: (a, k.copy()),
    "merged": lambda a, k, m: (a, k | {"mask": m}),
    "first": lambda a, k, m: ((a[0] * 2, *a[1:]), k),
    "slice": lambda a, k, m: ((a[0] + 1, *a[1:2]), {**k}),
    "picked": lambda a, k, m: (a, {"memory": k["memory"], "mask": k["mask"]}),
    "without": lambda a, k, m: (a, {"mask": m}),
    "parts": lambda a, k, m: (a, {**k, "parts": (3.0, a[0].mean())}),
    "data": lambda a, k, m: ((a[0][a[0] > 0].sum() + a[0], a[1]), k),
    "number": lambda a, k, m: ((a[0], a[0].sum().item()), k),
    "wrong shape": lambda a, k, m: (a, {**k, "mask": m[:, :3]}),
    "wrong name": lambda a, k, m: (a, {**k, "musk": m}),
    "no such key": lambda a, k, m: (a, {"mask": k["musk"]}),
    "too few": lambda a, k, m: (a[:1], k),
    "text": lambda a, k, m: (("text", a[1]), k),
}


def outcome(net: torch.nn.Module, names: list[tuple[str, str]], options: dict[str, Any]) -> torch.Tensor | None:
    """What the model returns where its inputs are changed so; ``None`` where that is an error."""
    model, x, mask = NNsight(net), torch.linspace(-1, 1, 8).view(2, 4), torch.arange(8.0).view(2, 4)
    try:
        with torch.no_grad(), model.trace(x, **options):
            for where, name in names:
                envoy = getattr(model, where)
                envoy.inputs = CHANGES[name](*envoy.inputs, mask)
            out = model.output.save()
        return out.value
    except Exception:
        return None


def check(names: list[tuple[str, str]]) -> None:
    torch.manual_seed(0)
    net = Net()
    right = outcome(net, names, {"validate": False})
    for options in ({}, {"validate": True}, {"scan": True}, {"scan": True, "validate": True}):
        found = outcome(net, names, options)
        assert (found is None) == (right is None), options
        assert right is None or torch.equal(found, right), options


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("where", ["first", "second"])
def test_one_change(where: str, name: str) -> None:
    check([(where, name)])


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["first", "second"]), st.sampled_from(sorted(CHANGES))), min_size=2, max_size=3))
def test_changes_together(names: list[tuple[str, str]]) -> None:
    check(names)


def test_the_changes_mean_what_they_say() -> None:
    torch.manual_seed(0)
    net, x, mask = Net(), torch.linspace(-1, 1, 8).view(2, 4), torch.arange(8.0).view(2, 4)
    hook = net.second.register_forward_pre_hook(lambda _m, args, kwargs: (args, {**kwargs, "mask": mask}), with_kwargs=True)
    with torch.no_grad():
        right = net(x)
    hook.remove()
    for name in ("unpacked", "called", "merged"):
        assert torch.equal(outcome(net, [("second", name)], {"validate": True}), right)
