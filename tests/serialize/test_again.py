"""Programs run again: what was noted when they were recorded holds in every run, and stands in nobody's way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnsight_graph import GraphFormatError, NNsight, NNsightError, save


def number(value: torch.Tensor) -> int:
    return int(value)


def test_what_was_asked_in_a_branch_is_asked_again_below_it() -> None:
    """The branch may not be taken."""
    model = NNsight(nn.Linear(3, 3))
    with model.trace(torch.ones(2, 3)) as tracer:
        rows = model.output.shape[0]
        if model.output.sum() > 1e9:
            save(model.output * number(rows))
        mean = save(model.output.sum(0) / number(rows))
    graph = tracer.graph.detach()
    assert torch.equal(graph.run(model, torch.ones(2, 3))["mean"], mean)
    with pytest.raises(NNsightError, match="this is 5, and was 2 when the program was written"):
        graph.run(model, torch.ones(5, 3))


class Tempered(nn.Module):
    def forward(self, x: torch.Tensor, temperature: float = 1.0, limit: float = 9.0) -> torch.Tensor:
        return (x * temperature).clamp(max=limit)


def test_arguments_that_the_forward_names_are_its_own() -> None:
    model = NNsight(Tempered())
    with model.trace(run=False) as tracer:
        model.output.save("out")
    assert tracer.graph.run(model, torch.ones(1), temperature=2.0)["out"].item() == 2.0
    assert tracer.graph.run(model, torch.ones(1), limit=0.5)["out"].item() == 0.5


def test_captured_inference_tensors_are_edited() -> None:
    """They count no versions: a trace edits them as ever, and no file can know what they began with."""
    model = NNsight(nn.Identity())
    with torch.inference_mode():
        total = torch.zeros(2)
        with model.trace(torch.ones(2)) as tracer:
            total += model.output
        with pytest.raises(GraphFormatError, match="what it began with is gone"):
            tracer.graph.detach()
    assert total.tolist() == [1.0, 1.0]


def test_what_is_put_into_a_list_later_keeps_its_own_name() -> None:
    model = NNsight(nn.Identity())
    with model.trace(torch.ones(1)) as tracer:
        one = model.output.save()
        both = save([one, one + 1])
    assert tracer.graph.names == ["one", "both.1"]
    assert both[1].item() == 2.0
