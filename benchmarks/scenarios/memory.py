"""The most tensor memory that is alive at once while every layer is reduced to a number."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import nnsight_graph as nnsight

from .. import models
from ..measure import Budget, Call
from .registry import Reading, Variants, figure


def peak_bytes(call: Call) -> int:
    """The most bytes of tensors alive at once during a call, beyond what was alive before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], place, event["args"]["Bytes"]) for place, event in enumerate(events) if event.get("name") == "[memory]")
    alive = peak = 0
    for _, _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


def reduce_every_layer(rows: int = 2048) -> Variants:
    """The mean square of every layer's output."""
    net, x = models.wide(), models.vectors(rows, 256)
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept: list[torch.Tensor] = []
        handles = [layer.register_forward_hook(lambda _module, _args, output: kept.append(output.square().mean())) for layer in net]
        try:
            with torch.no_grad():
                net(x)
        finally:
            for handle in handles:
                handle.remove()
        return kept

    def traced() -> Any:
        with torch.no_grad(), model.trace(x):
            kept = [layer.output.square().mean().save() for layer in model]
        return [value.value for value in kept]

    return Variants(hooks, traced)


@figure("peak memory while reducing every layer")
def peak_memory(_budget: Budget) -> list[Reading]:
    """Peak of a trace over that of hooks: one more layer that is held would add a third."""
    variants = reduce_every_layer()
    variants.check()
    hooks, traced = peak_bytes(variants.hooks), peak_bytes(variants.traced)
    return [
        Reading("peak memory while reducing every layer, over hooks", traced / hooks, "×", 1.0),
        Reading("peak memory while reducing every layer, hooks", hooks / 2**20, "MiB"),
    ]
