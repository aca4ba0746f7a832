"""The graph of a block that is open: what was recorded so far, and looking at it changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

import nnsight_graph as nnsight

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
model = nnsight.NNsight(net)
x = torch.rand(2, 4)


def lines(graph: object) -> list[str]:
    return [line.partition("#")[0].strip() for line in str(graph).splitlines()]


def test_a_trace() -> None:
    with model.trace(x) as tracer:
        empty = lines(tracer.graph)
        h = model[0].output
        y = (h + torch.ones(4)).save()
        found, length, places = lines(tracer.graph), len(tracer.graph), str(tracer.graph)
        z = model.output.save()
    assert empty == []
    assert (found, length) == (["%0 = 0.output", "%1 = %0 + float32[4]", "save %1"], 3)
    assert f"# {__file__.rpartition('/')[2]}:" in places
    assert lines(tracer.graph) == [*found, "%3 = output", "save %3"]
    assert torch.equal(y, net[0](x) + 1)
    assert torch.equal(z, net(x))


def test_a_name_of_it_becomes_the_whole() -> None:
    with model.trace(x) as tracer:
        graph = tracer.graph
        h = model[0].output
        assert len(graph) == 1
        y = (h * 2).save()
    assert (len(graph), graph.names, graph) == (3, ["y"], tracer.graph)
    assert torch.equal(graph.run(model, x)["y"], y)
    assert str(graph) == repr(graph) == str(tracer.graph)


def test_only_looking() -> None:
    with model.trace(x) as tracer:
        for method in ("detach", "names", "digest", "parameters", "graph", "check", "estimate"):
            with pytest.raises(nnsight.RecordError, match="there when the block has ended"):
                getattr(tracer.graph, method)(*([model] if method in ("check", "estimate") else []))
        assert not hasattr(tracer.graph, "_repr_html_")
        y = model.output.save()
    assert torch.equal(y, net(x))


def test_invokes() -> None:
    with model.trace() as tracer:
        with tracer.invoke(x[:1]):
            first = model[0].output
            inside = lines(tracer.graph)
        with tracer.invoke(x[1:]):
            model[0].output = first
            between = lines(tracer.graph)
        y = model.output.save()
    assert inside == ["invoke rows:0:", "%1 = 0.output"]
    assert between == ["invoke rows:0:", "%1 = 0.output", "invoke rows:1:", "0.output = %1"]
    assert torch.equal(y, net[1](net[0](x[:1])).expand(2, -1))


def test_branches_in_blocks_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with model.trace(x) as tracer:
        h = model[0].output
        with tracer.cond(h.sum() > -1e9) as large:
            h[:] = 0
            print(tracer.graph)
        with large.else_():
            h[:] = 1
            print(tracer.graph)
        y = model.output.save()
    shown = lines(capsys.readouterr().out)
    found, other = shown[: shown.index("%0 = 0.output", 1)], shown[shown.index("%0 = 0.output", 1) :]
    assert found[-2:] == ["%4 = if %3:", "%0[:] = 0"]
    assert (other[: len(found)], other[-1]) == (found, "%0[:] = 1")
    assert torch.equal(y, net[1](torch.zeros(2, 4)))


def test_pythons_own_branches_and_loops(capsys: pytest.CaptureFixture[str]) -> None:
    with model.trace(x) as tracer:
        h = model[0].output
        total = 0
        for row in h:
            total = total + row
            print("in the loop:", tracer.graph)
        if h.sum() > -1e9:
            z = h * 3
            print(tracer.graph)
        y = nnsight.save(total)
    shown = capsys.readouterr().out
    assert shown.startswith("in the loop: %0 = 0.output")
    assert shown.count("in the loop") == 1  # while it is written, not once a turn
    assert shown.count("= %0 * 3") == 1
    assert "print" not in str(tracer.graph)
    assert torch.equal(y, net[0](x).sum(0))
    assert z is not None


def test_open_loops(capsys: pytest.CaptureFixture[str]) -> None:
    with model.trace(x) as tracer:
        with tracer.iter[:]:
            h = model[0].output
            h[:] = 0
            print(tracer.graph)
        y = model.output.save()
    assert [line.partition(" = ")[2] for line in lines(capsys.readouterr().out)][-2:] == ["0.output [this step]", "0"]
    assert torch.equal(y, net[1](torch.zeros(2, 4)))


def test_a_session() -> None:
    with model.session() as session:
        with model.trace(x) as tracer:
            h = model[0].output
            inside, whole = lines(tracer.graph), lines(session.graph)
            graph = tracer.graph
        between = lines(session.graph)
        y = (h + 1).save()
    assert inside == whole == between == ["trace forward(float32[2, 4]):", "%1 = 0.output"]
    assert str(graph) == str(session.graph)
    assert lines(session.graph)[-1] == "save %3"
    assert torch.equal(y, net[0](x) + 1)


def test_backwards() -> None:
    with model.trace(x) as tracer:
        h = model[0].output
        with model.output.sum().backward():
            gradient = h.grad.save()
            found = lines(tracer.graph)
    assert "%3 = gradient of %0" in found
    assert torch.allclose(gradient, net[1].weight.sum(0).expand(2, -1))


def test_a_block_that_was_given_up_or_has_not_begun() -> None:
    with pytest.raises(nnsight.RecordError, match="has not begun"):
        model.trace(x).graph
    with pytest.raises(KeyError):
        with model.trace(x) as tracer:
            model[0].output.save()
            raise KeyError
    assert lines(tracer.graph) == ["%0 = 0.output", "save %0"]


def test_a_graph_among_the_values_of_a_trace() -> None:
    """It does not print itself for ever."""
    with model.trace(x) as tracer:
        h = nnsight.apply(lambda value, graph: value + len(graph), model[0].output, tracer.graph).save()
        copied = copy.copy(tracer.graph)
    assert "<OpenGraph>" in str(tracer.graph)
    assert str(copied) == str(tracer.graph)
    assert torch.equal(h, net[0](x) + len(tracer.graph))
