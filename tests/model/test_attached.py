"""Modules of the user's own, attached to the model: called in a trace, with or without their own sites."""

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.arange(8.0).reshape(2, 4)


class Code(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.up(self.down(x).relu())


@pytest.fixture
def model():
    torch.manual_seed(0)
    wrapped = nnsight.NNsight(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    wrapped[0].code = Code()
    return wrapped


def test_a_call_runs_the_module(model):
    with torch.no_grad(), model.trace(X):
        h = model[0].output.save()
        got = model[0].code(model[0].output).save()
    assert torch.equal(got, model[0].code._module(h.value))


def test_its_sites_are_visited_on_request(model):
    code = model[0].code
    with torch.no_grad(), model.trace(X):
        h = model[0].output.save()
        code.down.output[:, :3] = 0
        inner = code.down.output.save()
        model[0].output = code(h, hook=True)
        out = model.output.save()
    expected = code._module.down(h.value)
    expected[:, :3] = 0
    assert torch.equal(inner, expected)
    assert torch.equal(out, code._module.up(expected.relu()).tanh())


def test_without_the_request_they_never_run(model):
    with pytest.raises(nnsight.MissedSiteError, match=r"0\.code\.down\.output"), torch.no_grad():
        with model.trace(X):
            model[0].code(model[0].output)
            model[0].code.down.output.save()


def test_an_error_at_its_sites_stands_on_its_line(model):
    with pytest.raises(IndexError, match="out of bounds") as caught, torch.no_grad():
        with model.trace(X):
            model[0].code.down.output[:, 6] = 0
            model[0].code(model[0].output, hook=True)
    assert isinstance(caught.value, nnsight.NNsightError)
    assert "down.output[:, 6]" in str(caught.traceback[-1].statement)
