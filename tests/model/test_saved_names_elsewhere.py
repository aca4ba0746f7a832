"""Saved names are values under a trace function and coverage, in async functions, in threads, and in a real notebook."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import FrameType
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.kernel import Kernel

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).requires_grad_(False)
MODEL = nnsight.NNsight(NET)
X = torch.ones(1, 4)
HIDDEN = NET[0](X)


def plain_function() -> tuple[Any, ...]:
    hidden, number = None, 0.0
    with MODEL.trace(X):
        hidden = MODEL[0].output.save()
        number = MODEL[0].output.sum().item().save()
    again = hidden
    return hidden, number, again


def with_cells() -> tuple[Any, ...]:
    hidden: Any = None

    def asked() -> Any:
        return hidden

    with MODEL.trace(X):
        hidden = MODEL[0].output.save()
        number = MODEL[0].output.sum().item().save()
    return hidden, number, asked()


def are_values(hidden: Any, number: Any, again: Any) -> None:
    assert isinstance(hidden, torch.Tensor) and type(hidden) is not nnsight.Proxy  # noqa: PT018  (pytest takes it apart)
    assert torch.equal(hidden, HIDDEN)
    assert torch.Tensor in type(hidden).__mro__
    assert type(number).__mro__[-2] is float
    assert number == HIDDEN.sum().item()
    assert again is hidden


@pytest.mark.parametrize("function", [plain_function, with_cells])
def test_under_a_trace_function_that_reads_all_names(function):
    seen: list[Any] = []

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        if frame.f_code is function.__code__:
            seen.append(dict(frame.f_locals).get("hidden"))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        kept = function()
    finally:
        sys.settrace(before)
    are_values(*kept)
    assert seen[-1] is kept[0]


def test_under_coverage():
    coverage = pytest.importorskip("coverage")
    if sys.gettrace() is not None:
        pytest.skip("this run is measured itself")
    measured = coverage.Coverage(data_file=None, include=[__file__])
    measured.start()
    try:
        kept = plain_function(), with_cells()
    finally:
        measured.stop()
    for one in kept:
        are_values(*one)


def test_in_async_functions_that_take_turns():
    async def work(scale: float) -> tuple[Any, Any]:
        with MODEL.trace(X * scale):
            first = MODEL[0].output.save()
        await asyncio.sleep(0)
        with MODEL.trace(X * scale):
            second = MODEL[0].output.save()
        return first, second

    async def all_of_it() -> list[tuple[Any, Any]]:
        return await asyncio.gather(*[work(float(scale)) for scale in range(4)])

    for scale, (first, second) in enumerate(asyncio.run(all_of_it())):
        assert torch.equal(first.value, NET[0](X * scale))
        assert torch.equal(second, first)


def test_in_threads():
    found: dict[int, Any] = {}

    def work(scale: int) -> None:
        for _ in range(20):
            with MODEL.trace(X * scale):
                hidden = MODEL[0].output.save()
            found.setdefault(scale, []).append(hidden)

    threads = [threading.Thread(target=work, args=(scale,)) for scale in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scale in range(4):
        assert all(torch.equal(hidden.value, NET[0](X * scale)) for hidden in found[scale])


def test_strict_encoders_take_plain_values():
    number = plain_function()[1]
    assert msgspec.json.decode(msgspec.json.encode({"n": nnsight.value(number), "m": number.value})) == {"n": number, "m": number}


SETUP = """
import torch, json
import nnsight_graph as nnsight
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).requires_grad_(False)
model, x = nnsight.NNsight(net), torch.ones(1, 4)
is_value = lambda h: torch.Tensor in type(h).__mro__ and torch.equal(h.value, net[0](x))
"""
CELL = """with model.trace(x):
    h = model[0].output.save()
    table = {"n": [model[0].output.sum().item().save()]}"""
FUNCTION = """def ask():
    with model.trace(x):
        h = model[0].output.save()
    return h
h = ask()"""
LOOP = """rows = []
for _ in range(3):
    with model.trace(x):
        h = model[0].output.save()
        rows.append(h)
table = {"n": [h.sum().item() for h in rows]}"""


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "%%time\n", "%%capture\n"], ids=["plain", "time", "capture"])
@pytest.mark.parametrize("cell", [CELL, FUNCTION, LOOP], ids=["cell", "function", "loop"])
def test_in_a_notebook(kernel: Kernel, before: str, cell: str):
    kernel.run(SETUP)
    kernel.run("%load_ext autoreload\n%autoreload 2")
    for _ in range(2):  # cells are run again
        reply = kernel.run(before + cell, "is_value(h)")
        assert (reply.error, reply.values["is_value(h)"]) == (None, True)
    if cell is not FUNCTION:
        assert kernel.value("json.loads(json.dumps(table['n']))[0] == net[0](x).sum().item()") is True
