"""Operations by the names that nnsight 0.8 gives them: what a result is assigned to, with assignments counted beside calls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        h = self.inner(x)
        act = torch.relu
        act = act(h)
        h = torch.tanh(act) * 2
        rows: torch.Tensor = h.sum(-1)
        return rows


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nnsight.NNsight(Net().requires_grad_(False))


def test_by_what_a_result_is_assigned_to(model):
    hidden = model._module.inner(X)
    with model.trace(X):
        first, second = model.source.h_0.output.save(), model.source.h_1.output.save()
        rows = model.source.rows_0.output.save()
    assert torch.equal(first, hidden)
    assert torch.equal(second, torch.tanh(torch.relu(hidden)) * 2)
    assert torch.equal(rows, second.sum(-1))


def test_calls_are_counted_with_assignments_to_their_name(model):
    hidden = model._module.inner(X)
    with model.trace(X):
        called = model.source.act_1.output.save()
        model.source.act_1.output = called * 3
        out = model.output.save()
    assert torch.equal(called, torch.relu(hidden))
    assert torch.equal(out, (torch.tanh(torch.relu(hidden) * 3) * 2).sum(-1))


def test_names_of_ours_come_first_and_a_program_has_them(model):
    with model.trace(X) as tracer:
        model.source.act_0.output.save()
        model.source.act_1.output.save()
    assert "source.act_0.output" in str(tracer.graph)
    assert "source.act_1" not in str(tracer.graph)
    with pytest.raises(AttributeError, match="there is no operation 'act_7'"):
        model.source.act_7
