"""``session(scan=, validate=)``: said once for all traces in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnsight_graph import NNsight, RecordError


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        object.__setattr__(self, "runs", [])

    def forward(self, x):
        if type(x) is torch.Tensor:
            self.runs.append(1)
        return self.layer(x)


@pytest.mark.parametrize(
    ("options", "of_trace", "runs"),
    [
        ({}, {}, 1),
        ({"validate": True}, {}, 0),
        ({"scan": True}, {}, 0),
        ({"scan": True, "validate": False}, {}, 1),
        ({"validate": True}, {"validate": False}, 1),
        ({"validate": False}, {"validate": True}, 0),
    ],
)
def test_what_fails_is_found_before_the_model_runs_where_the_session_or_the_trace_says_so(options, of_trace, runs):
    module = Counting()
    model = NNsight(module)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), model.session(**options), model.trace(torch.ones(1, 2), **of_trace):
        (model.output @ torch.ones(3, 3)).save()
    assert len(module.runs) == runs


@pytest.mark.parametrize("options", [{"validate": True}, {"scan": True}, {"validate": "auto"}, {"scan": True, "validate": True}])
def test_numbers_are_those_of_plain_forwards(options):
    module = Counting()
    model = NNsight(module)
    x = torch.arange(4.0).reshape(2, 2)
    with model.session(**options):
        with model.trace(x):
            first = model.layer.output
        with model.trace(first * 2):
            second = model.output.save()
    with torch.no_grad():
        assert torch.equal(second, module(module(x) * 2))


def test_another_word_for_validate_is_refused():
    with pytest.raises(RecordError, match="validate is True, False or 'auto', not 'no'"):
        NNsight(Counting()).session(validate="no")
