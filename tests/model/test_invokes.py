"""Several inputs in one trace: rows in containers and folded batches, what has no rows, what is refused; against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

import nnsight_graph as nnsight

A = torch.tensor([[1.0, 2, -3, 4]])
B = torch.tensor([[-2.0, 0, 5, 1], [3, -1, 0.5, 2]])
C = torch.tensor([[0.25, -4, 1, -1]])


@dataclass
class Output(ModelOutput):
    hidden: torch.Tensor | None = None
    states: Any = None


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Chain(nn.Module):
    """``second(first(x))``."""

    def __init__(self, first: Callable[..., Any], second: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.second = Call(first), Call(second)

    def forward(self, x: torch.Tensor) -> Any:
        return self.second(self.first(x))


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def linears() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()


def close(one: Any, other: torch.Tensor) -> None:
    torch.testing.assert_close(one.value, other)


# ---------------------------------------------------------------------- whose rows


def test_each_invoke_has_its_rows_and_an_empty_one_all_before_it() -> None:
    module = linears()
    model = nnsight.NNsight(module)
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(A):
            one, into, result = model[0].output.save(), model[1].input.save(), tracer.result.save()
        with tracer.invoke(B):
            two, arguments = model.output.save(), model[0].inputs.save()
        with tracer.invoke():
            both = model.output.save()
        with tracer.invoke(C):
            three = model[0].output.save()
        with tracer.invoke():
            whole = model[0].output.save()
    with torch.no_grad():
        close(one, module[0](A))
        close(into, module[0](A))
        close(result, module(A))
        close(two, module(B))
        close(both, module(torch.cat([A, B])))
        close(three, module[0](C))
        close(whole, module[0](torch.cat([A, B, C])))
    assert torch.equal(arguments.value[0][0], B)


def test_edits_and_writes_of_one_input_leave_the_others_alone() -> None:
    module = linears()
    model = nnsight.NNsight(module)
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(A):
            model[0].output[:, 0] = 7
            one = model.output.save()
        with tracer.invoke(B):
            model[0].output = model[0].output * 2
            two = model.output.save()
        with tracer.invoke(C):
            three = model.output.save()
    with torch.no_grad():
        edited = module[0](A)
        edited[:, 0] = 7
        close(one, module[1](edited))
        close(two, module[1](2 * module[0](B)))
        close(three, module(C))


def test_inputs_are_edited_and_replaced_by_rows() -> None:
    module = linears()
    model = nnsight.NNsight(module)
    given = B.clone()
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(A):
            model[0].input = model[0].input + 1
            one = model.output.save()
        with tracer.invoke(given):
            model[0].input.mul_(3)
            model[1].inputs = ((model[1].input * 2,), {})
            two = model.output.save()
    with torch.no_grad():
        close(one, module(A + 1))
        close(two, module[1](2 * module[0](3 * B)))
    assert torch.equal(given, B)


@pytest.mark.parametrize("earlier", [True, False])
def test_values_cross_from_one_input_to_another(earlier: bool) -> None:
    module = linears()
    model = nnsight.NNsight(module)
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(A):
            source = model[0].output
        with tracer.invoke(C):
            if earlier:
                model[0].output = source
            else:
                model[1].output = source[:, :3]
            patched = model.output.save()
    with torch.no_grad():
        close(patched, module(A) if earlier else module[0](A)[:, :3])


def test_sixteen_inputs_that_patch_one_position_each_are_sixteen_single_runs() -> None:
    module = linears()
    model = nnsight.NNsight(module)
    clean = torch.tensor([1.0, -2, 3, -4])
    saved = []
    with torch.no_grad(), model.trace() as tracer:
        for number in range(16):
            with tracer.invoke(B[:1] * number):
                model[0].output[:, number % 4] = clean[number % 4]
                saved.append(model.output.save())
    for number, got in enumerate(saved):
        with torch.no_grad():
            hidden = module[0](B[:1] * number)
            hidden[:, number % 4] = clean[number % 4]
            close(got, module[1](hidden))


# ---------------------------------------------------------------------- what passes


FORMS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "tuple": (lambda x: (x * 2, None, 3), lambda v: v[0]),
    "dict": (lambda x: {"n": 1, "h": x * 2}, lambda v: v["h"]),
    "nested": (lambda x: [(x * 2, {"k": x + 1})], lambda v: v[0][1]["k"]),
    "output": (lambda x: Output(x * 2, (x, x + 1)), lambda v: v.states[1]),
}


@pytest.mark.parametrize("name", FORMS)
def test_rows_in_containers(name: str) -> None:
    make, take = FORMS[name]
    model = nnsight.NNsight(Chain(make, lambda out: take(out) - 1))
    with model.trace() as tracer:
        with tracer.invoke(A):
            one = take(model.first.output).save()
            take(model.first.output)[:] = 5
            after = model.output.save()
        with tracer.invoke(B):
            whole = model.first.output.save()
            two = model.output.save()
    assert torch.equal(one, torch.full_like(A, 5))
    assert torch.equal(after, torch.full_like(A, 4))
    assert torch.equal(two, take(make(B)) - 1)
    assert type(nnsight.value(whole)) is type(make(B))
    assert torch.equal(take(whole), take(make(B)))


def test_heads_folded_into_the_batch() -> None:
    def fold(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x) * 2, 1, 2)

    model = nnsight.NNsight(Chain(fold, lambda y: y.reshape(-1, 4) * 1))
    model.first.rows = (0, "tokens")
    with model.trace() as tracer:
        with tracer.invoke(A):
            one = model.first.output.clone().save()
            model.first.output = model.first.output * 10
            first = model.output.save()
        with tracer.invoke(B):
            two, second = model.first.output.save(), model.output.save()
    assert torch.equal(one, fold(A))
    assert torch.equal(two, fold(B))
    assert torch.equal(first, A * 10)
    assert torch.equal(second, B)


@pytest.mark.parametrize("table", [torch.eye(4), torch.arange(5.0), torch.tensor(2.0), torch.ones(1, 4)])
def test_tensors_without_rows_are_left_alone(table: torch.Tensor) -> None:
    model = nnsight.NNsight(Chain(lambda x: (x, table), lambda pair: pair[0] * 1))
    with model.trace() as tracer:
        with tracer.invoke(A):
            seen = model.first.output[1].save()
        with tracer.invoke(B):
            model.first.output = (model.first.output[0] * 2, model.first.output[1])
            again, result = model.first.output[1].save(), model.output.save()
    assert torch.equal(seen, table)
    assert torch.equal(again, table)
    assert torch.equal(result, B * 2)


def test_keywords_and_a_barrier() -> None:
    model = nnsight.NNsight(Call(lambda x, scale=1, mask=None: x * scale + mask))
    with model.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(x=A, scale=3, mask=A):
            barrier()
            one = model.output.save()
        with tracer.invoke(x=B, scale=3, mask=-B):
            barrier()
            two, named = model.output.save(), model.inputs[1]["mask"].save()
    assert torch.equal(one, 4 * A)
    assert torch.equal(two, 2 * B)
    assert torch.equal(named, -B)


def test_the_graph_shows_the_invokes() -> None:
    model = nnsight.NNsight(linears())
    with model.trace() as tracer:
        with tracer.invoke(A):
            model[0].output.save()
        with tracer.invoke():
            model[1].output.save()
    text = str(tracer.graph)
    assert "invoke rows:0:" in text
    assert "invoke before:1:" in text
