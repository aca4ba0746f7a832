"""What one more invoke costs a trace, in units of a ``torch.add`` of two one-element tensors."""

from __future__ import annotations

from typing import Any

import torch

import nnsight_graph as nnsight

from .. import models
from ..measure import Budget, Call, interleave
from .nodes import ADDS, add_many, in_adds, minus
from .registry import Reading, Variants, figure

COUNTS = (1, 16, 64, 256)


def patch_and_save(invokes: int) -> Variants:
    """A row for each invoke: one of its numbers is set, and its output is kept."""
    net, inputs = models.tiny(), list(models.vectors(invokes, 5).split(1))
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        def patch(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> None:
            for row in range(invokes):
                output[row, 0] = 0

        handle = net[0].register_forward_hook(patch)
        try:
            output = net(torch.cat(inputs))
        finally:
            handle.remove()
        return [output[row : row + 1] for row in range(invokes)]

    def traced() -> Any:
        kept = []
        with model.trace() as tracer:
            for x in inputs:
                with tracer.invoke(x):
                    model[0].output[:, 0] = 0
                    kept.append(model.output.save())
        return [output.value for output in kept]

    return Variants(hooks, traced)


def plain_forward(rows: int) -> Call:
    """A batched forward in which nothing is patched."""
    net, inputs = models.tiny(), list(models.vectors(rows, 5).split(1))
    return lambda: net(torch.cat(inputs))


@figure("overhead per invoke, from 1 to 256 invokes")
def cost_by_invokes(budget: Budget) -> list[Reading]:
    """A trace less a plain batched forward of its size, for each invoke. It includes the edits, as the hooks' number does."""
    ways: dict[str, Call] = {"add": add_many}
    for invokes in COUNTS:
        variants = patch_and_save(invokes)
        variants.check()
        ways |= {f"plain {invokes}": plain_forward(invokes), f"hooks {invokes}": variants.hooks, f"traced {invokes}": variants.traced}
    taken = interleave(ways, budget)
    readings = []
    for way, title in (("traced", "per invoke"), ("hooks", "the same by hooks, per row")):
        beyond = {invokes: minus(taken[f"{way} {invokes}"], taken[f"plain {invokes}"]) for invokes in COUNTS}
        for invokes in COUNTS:
            name = f"{title}, of {invokes}, beyond a plain batched forward"
            readings.append(Reading(name, in_adds(beyond[invokes], taken["add"]) / invokes, ADDS))
    return readings
