"""What it costs that a saved name is its value: the exchange when a block ends, in microseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import nnsight_graph as nnsight
from nnsight_graph.model import block

from ..measure import Budget
from .registry import Reading, figure

_MOST = 2_000
_NOTEBOOK = """
with model.trace(x):
    out = model.output.save()
"""


@contextmanager
def noting(spent: list[int]) -> Iterator[None]:
    """While it lasts, the nanoseconds of each exchange are noted."""
    plain = block.hand_over

    def timed(*args: Any) -> None:
        start = time.perf_counter_ns()
        plain(*args)
        spent.append(time.perf_counter_ns() - start)

    block.hand_over = timed
    try:
        yield
    finally:
        block.hand_over = plain


def microseconds(run: Callable[[], Any], budget: Budget) -> float:
    """The median of an exchange."""
    spent: list[int] = []
    end = time.perf_counter() + budget.seconds
    with torch.no_grad(), noting(spent):
        for _ in range(_MOST):
            run()
            if time.perf_counter() > end:
                break
    return statistics.median(spent) / 1000


@figure("saved names")
def saved_names(budget: Budget) -> list[Reading]:
    """In a function, beside a long list, into a list, and among a notebook's names."""
    model, x = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(4, 4))), torch.ones(1, 4)
    numbers = list(range(1_000_000))

    def ten() -> Any:
        a = b = c = d = e = f = g = h = i = 1
        with model.trace(x):
            out = model.output.save()
        return out, a, b, c, d, e, f, g, h, i

    def beside() -> Any:
        held = numbers
        with model.trace(x):
            out = model.output.save()
        return out, held

    def into() -> Any:
        found = []
        with model.trace(x):
            found.append(model.output.save())
        return found

    names: dict[str, Any] = {f"name_{number}": number for number in range(500)} | {"model": model, "x": x}
    cell = compile(_NOTEBOOK, __file__, "exec")
    return [
        Reading("one among ten locals", microseconds(ten, budget), "µs", 2.0),
        Reading("beside a list of a million numbers", microseconds(beside, budget), "µs", 7.0),
        Reading("into a list", microseconds(into, budget), "µs", 7.0),
        Reading("among 500 names of a notebook, beside the model", microseconds(lambda: exec(cell, names), budget), "µs", 7.0),
    ]
