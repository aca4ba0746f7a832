"""Forwards that end when all that a trace wants is there, against hooks, which let them run to their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import nnsight_graph as nnsight
from nnsight_graph import CONFIG

from .. import models
from .registry import Variants, scenario


def read_first_block(make: Callable[[], Any]) -> Variants:
    """The output of the first block, and nothing else."""
    net, tokens = make(), models.tokens()
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept: list[torch.Tensor] = []
        handle = net.transformer.h[0].register_forward_hook(lambda _module, _args, output: kept.append(output))
        try:
            net(tokens)
        finally:
            handle.remove()
        return kept[0]

    def traced() -> Any:
        before, CONFIG.APP.AUTO_STOP = CONFIG.APP.AUTO_STOP, True
        try:
            with model.trace(tokens):
                kept = model.transformer.h[0].output.save()
        finally:
            CONFIG.APP.AUTO_STOP = before
        return kept.value

    return Variants(hooks, traced)


@scenario("small: read the first block only, no stop written", target=0.5)
def small() -> Variants:
    return read_first_block(models.small)


@scenario("124M: read the first block only, no stop written", target=1 / 6, large=True)
def large() -> Variants:
    return read_first_block(models.large)
