"""Programs of strangers within limits: refused before the memory is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, LimitError, Limits, NNsight
from tests.serialize.programs import PROGRAMS

pytestmark = pytest.mark.slow

SMALL = Limits(operations=2_000, value_bytes=1 << 20, integer_bits=256)
X = torch.ones(2, 4)


def recorded(lines: Callable[[Any], Any]) -> tuple[NNsight, Any]:
    model = NNsight(nn.Linear(4, 4))
    with model.trace(run=False) as tracer:
        nnsight.save(lines(model.output))
    return model, tracer.graph.detach()


@pytest.mark.parametrize(
    "lines",
    [
        lambda out: out.expand(10**9, 2, 4).sum(),
        lambda out: out.repeat(10**9, 1),
        lambda out: torch.zeros((out.shape[0] * 10**10,)),
        lambda out: torch.ones_like(out).flatten()[:, None] * torch.ones(10**6),
        lambda out: torch.nn.functional.one_hot(out.long() * 0, 10**9),
        lambda out: out.new_full((10**10,), 1.0),
        lambda out: torch.arange(out.shape[0] * 10**10),
        lambda out: torch.outer(out.flatten().repeat(1000), out.flatten().repeat(1000)),
        lambda out: torch.bincount(out.long().flatten().abs() * 0 + 10**10),
        lambda out: torch.repeat_interleave(out.long().abs().flatten() * 0 + 10**10),
        lambda out: torch.nn.functional.pad(out, (0, 10**10)),
    ],
)
def test_large_tensors(lines: Callable[[Any], Any]) -> None:
    model, graph = recorded(lines)
    start = time.perf_counter()
    with pytest.raises(LimitError, match=r"would take .* bytes"):
        graph.run(model, X, limits=SMALL)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "lines",
    [
        lambda out: (out.shape[0] + 8) ** out.shape[1] ** (out.shape[1] * 8),
        lambda out: out.shape[0] << (out.shape[0] * 10**9),
        lambda out: (out.shape[0] + 2**100) * (out.shape[0] + 2**200),
    ],
)
def test_large_integers(lines: Callable[[Any], Any]) -> None:
    model, graph = recorded(lines)
    with pytest.raises(LimitError, match="bits"):
        graph.run(model, X, limits=SMALL)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("divisor", [-1, torch.tensor([5, -1])], ids=["number", "tensor"])
def test_a_division_that_would_end_the_process(dtype: torch.dtype, divisor: Any) -> None:
    least = torch.full((2,), torch.iinfo(dtype).min, dtype=dtype)
    by = divisor.to(dtype) if isinstance(divisor, torch.Tensor) else divisor
    model, graph = recorded(lambda out: torch.div(least + out[0, :2].to(dtype) * 0, by, rounding_mode="trunc"))
    with pytest.raises(OverflowError, match="the smallest integer divided by -1"):
        graph.run(model, X, limits=SMALL)
    model, graph = recorded(lambda out: torch.div(least + 1 + out[0, :2].to(dtype) * 0, by, rounding_mode="trunc"))
    assert graph.run(model, X, limits=SMALL)["value_0"].tolist() == torch.div(least + 1, by, rounding_mode="trunc").tolist()


def test_loops_end() -> None:
    model = NNsight(nn.Linear(4, 4))
    with model.trace(run=False) as tracer:
        total = model.output.sum()
        while total < float("inf"):
            total = total * 1
        nnsight.save(total)
    with pytest.raises(LimitError, match="more than 2000 operations"):
        tracer.graph.run(model, X, limits=SMALL)


def test_programs_within_limits_give_the_same() -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    for record in PROGRAMS.values():
        tracer, inputs, kwargs = record(lm)
        plain = tracer.graph.run(lm, *inputs, **kwargs)
        limited = tracer.graph.detach().run(lm, *inputs, limits=Limits(), **kwargs)
        assert plain.keys() == limited.keys()
        for name, value in plain.items():
            torch.testing.assert_close(limited[name], value, rtol=0, atol=0)


def session_of(lines: Callable[[Any, Any], Any]) -> tuple[NNsight, Any]:
    """A session whose lines below its trace are ``lines``, recorded only."""
    model = NNsight(nn.Linear(4, 4))
    with model.session(run=False) as session:
        with model.trace(X):
            out = model.output
        nnsight.save(lines(model, out))
    return model, session.graph.detach()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (lambda _, out: out.expand(10**9, 2, 4).sum(), "would take .* bytes"),
        (lambda _, out: torch.zeros((out.shape[0] * 10**10,)), "would take .* bytes"),
        (lambda _, out: (out.shape[0] + 8) ** out.shape[1] ** (out.shape[1] * 8), "bits"),
    ],
)
def test_lines_of_sessions(lines: Callable[[Any, Any], Any], message: str) -> None:
    model, graph = session_of(lines)
    start = time.perf_counter()
    with pytest.raises(LimitError, match=message):
        graph.run(model, limits=SMALL)
    assert time.perf_counter() - start < 5


def test_loops_of_sessions() -> None:
    model = NNsight(nn.Linear(4, 4))
    with model.session(run=False) as session:
        with model.trace(X):
            total = model.output.sum()
        while total < float("inf"):
            total = total * 1
        nnsight.save(total)
    with pytest.raises(LimitError, match="more than 2000 operations"):
        session.graph.run(model, limits=SMALL)
    for count in (3_000, 10**10):
        with model.session(run=False) as session:
            with model.trace(X):
                row = model.output[0]
            for _ in row.expand(count, 4):
                pass
            nnsight.save(row)
        with pytest.raises(LimitError):
            session.graph.run(model, limits=SMALL)


def test_traces_of_sessions() -> None:
    """A session has its own inputs: the model's activations are within the limits, too, and its forwards are counted."""
    model = NNsight(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1_000)))
    with model.session() as session:
        with model.trace(X.repeat(500, 1)):
            model.output.sum().save("out")
    with pytest.raises(LimitError, match="would take 4000000 bytes"):
        session.graph.run(model, limits=SMALL)
    with model.session() as session:
        for _ in nnsight.iter(range(3)):
            with model.trace(X):
                model[0].output.sum().save("out")
    assert session.graph.run(model, limits=Limits(forwards=3))["out"] is not None
    with pytest.raises(LimitError, match="more than 2 forwards"):
        session.graph.run(model, limits=Limits(forwards=2))


def test_steps_are_forwards() -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    with lm.session() as session:
        with lm.generate("The Eiffel Tower is in the city of", max_new_tokens=4) as tracer:
            tracer.result.save("ids")
    values = session.graph.run(lm, limits=Limits(forwards=4))
    assert torch.equal(values["ids"], session.graph.run(lm)["ids"])
    with pytest.raises(LimitError, match="more than 3 forwards"):
        session.graph.run(lm, limits=Limits(forwards=3))
    assert not lm._module._forward_pre_hooks


def test_sessions_within_limits_give_the_same() -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    with lm.session() as session:
        kept, total = nnsight.list().save("kept"), 0
        for scale in session.iter([0.0, 0.5, 2.0]):
            with lm.trace("The Eiffel Tower is in the city of") as tracer:
                lm.transformer.h[2].mlp.output[:, -1] *= scale
                kept.append(lm.lm_head.output[0, -1].argmax())
                total = total + lm.lm_head.output[0, -1].max()
        with lm.generate("The Colosseum is in", max_new_tokens=3) as tracer:
            ids = tracer.result.save("ids")
        nnsight.save(total).save("total")
    graph = session.graph.detach()
    for values in (graph.run(lm), graph.run(lm, limits=Limits())):
        assert [int(one) for one in values["kept"]] == [int(one) for one in kept]
        assert len(values["kept"]) == 3
        assert torch.equal(values["ids"], ids.value)
        assert torch.equal(values["total"], total.value)
