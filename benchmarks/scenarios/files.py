"""Graphs as files: how long a program takes to be bytes, and to be read again; how large a file is."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

import nnsight_graph as nnsight

from .. import models
from ..measure import Budget, interleave
from .registry import Reading, figure


def thousand_nodes() -> nnsight.SavedGraph:
    """A program of a thousand operations of several kinds."""
    model = nnsight.NNsight(models.tiny())
    with model.trace(run=False) as tracer:
        x = model[0].output
        for _ in range(200):
            x = x + 1.5
            x = x[:, -1:]
            x = x.mean(dim=0, keepdim=True)
            x = torch.softmax(x, -1)
            x = x * 2
        x.save("x")
    return tracer.graph.detach()


@figure("graph files: 1,000 nodes to bytes and back, and the file of an ablation")
def graph_files(budget: Budget) -> list[Reading]:
    """A file is written and read as a whole: on a disk in memory that is mostly the work on the graph."""
    graph = thousand_nodes()
    model = nnsight.NNsight(models.small())
    with model.trace(run=False) as tracer:
        model.transformer.h[1].mlp.output[:] = 0
        model.output.logits.save("logits")
    with tempfile.TemporaryDirectory() as folder:
        path, ablation = Path(folder) / "graph.nng", Path(folder) / "ablation.nng"
        graph.save(path)
        tracer.graph.save(ablation)
        content = graph._content

        def encode() -> None:
            graph.__dict__.pop("_content", None)
            assert graph._content.text == content.text

        taken = interleave({"encode": encode, "load": lambda: nnsight.load(path)}, budget)
        size = ablation.stat().st_size
    times = {name: statistics.median(values) * 1000 for name, values in taken.items()}
    return [
        Reading("encode 1,000 nodes", times["encode"], "ms", 5),
        Reading("load 1,000 nodes, and check them", times["load"], "ms", 5),
        Reading("file of the ablation graph", size / 1000, "kB", 1.5),
    ]
