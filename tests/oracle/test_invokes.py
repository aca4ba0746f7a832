"""Batches against the oracle, and against each input in a trace of its own."""

from __future__ import annotations

import os
from dataclasses import replace
from textwrap import indent
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("nnsight_graph")

from tests.oracle.draw_invokes import Style, draw_batch
from tests.oracle.invokes import Batch, batch_text, judge, report, run_text
from tests.oracle.trees import difference, leaves

FIRST = 14
COUNT = 3000 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 10 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 100


def check(style: Style, **choices: Any) -> None:
    seeds = range(FIRST, FIRST + COUNT)
    wrong = [seed for seed in seeds if judge(draw_batch(seed, style, **choices)).fault]
    if wrong:
        text = report(draw_batch(wrong[0], style, **choices))
        pytest.fail(f"{len(wrong)} of {len(seeds)} seeds are wrong: {wrong[:20]}\n\n{text}", pytrace=False)


@pytest.mark.parametrize("style", ["writes", "methods", "edits", "all"])
def test_a_batch_means_what_its_inputs_mean(style: Style) -> None:
    check(style)


def run_alone(batch: Batch, number: int) -> tuple[Any, dict[str, Any]]:
    """The lines of one input, in a trace of its own."""
    lines = [text for line in batch.lines if line.block == number for text in line.text.lines()]
    text = f"with torch.{batch.mode}():\n    with model.trace(x{number}) as tracer:\n{indent(chr(10).join(lines or ['pass']), ' ' * 8)}\n"
    saves = [str(line.text.target) for line in batch.lines if line.block == number and str(line.text.target) in batch.saves]
    return run_text(batch.module, text, batch.constants, saves)


def gradients(batch: Batch, values: list[Any]) -> list[Tensor] | str:
    """Of the sum of all that was saved, for the model's parameters; or why there are none."""
    sums = [leaf.pow(2).sum() for value in values for leaf in leaves(value) if leaf.requires_grad]
    parameters = list(batch.module.parameters())
    if not sums or not parameters:
        return "nothing has a gradient"
    try:
        return list(torch.autograd.grad(sum(sums[1:], sums[0]), parameters, allow_unused=True, materialize_grads=True))
    except RuntimeError as error:
        return str(error)


def alone_fault(batch: Batch) -> str | None:
    """The first difference between the batch and its inputs alone."""
    alone = [run_alone(batch, number) for number in range(len(batch.xs))]
    got, raw = run_text(batch.module, batch_text(batch), batch.constants, batch.saves)
    errors = {type(outcome.error) for outcome, _ in alone if outcome.error}
    if errors:
        return None if got.error is None or type(got.error) in errors else f"{got.error!r}, but alone {errors}"
    if got.error or got.left:
        return f"{got.error!r} {got.left}, but alone there are values"
    for outcome, _ in alone:
        for name, value in outcome.values.items():
            found = difference(value, got.values[name])
            if found:
                return f"{name}: {found}"
    if batch.mode != "enable_grad":
        return None
    right = gradients(batch, [value for _, values in alone for value in values.values()])
    found = gradients(batch, list(raw.values()))
    return None if isinstance(right, str) else f"gradients: {found}" if isinstance(found, str) else difference(right, found)


@pytest.mark.parametrize("style", ["writes", "methods", "all"])
def test_each_input_is_as_in_a_trace_of_its_own_and_gradients_add_up(style: Style) -> None:
    for seed in range(FIRST, FIRST + COUNT):
        batch = draw_batch(seed, style, mixing=0.0, whole=False)
        fault = alone_fault(batch)
        if not fault:
            continue
        index = len(batch.lines) - 1
        while index >= 0:
            smaller = batch.without(index)
            if alone_fault(smaller):
                batch, index = smaller, len(smaller.lines)
            index -= 1
        pytest.fail(f"seed {seed}: {alone_fault(batch)}\n\n{batch_text(batch)}\n{batch.module}", pytrace=False)


def test_batches_are_the_same_every_time_and_shrink_to_what_is_wrong() -> None:
    one, two = draw_batch(5, "all"), draw_batch(5, "all")
    assert batch_text(one) == batch_text(two)
    smaller = one.without(0)
    assert len(smaller.lines) < len(one.lines)
    assert batch_text(replace(one, lines=())).count("pass") == len(one.blocks)
