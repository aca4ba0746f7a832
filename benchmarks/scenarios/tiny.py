"""Two linear layers: nothing but the price of a trace."""

from __future__ import annotations

from typing import Any

import torch

import nnsight_graph as nnsight

from .. import models
from .registry import Variants, replay, scenario


@scenario("tiny: save one output", target=1.4, replay_target=1.05)
def save_one_output() -> Variants:
    net, x = models.tiny(), models.vectors(1, 5)
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept = []
        handle = net[0].register_forward_hook(lambda _module, _args, output: kept.append(output))
        try:
            net(x)
        finally:
            handle.remove()
        return kept[0]

    def traced() -> Any:
        with model.trace(x):
            kept = model[0].output.save()
        return kept.value

    with model.trace(run=False) as tracer:
        model[0].output.save()
    again = replay(tracer, model, x)
    return Variants(hooks, traced, lambda: again()[0])


@scenario("tiny: save a clone, zero a slice, save", target=1.5, replay_target=1.05)
def zero_a_slice() -> Variants:
    net, x = models.tiny(), models.vectors(1, 5)
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept = []

        def zero(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> None:
            kept.append(output.clone())
            output[:, 0] = 0
            kept.append(output)

        handle = net[0].register_forward_hook(zero)
        try:
            net(x)
        finally:
            handle.remove()
        return kept

    def traced() -> Any:
        with model.trace(x):
            before = model[0].output.clone().save()
            model[0].output[:, 0] = 0
            after = model[0].output.save()
        return [before.value, after.value]

    with model.trace(run=False) as tracer:
        model[0].output.clone().save()
        model[0].output[:, 0] = 0
        model[0].output.save()
    again = replay(tracer, model, x)
    return Variants(hooks, traced, lambda: again()[::-1])  # in the order of their nodes, the site's comes first
