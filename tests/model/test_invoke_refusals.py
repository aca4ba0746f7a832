"""Invokes that are refused, errors inside them at their lines, and gradients of rows."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import NNsightError, RecordError
from tests.model.test_invokes import A, B, C, Call, Chain, Residual, close, linears


@pytest.fixture
def model() -> Any:
    return nnsight.NNsight(linears())


def batch(model: Any, *inputs: torch.Tensor, body: Callable[[int], Any] = lambda number: None) -> None:
    with model.trace() as tracer:
        for number, x in enumerate(inputs):
            with tracer.invoke(x):
                body(number)


def test_an_invoke_belongs_to_a_trace_without_input(model: Any) -> None:
    with pytest.raises(RecordError, match="has an input"), model.trace(A) as tracer, tracer.invoke(B):
        pass
    with pytest.raises(RecordError, match="none yet"), model.trace() as tracer, tracer.invoke():
        pass
    with pytest.raises(RecordError), model.trace():
        model.output.save()


def test_invokes_are_neither_nested_nor_used_again_nor_outside(model: Any) -> None:
    with pytest.raises(RecordError, match="nested"), model.trace() as tracer, tracer.invoke(A), tracer.invoke(B):
        pass
    with model.trace() as tracer:
        block = tracer.invoke(A)
        with block:
            saved = model.output.save()
        with pytest.raises(RecordError, match="once"):
            block.__enter__()
    assert saved.value.shape == (1, 3)
    with pytest.raises(RecordError), tracer.invoke(B):
        pass


@pytest.mark.parametrize(
    "other", [torch.ones(1, 5), torch.ones(1, 4, 1), torch.ones(1, 4, dtype=torch.float64), torch.ones(0, 4), torch.tensor(1.0)]
)
def test_inputs_that_do_not_fit(model: Any, other: torch.Tensor) -> None:
    with pytest.raises(RecordError, match=r"fit|no rows|with rows"):
        batch(model, A, other)


def test_arguments_that_differ(model: Any) -> None:
    with pytest.raises(RecordError, match="same arguments"), model.trace() as tracer:
        with tracer.invoke(A):
            pass
        with tracer.invoke(input=B):
            pass
    mixed = nnsight.NNsight(Call(lambda x, scale: x * scale))
    with pytest.raises(RecordError, match="agree on argument 1"), mixed.trace() as tracer:
        with tracer.invoke(A, 2):
            pass
        with tracer.invoke(B, 3):
            pass


@pytest.mark.parametrize("value", [torch.ones(2, 4), torch.ones(1, 3), torch.ones(4), torch.ones(1, 4, dtype=torch.float64), 3])
def test_what_cannot_stand_in_the_rows(model: Any, value: Any) -> None:
    def body(number: int) -> None:
        if number == 0:
            model[0].output = value

    with pytest.raises(NNsightError) as caught:
        batch(model, A, B, body=body)
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert any("model[0].output = value" in str(line) for line in lines)


def test_one_invoke_cannot_replace_what_has_no_rows() -> None:
    model = nnsight.NNsight(Chain(lambda x: (x, torch.eye(5)), lambda pair: pair[0]))
    with pytest.raises(NNsightError, match="no row per input"), model.trace() as tracer:
        with tracer.invoke(A):
            model.first.output = (model.first.output[0], torch.zeros(5, 5))
        with tracer.invoke(B):
            pass


def test_an_error_stands_on_its_line_and_leaves_nothing(model: Any) -> None:
    with pytest.raises(Exception) as caught, model.trace() as tracer:
        with tracer.invoke(A):
            model[0].output.save()
        with tracer.invoke(B):
            model[0].output @ torch.ones(7, 7)  # the line
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert any("# the line" in str(line) for line in lines)
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in model._module.modules())


def test_an_exception_in_an_invoke_runs_nothing(model: Any) -> None:
    calls = []
    handle = model._module.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(KeyError), model.trace() as tracer, tracer.invoke(A):
        raise KeyError("mine")
    handle.remove()
    assert not calls
    batch(model, A, B)


def test_saved_rows_are_all_that_stays_in_memory(model: Any) -> None:
    given = A.clone()
    with model.trace() as tracer:
        with tracer.invoke(given):
            saved = model.output.save()
        with tracer.invoke(B):
            pass
    gone = weakref.ref(saved.value)
    del saved, tracer
    gc.collect()
    assert gone() is None


# ---------------------------------------------------------------------- gradients


def test_gradients_of_rows_add_up(model: Any) -> None:
    module = model._module
    with model.trace() as tracer:
        with tracer.invoke(A):
            model[0].output = model[0].output * 2
            one = model.output.pow(2).sum().save()
        with tracer.invoke(B):
            two = model.output.pow(2).sum().save()
    found = torch.autograd.grad(one.value + two.value, list(module.parameters()))
    right = torch.autograd.grad(module[1](2 * module[0](A)).pow(2).sum() + module(B).pow(2).sum(), list(module.parameters()))
    torch.testing.assert_close(found, right)


def test_an_edit_of_one_input_leaves_the_gradients_of_another(model: Any) -> None:
    module = model._module
    with model.trace() as tracer:
        with tracer.invoke(A):
            one = model[0].output.pow(2).sum().save()
        with tracer.invoke(B):
            model[0].output.mul_(2)
    found = torch.autograd.grad(one.value, module[0].weight)
    torch.testing.assert_close(found, torch.autograd.grad(module[0](A).pow(2).sum(), module[0].weight))


# ---------------------------------------------------------------------- versions and shared storage


def test_edits_of_rows_reach_the_residual_stream() -> None:
    model = nnsight.NNsight(Residual(nn.Identity(), nn.ReLU()))
    with model.trace() as tracer:
        with tracer.invoke(A):
            model.inner.input[:, 0] = 1
            model.inner[0].input[:, 1] = 5
            result = model.output.save()
        with tracer.invoke(B):
            pass
    x = A.clone()
    x[:, 0], x[:, 1] = 1, 5
    close(result, x + x.relu())


@pytest.mark.parametrize("replaced", [True, False])
def test_an_old_name_of_rows_that_an_empty_invoke_changed(model: Any, replaced: bool) -> None:
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(A):
            old = model[0].output
        with tracer.invoke():
            if replaced:
                model[0].output = model[0].output * 0
            else:
                model[0].output[:, 0] = 0
        with tracer.invoke(C):
            old -= 0.25
            rows = model[1].input.save()
        with tracer.invoke():
            every = model[1].input.save()
    with torch.no_grad():
        first = model._module[0](A)
        first[:, 0] = 0
        close(rows, model._module[0](C))
        close(every, torch.cat([first * 0 if replaced else first - 0.25, model._module[0](C)]))


def test_names_above_a_write_keep_the_old_rows(model: Any) -> None:
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(A):
            model[1].output = model[0].output[:, :3]
        with tracer.invoke(B):
            old = model[1].output
            model[1].output = model[0].output[:, :3]
            old.save()
    close(old, model._module(B).detach())
