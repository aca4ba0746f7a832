"""Scenarios (ratios over hooks) and figures (numbers of their own kind), by name, with the targets they are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..measure import Budget, Call

Target = float | Literal["within noise"] | None
"""The largest ratio that is good enough; ``"within noise"`` is 1 plus 1 % plus the spread of hooks against themselves."""


def agree_exactly(result: Any, expected: Any) -> None:
    """Raise ``AssertionError`` unless both hold the same numbers, bit for bit."""
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


@dataclass(frozen=True)
class Variants:
    """The same work, done in several ways.

    Attributes:
        hooks: With hand-written hooks, registered and removed in the call.
        traced: With a trace, written anew in every call.
        replayed: With a plan that was compiled before.
        calls: How many calls are compared before anything is timed (a scenario may go through a list of inputs).
        agree: Raises unless a result is what hooks gave.
    """

    hooks: Call
    traced: Call
    replayed: Call | None = None
    calls: int = 1
    agree: Callable[[Any, Any], None] = agree_exactly

    def check(self) -> None:
        """Raise unless all variants give the same results."""
        ways = [call for call in (self.hooks, self.traced, self.replayed) if call is not None]
        expected, *others = [[call() for _ in range(self.calls)] for call in ways]
        for results in others:
            for result, hoped in zip(results, expected, strict=True):
                self.agree(result, hoped)


def replay(tracer: Any, model: Any, *inputs: Any, **kwargs: Any) -> Call:
    """Runs what a tracer has recorded again, as a graph that was loaded is run; gives the saved values, in the order of their nodes."""
    graph = tracer.graph.detach()
    return lambda: list(graph.run(model, *inputs, **kwargs).values())


@dataclass(frozen=True)
class Scenario:
    """A named way to make variants."""

    name: str
    target: Target
    replay_target: Target
    large: bool
    build: Callable[[], Variants]


@dataclass(frozen=True)
class Reading:
    """One number of a figure: ``value`` in ``unit``, good when it is at most ``target``."""

    name: str
    value: float
    unit: str
    target: float | None = None


@dataclass(frozen=True)
class Figure:
    """A named measurement that is no ratio over hooks."""

    name: str
    measure: Callable[[Budget], list[Reading]]


SCENARIOS: dict[str, Scenario] = {}
FIGURES: dict[str, Figure] = {}


def scenario(
    name: str, *, target: Target = None, replay_target: Target = None, large: bool = False
) -> Callable[[Callable[[], Variants]], Callable[[], Variants]]:
    """Add a scenario: the function below makes its variants. ``large`` ones run with ``--large`` only."""

    def add(build: Callable[[], Variants]) -> Callable[[], Variants]:
        SCENARIOS[name] = Scenario(name, target, replay_target, large, build)
        return build

    return add


def figure(name: str) -> Callable[[Callable[[Budget], list[Reading]]], Callable[[Budget], list[Reading]]]:
    """Add a figure: the function below measures it."""

    def add(measure: Callable[[Budget], list[Reading]]) -> Callable[[Budget], list[Reading]]:
        FIGURES[name] = Figure(name, measure)
        return measure

    return add
