"""What shapes tell of tuples and dicts that hold tensors: how many items there are, and their names; the items are traced."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import Envoy, NNsight, eproperty, requires_input


class Named(torch.nn.Module):
    """Calls its layer with one positional argument and two named ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x, scale=x * 2, flag=True)


class Layer(torch.nn.Module):
    def forward(self, x: torch.Tensor, scale: torch.Tensor, flag: bool) -> torch.Tensor:
        return x + scale if flag else x


def first_of(inputs: Any) -> Any:
    return [*inputs[0], *inputs[1].values()][0]


def counts_and_names(inputs: Any) -> tuple[list[int], list[str]]:
    """A function that the block calls: Python's own ``len`` and ``for``."""
    counts = [len(inputs), len(inputs[0]), len(inputs[1].values()), len([*inputs[1].items()])]
    return counts, [name for name in inputs[1].keys()]  # noqa: C416


X = torch.arange(6.0).view(2, 3)


def test_items_of_arguments_are_traced() -> None:
    model = NNsight(Named())
    with model.trace(X):
        everything = [*model.layer.inputs[0], *model.layer.inputs[1].values()]
        first, scale = everything[0].save(), everything[1].save()
        first_of(model.layer.inputs)[:, 0] = 7
        out = model.output.save()
    edited = torch.cat([torch.full((2, 1), 7.0), X[:, 1:]], dim=1)
    torch.testing.assert_close([first.value, scale.value, out.value], [edited, X * 2, edited + X * 2])
    assert len(everything) == 3


def test_counts_and_names() -> None:
    model = NNsight(Named())
    with model.trace(X):
        counts, names = counts_and_names(model.layer.inputs)
    assert counts == [2, 1, 2, 2]
    assert names == ["scale", "flag"]


def test_the_input_as_nnsight_defines_it() -> None:
    class Own(Envoy):
        @eproperty(key="inputs")
        @requires_input
        def first(self) -> Any: ...

        @first.preprocess
        def first(self, value: Any) -> Any:
            return first_of(value)

        @first.postprocess
        def first(self, value: Any) -> Any:
            inputs = self.inputs
            return (value, *inputs[0][1:]), inputs[1]

    model = NNsight(Named(), envoys={Layer: Own})
    with model.trace(X):
        before = model.layer.first.save()
        model.layer.first = torch.zeros(2, 3)
        out = model.output.save()
    torch.testing.assert_close([before, out], [X, X * 2])


def test_names_of_nnsight() -> None:
    model = NNsight(Named())
    with model.trace() as tracer:
        invoke = tracer.invoke(X)
        with invoke:
            model.output.save()
    assert isinstance(tracer, nnsight.InterleavingTracer)
    assert isinstance(invoke, nnsight.Invoker)


def test_an_error_in_a_rewritten_block_shows_no_skip_and_the_first_row() -> None:
    model = nnsight.LanguageModel("nnsight-graph/capitals")
    for dispatch in (False, True):  # found on fakes, and in the run
        if dispatch:
            model.dispatch()
        with pytest.raises(IndexError) as caught, model.generate("Hello", max_new_tokens=2, validate=not dispatch) as tracer, tracer.all():
            model.transformer.h[5].mlp.output[0][:, -1, :] *= 0.9
        text = "".join(traceback.format_exception(caught.value))
        assert "SkipBody" not in text
        assert "[0] is the first row" in text
