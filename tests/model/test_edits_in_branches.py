"""Augmented edits of parts of one value, above, in and below branches, against the same by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from nnsight_graph import NNsight

LINES = ["", "hidden[:, 0] *= 2", "hidden[:, 1] *= 3; hidden[:, 0] += 1", "hidden[0] -= 1; hidden[:, 1] *= 3; hidden[0] *= 2"]


@pytest.mark.parametrize(("above", "inside", "below"), list(itertools.product(LINES, LINES[1:], LINES)))
@pytest.mark.parametrize("taken", [True, False])
def test_edits(above: str, inside: str, below: str, taken: bool) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(2, 3, 4)
    model = NNsight(net)
    with torch.no_grad():
        hidden = net[0](x)
        exec("\n".join([above, inside if taken else "", below]), {"hidden": hidden})
        expected = net[1](hidden)
        with model.trace(x) as tracer:
            exec(above, {"hidden": model[0].output})
            with tracer.cond((model.input.sum() > -1e9) == taken):
                exec(inside, {"hidden": model[0].output})
            exec(below, {"hidden": model[0].output})
            seen = model[0].output.clone().save()
            out = model.output.save()
    assert torch.equal(seen, hidden)
    assert torch.equal(out, expected)
