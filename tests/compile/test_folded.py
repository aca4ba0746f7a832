"""A graph whose loops over steps are folded gives the same values as the one that was recorded, and runs for other steps."""

from __future__ import annotations

import itertools

import msgspec
import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph.compile import lower
from nnsight_graph.graph import Graph, Literal, fold, graph_text, verify, walk
from nnsight_graph.ops.control import NEVER
from nnsight_graph.run import execute, prepare
from tests.compile.loops import PROGRAMS, SCALES, X, model, module, numbers

pytestmark = pytest.mark.slow


def run_graph(graph: Graph, steps: int = 6):
    """What the saves of a graph give, by order."""
    verify(graph)
    plan = lower(graph, steps)
    index = model._tree.index
    run = prepare(plan, graph.constants, index)
    execute(run, index, module.several, (X.clone(), steps), {})
    if run.error is not None:
        raise run.error
    given = {node: run.slots[slot] for node, slot, _, _ in plan.saved}
    saved = dict.fromkeys(node.operands[0].node for node in walk(graph.body) if node.target == "save")
    return [given[node] for node in saved]


def record(program, steps: int = 6):
    with model.trace(X.clone(), steps, fn="several") as tracer:
        saved = list(program(tracer))
        for value in saved:
            value.save()
    return tracer.graph, [value.value for value in saved]


def loops(graph: Graph):
    return [node.operands[0].name for node in walk(graph.body) if node.target == "steps"]


def compare(program, expected):
    handle, values = record(program)
    folded = fold(handle.graph)
    assert loops(folded) == expected, graph_text(folded)
    got = run_graph(folded)
    assert len(got) == len(values)
    for value, native in zip(got, values, strict=True):
        assert value is not NEVER
        torch.testing.assert_close(value, native, rtol=0, atol=0)
    again = run_graph(handle.graph)
    torch.testing.assert_close(again, got, rtol=0, atol=0)
    return folded


@pytest.mark.parametrize(("program", "expected"), PROGRAMS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_same_values(program, expected):
    compare(program, expected)


def stretched(graph: Graph, text: str) -> Graph:
    nodes = [msgspec.structs.replace(n, operands=(Literal(text), *n.operands[1:])) if n.target == "steps" else n for n in graph.body.nodes]
    return msgspec.structs.replace(graph, body=msgspec.structs.replace(graph.body, nodes=tuple(nodes)))


@pytest.mark.parametrize("stop", [1, 2, 3, 6])
def test_a_folded_loop_runs_for_another_number_of_steps(stop):
    def program(tracer, stop=3):
        total = 0
        for step in tracer.iter[1:stop]:
            total = total + model.two.output.sum() * step
            model.one.output *= 1.5
        yield tracer.result
        yield total if stop > 1 else tracer.result.sum() * 0

    folded = fold(record(program)[0].graph)
    _, expected = record(lambda tracer: program(tracer, stop))
    result, total = run_graph(stretched(folded, f"1:{stop}:1"))
    torch.testing.assert_close([result, torch.as_tensor(total, dtype=torch.float32)], expected, rtol=0, atol=0)


def test_a_list_of_values_that_is_too_short_for_the_steps_is_refused():
    folded = fold(record(numbers)[0].graph)
    assert len(run_graph(stretched(folded, "1:4:1"))) == 1
    with pytest.raises(nnsight.RecordError, match="has values for 4 turns of its loop, and none for the one after, step 5"):
        lower(stretched(folded, "1:6:1"), 6)


def test_the_printed_program_is_folded_and_keeps_numbers_and_lines():
    handle, _ = record(numbers)
    rows = [row.split("#") for row in str(handle).splitlines()]
    first = numbers.__code__.co_firstlineno
    texts = [text.rstrip() for text, _ in rows]
    assert texts[0] == "%18 = in the steps 1:5:"
    assert texts[1] == "    %19 = [1.5, -0.25, 2.0, 1.25], one per turn of %18"
    assert texts[2] == "    %20 = item of %18"
    assert texts[3:6] == ["    %0 = one.output [this step]", "    %1 = %0 * %19", "    %2 = %1 + %20"]
    assert [line.strip().rpartition(":")[2] for _, line in rows[:6]] == [str(first + at) for at in (1, 2, 1, 2, 2, 2)]
    assert len(handle) == 18


def test_what_is_run_is_not_folded():
    handle, _ = record(numbers)
    assert "steps" not in {node.target for node in walk(handle.graph.body)}
    assert fold(fold(handle.graph)) == fold(handle.graph)


@pytest.mark.parametrize("chosen", [slice(0, 3), slice(0, 3, None), slice(None), [0, 2]], ids=str)
def test_a_block_that_is_recorded_once_means_the_same(chosen):
    def unrolled(tracer):
        for step in range(6) if chosen == slice(None) else tracer.iter[chosen]:
            with tracer.iter[step]:
                model.one.output[:, step % 3] = 0
                model.act.output *= step
        yield tracer.result

    def once(tracer):
        with tracer.iter[chosen] as step:
            model.one.output[:, step % 3] = 0
            model.act.output *= step
        yield tracer.result

    torch.testing.assert_close(record(once)[1], record(unrolled)[1], rtol=0, atol=0)


def test_turns_inside_invokes(monkeypatch):
    def program():
        with model.trace(fn="several") as tracer:
            with tracer.invoke(X[:1].clone()):
                for step in tracer.iter[1:4]:
                    model.one.output *= SCALES[step]
                    kept = model.two.output
                one = tracer.result.save()
            with tracer.invoke(X[1:].clone()):
                for step in tracer.iter[4:6]:
                    model.act.output[:, 0] += step + kept[0, 0]
                two = tracer.result.save()
        return tracer.graph, [one.value, two.value]

    def planned(_key, graph, bound=1, by_calls=False):
        folded.append(fold(graph()))
        verify(folded[-1])
        return lower(folded[-1], bound, by_calls)

    folded = []
    handle, expected = program()
    monkeypatch.setattr("nnsight_graph.model.running.cached_plan", planned)
    torch.testing.assert_close(program()[1], expected, rtol=0, atol=0)
    assert loops(folded[0]) == ["1:4:1", "4:6:1"]
    assert len(handle.graph.turns) == 5


LINES = {
    "steer": lambda state, step: setattr(model.one, "output", model.one.output * SCALES[step]),
    "edit": lambda state, step: model.act.output.__setitem__((slice(None), step % 3), 0.5),
    "add": lambda state, step: state.update(total=state["total"] + model.two.output.sum()),
    "keep": lambda state, step: state.update(last=model.one.output),
    "use": lambda state, step: setattr(model.act, "output", model.act.output + state["last"]),
    "view": lambda state, step: state["last"].__setitem__((0, 0), float(step)) if step > 3 else None,
    "scale": lambda state, step: model.one.output.mul_(step + 1),
}


@pytest.mark.parametrize("names", list(itertools.permutations(LINES, 3)), ids="-".join)
def test_combined(names):
    def program(tracer):
        state = {"total": 0, "last": model.one.output.clone()}
        for step in tracer.iter[1:5]:
            for name in names:
                LINES[name](state, step)
        yield tracer.result
        yield state["last"] * 1
        yield tracer.result.sum() * 1 + state["total"]

    try:
        handle, values = record(program)
    except nnsight.NNsightError as error:
        with pytest.raises(type(error)):
            record(program)
        return
    got = run_graph(fold(handle.graph))
    torch.testing.assert_close(got, values, rtol=0, atol=0)
    assert loops(fold(handle.graph))
