"""Arguments of several invokes: rows are put together, what belongs to the call is passed once as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import RecordError
from tests.model.test_invokes import Call

A, B = torch.randn(1, 5, 8), torch.randn(2, 5, 8)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).requires_grad_(False)


def test_the_same_object_in_all_invokes_and_what_the_trace_is_given() -> None:
    net, mask = encoder(), nn.Transformer.generate_square_subsequent_mask(5)
    model = nnsight.NNsight(net)
    with model.trace() as tracer:
        with tracer.invoke(A, mask=mask):
            one, seen = model.output.save(), model.inputs[1]["mask"].save()
        with tracer.invoke(B, mask=mask):
            two = model.output.save()
    with model.trace(mask=mask) as tracer:
        with tracer.invoke(A):
            again, seen_again = model.output.save(), model.inputs[1]["mask"].save()
        with tracer.invoke(B):
            pass
    torch.testing.assert_close(one.value, net(A, mask=mask))
    torch.testing.assert_close(two.value, net(B, mask=mask))
    torch.testing.assert_close(again.value, net(A, mask=mask))
    assert torch.equal(seen, mask)
    assert torch.equal(seen_again, mask)


def test_in_a_session_and_of_a_saved_graph() -> None:
    model = nnsight.NNsight(Call(lambda x, *, scale: x * scale))
    scale = torch.arange(8.0)
    with model.session():
        with model.trace(scale=scale) as tracer:
            with tracer.invoke(A):
                pass
            with tracer.invoke(B):
                two = model.output.save()
    assert torch.equal(two, B * scale)
    with model.trace(scale=scale) as tracer:
        with tracer.invoke(A):
            one = model.output.save()
        with tracer.invoke(B):
            pass
    assert torch.equal(tracer.graph.run(model, A, B, scale=2 * scale)["one"], 2 * A * scale)
    assert torch.equal(one, A * scale)


@pytest.mark.parametrize("same", [True, False])
def test_a_tensor_without_dimensions_is_never_joined(same: bool) -> None:
    model = nnsight.NNsight(Call(lambda x, time: x * time))
    times = [torch.tensor(0.25)] * 2 if same else [torch.tensor(0.25), torch.tensor(0.25)]
    with model.trace() as tracer:
        for x, time in zip((A, B), times, strict=True):
            with tracer.invoke(x, time):
                seen, out = model.inputs[0][1].save(), model.output.save()
    assert torch.equal(seen, times[0])
    assert torch.equal(out, B * 0.25)
    with pytest.raises(RecordError, match="agree on argument 1, which has no dimensions"), model.trace() as tracer:
        with tracer.invoke(A, torch.tensor(0.25)):
            pass
        with tracer.invoke(B, torch.tensor(0.5)):
            pass


def test_what_is_no_tensor_may_be_any_object_if_it_is_one() -> None:
    class Graph:
        def __eq__(self, other: Any) -> bool:
            raise AssertionError("not compared")

        __hash__ = None  # type: ignore[assignment]

    graph, ids = Graph(), [torch.ones(8), torch.zeros(8)]
    model = nnsight.NNsight(Call(lambda x, graph, ids: x + ids[0]))
    with model.trace() as tracer:
        for x in (A, B):
            with tracer.invoke(x, graph, ids=ids):
                out = model.output.save()
    assert torch.equal(out, B + 1)


@pytest.mark.parametrize("by_name", [True, False])
def test_one_input_in_all_invokes_has_rows(by_name: bool) -> None:
    table = torch.randn(3, 8)
    model = nnsight.NNsight(Call(lambda x, other, table: x + other + table[0]))
    given: dict[str, Any] = {"x": A, "other": A} if by_name else {}
    saved = []
    with model.trace() as tracer:
        for number in range(3):
            with tracer.invoke(*(() if by_name else (A, A)), **given, table=table):
                model.output[:] += number
                saved.append(model.output.save())
    for number, got in enumerate(saved):
        torch.testing.assert_close(got.value, 2 * A + table[0] + number)


def test_what_does_not_fit() -> None:
    model = nnsight.NNsight(Call(lambda x, other=None, mask=None: x))
    with pytest.raises(RecordError, match=r"other has \[5, 5\] rows.*one and the same tensor"), model.trace() as tracer:
        for x in (A, A + 1):
            with tracer.invoke(x, other=torch.ones(5, 5)):
                pass
    with pytest.raises(RecordError, match="mask is given to the trace"), model.trace(mask=A) as tracer:
        for x in (A, B):
            with tracer.invoke(x, mask=B):
                pass
    with pytest.raises(RecordError, match="has an input"), model.trace(A, mask=A) as tracer, tracer.invoke(B):
        pass
    with model.trace(x=A):
        alone = model.output.save()
    assert torch.equal(alone, A)
