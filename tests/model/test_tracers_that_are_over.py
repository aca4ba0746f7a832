"""What a tracer or a session records, it records in its block; elsewhere its methods refuse, all in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import nnsight_graph as nnsight

net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
model = nnsight.NNsight(net)
x = torch.ones(1, 4)

USES: dict[str, Callable[[Any], Any]] = {
    "stop": lambda tracer: tracer.stop(),
    "next": lambda tracer: tracer.next(),
    "cache": lambda tracer: tracer.cache(),
    "parameter": lambda tracer: tracer.parameter("scale", 2.0),
    "all": lambda tracer: tracer.all(),
    "iter[...]": lambda tracer: list(tracer.iter[:2]),
    "iter(...)": lambda tracer: tracer.iter([1, 2]),
    "cond": lambda tracer: tracer.cond(True),
    "log": lambda tracer: tracer.log("hello"),
    "apply": lambda tracer: tracer.apply(len, [1]),
    "invoke": lambda tracer: tracer.invoke(x),
    "an empty invoke": lambda tracer: tracer.invoke(),
    "result": lambda tracer: tracer.result,
}
OF_SESSIONS = ("stop", "iter[...]", "iter(...)", "cond", "log", "apply")


def over() -> Any:
    with model.trace(x) as tracer:
        model.output.save()
    return tracer


def given_up() -> Any:
    with pytest.raises(KeyError):
        with model.trace(x) as tracer:
            model.output.save()
            raise KeyError
    return tracer


def failed() -> Any:
    with pytest.raises(nnsight.NNsightError):
        with model.trace(x) as tracer:
            model.output @ torch.ones(7, 7)
    return tracer


@pytest.mark.parametrize("made", [over, given_up, failed, lambda: model.trace(x)], ids=["over", "given up", "failed", "not begun"])
@pytest.mark.parametrize("name", USES)
def test_outside_its_block(name: str, made: Callable[[], Any]) -> None:
    tracer = made()
    with pytest.raises(nnsight.RecordError, match=r"belongs inside the block|only in its block") as caught:
        USES[name](tracer)
    assert name.partition("[")[0].partition("(")[0].split()[-1] in str(caught.value).replace("iter", "all iter")


@pytest.mark.parametrize("name", USES)
def test_in_the_block_of_another(name: str) -> None:
    before = over()
    with model.trace(x):
        with pytest.raises(nnsight.RecordError, match=r"belongs inside the block|only in its block"):
            USES[name](before)
        y = model.output.save()
    assert torch.equal(y, net(x))


@pytest.mark.parametrize("name", USES)
def test_a_trace_of_a_session_that_goes_on(name: str) -> None:
    with model.session() as session:
        with model.trace(x) as tracer:
            h = model[0].output
        with pytest.raises(nnsight.RecordError, match=r"belongs inside the block|only in its block"):
            USES[name](tracer)
        length = len(session.graph)
        with model.trace(x) as other:
            with pytest.raises(nnsight.RecordError, match=r"belongs inside the block|only in its block"):
                USES[name](tracer)
            y = (model.output + h.sum()).save()
        with pytest.raises(nnsight.RecordError, match="not open"):
            tracer.__exit__(None, None, None)
    assert length == 3
    assert torch.equal(y, net(x) + net[0](x).sum())
    assert other is not tracer


@pytest.mark.parametrize("name", OF_SESSIONS)
def test_a_session_that_is_over(name: str) -> None:
    with model.session() as session:
        with model.trace(x):
            model.output.save()
    with pytest.raises(nnsight.RecordError, match=r"session\..* belongs inside the block of its session"):
        USES[name](session)


def test_it_can_still_be_entered() -> None:
    tracer = model.trace(x)
    with pytest.raises(nnsight.RecordError, match=r"tracer.stop\(\)"):
        tracer.stop()
    with tracer:
        y = model.output.save()
    assert torch.equal(y, net(x))
