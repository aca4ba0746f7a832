"""What a line of a trace costs, in units of a ``torch.add`` of two one-element tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch

import nnsight_graph as nnsight
from nnsight_graph.compile import cached_plan, lower

from ..measure import Budget, Call, estimate, interleave
from .registry import Reading, figure

ADDS = "× torch.add"
_ADD_REPEATS = 200


def add_many() -> None:
    """The unit, ``_ADD_REPEATS`` times."""
    add, one, other = torch.add, torch.ones(1), torch.ones(1)
    for _ in range(_ADD_REPEATS):
        add(one, other)


def in_adds(seconds: Sequence[float], adds: Sequence[float]) -> float:
    """Seconds of each round in units of that round's ``torch.add``."""
    return estimate([one * _ADD_REPEATS / add for one, add in zip(seconds, adds, strict=True)]).median


def minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round."""
    return [first - second for first, second in zip(one, other, strict=True)]


def chain(x: Any, nodes: int) -> Any:
    """``nodes`` operations, each on the result of the one before."""
    for _ in range(nodes):
        x = x * 1.01
    return x


def chain_of_calls(x: Any, nodes: int) -> Any:
    """The same, written as calls of a torch function."""
    for _ in range(nodes):
        x = torch.mul(x, 1.01)
    return x


def by_hook(nodes: int, lines: Callable[[Any, int], Any] = chain) -> Call:
    """``nodes`` operations on an activation, in a hook."""
    net, x = torch.nn.Identity(), torch.ones(1)

    def hooks() -> Any:
        kept = []
        handle = net.register_forward_hook(lambda _module, _args, output: kept.append(lines(output, nodes)))
        try:
            net(x)
        finally:
            handle.remove()
        return kept[0]

    return hooks


def by_trace(nodes: int, lines: Callable[[Any, int], Any] = chain) -> Call:
    """``nodes`` operations on an activation, in a trace."""
    model, x = nnsight.NNsight(torch.nn.Identity()), torch.ones(1)

    def traced() -> Any:
        with model.trace(x):
            kept = lines(model.output, nodes).save()
        return nnsight.value(kept)

    return traced


class _NothingRan(Exception):
    """Ends a trace after its lines were recorded, so that recording can be timed alone."""


def recorded_only(nodes: int, lines: Callable[[Any, int], Any] = chain) -> Call:
    """``nodes`` operations written down, and not run."""
    model, x = nnsight.NNsight(torch.nn.Identity()), torch.ones(1)

    def recorded() -> None:
        try:
            with model.trace(x):
                lines(model.output, nodes)
                raise _NothingRan
        except _NothingRan:
            pass

    return recorded


@figure("per recorded node, over 200 nodes")
def cost_per_node(budget: Budget) -> list[Reading]:
    """What 200 nodes cost beyond their operations: recorded, looked up and run."""
    ways: dict[str, Call] = {"add": add_many, "hooks": by_hook(200), "traced": by_trace(200), "recorded": recorded_only(200)}
    ways |= {"hooks, calls": by_hook(200, chain_of_calls), "traced, calls": by_trace(200, chain_of_calls)}
    taken = interleave(ways, budget)
    beyond = in_adds(minus(taken["traced"], taken["hooks"]), taken["add"]) / 200
    calls = in_adds(minus(taken["traced, calls"], taken["hooks, calls"]), taken["add"]) / 200
    return [
        Reading("per recorded node, over 200 nodes (operators; beyond what the operation costs)", beyond, ADDS, 1.6),
        Reading("per recorded node, over 200 nodes (calls of torch functions)", calls, ADDS, 1.6),
        Reading("of the operators' cost, writing the line down", in_adds(taken["recorded"], taken["add"]) / 200, ADDS),
        Reading("one torch.add", estimate(taken["add"]).median / _ADD_REPEATS * 1e6, "µs"),
    ]


@figure("per recorded node, from 1 to 10,000 nodes")
def cost_by_length(budget: Budget) -> list[Reading]:
    """The whole of a trace of one node, then each further node at several lengths: that should not depend on the length."""
    lengths = (1, 10, 100, 1000, 10_000)
    ways: dict[str, Call] = {"add": add_many}
    ways |= {f"hooks {nodes}": by_hook(nodes) for nodes in lengths} | {f"traced {nodes}": by_trace(nodes) for nodes in lengths}
    taken = interleave(ways, budget)
    beyond = {nodes: minus(taken[f"traced {nodes}"], taken[f"hooks {nodes}"]) for nodes in lengths}
    readings = [Reading("a trace of 1 node, beyond hooks", in_adds(beyond[1], taken["add"]), ADDS)]
    for nodes in lengths[1:]:
        further = in_adds(minus(beyond[nodes], beyond[1]), taken["add"]) / (nodes - 1)
        readings.append(Reading(f"per further node, in a trace of {nodes:,}", further, ADDS))
    return readings


@figure("compile, per node of a plan not seen before")
def cost_of_compiling(budget: Budget) -> list[Reading]:
    """Compiling alone, and everything that a trace pays when its program is new."""
    handles = {nodes: _program(nodes) for nodes in (200, 2000)}
    graphs = {nodes: handle.graph for nodes, handle in handles.items()}
    fresh = count()
    ways: dict[str, Call] = {"add": add_many}
    for nodes in handles:
        ways[f"lower {nodes}"] = partial(lower, graphs[nodes])
        ways[f"miss {nodes}"] = partial(_compile_anew, handles[nodes], fresh)
    taken = interleave(ways, budget)
    readings = []
    for nodes in handles:
        for way, name, target in (("lower", "compile", 5.0), ("miss", "graph, checks and compile", None)):
            seconds = taken[f"{way} {nodes}"]
            readings.append(Reading(f"{name}, per node of {nodes}", in_adds(seconds, taken["add"]) / nodes, ADDS, target))
            readings.append(Reading(f"{name}, per node of {nodes}", estimate(seconds).median / nodes * 1e6, "µs"))
    return readings


def _compile_anew(handle: Any, fresh: Iterator[int]) -> None:
    cached_plan(("benchmark", next(fresh)), lambda: handle.graph)


def _program(nodes: int) -> Any:
    model = nnsight.NNsight(torch.nn.Identity())
    with model.trace(torch.ones(1)) as tracer:
        chain(model.output, nodes).save()
    return tracer.graph
