"""What a traced value cannot be asked for while the trace is written: an error on the line, with the way out; nothing is lost by it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.run.lines import ends_on, users_line

X = torch.ones(2, 4)
model = nnsight.NNsight(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

WISHES = {
    "if": (bool, "torch.where"),
    "and": (lambda v: v and 1, "torch.where"),
    "assert": (lambda v: exec("assert v", {"v": v}), "torch.where"),
    "max": (lambda v: max(v, v), "torch.where"),
    "len": (len, r"\.shape\[0\]"),
    "int": (int, "number"),
    "float": (float, "number"),
    "complex": (complex, "number"),
    "in": (lambda v: 1 in v, r"\.any\(\)"),
    "format": (lambda v: f"{v:.2f}", "tracer.log"),
    "asarray": (np.asarray, "apply"),
    "stack of numpy": (lambda v: np.stack([v, v]), "apply"),
    "copy": (copy.copy, r"\.clone\(\)"),
    "deepcopy": (copy.deepcopy, r"\.clone\(\)"),
    "pickle": (pickle.dumps, r"\.clone\(\)"),
    "range": (range, "range"),
    "index of a list": (lambda v: [1, 2][v], "list"),
    "value": (lambda v: v.value, "has not run yet"),
}


@pytest.mark.parametrize(("wish", "advice"), WISHES.values(), ids=WISHES)
def test_a_wish_that_cannot_be_granted(wish, advice):
    with pytest.raises(nnsight.NNsightError, match=advice) as caught:
        with model.trace(X):
            value = nnsight.apply(abs, model[0].output).save()
            wish(value)
    assert type(caught.value) in (nnsight.RecordError, nnsight.UnsetValueError)
    with pytest.raises(nnsight.UnsetValueError, match="given up"):
        value.value
    with model.trace(X):
        again = model[0].output.save()
    assert torch.equal(again.value, model._module[0](X))


def helper(value):
    if value.sum() > 0:
        value[:] = 0
    return value


def test_the_line_of_a_refusal_is_the_last_of_the_users():
    with pytest.raises(nnsight.RecordError, match="function that it calls") as caught:
        with model.trace(X):
            helper(model.output)
    assert users_line(caught.value) == ("test_refusals.py", "if value.sum() > 0:")


def test_the_line_of_a_refusal_is_the_last():
    with pytest.raises(nnsight.RecordError) as caught:
        with model.trace(X):
            complex(model.output.sum())
    assert ends_on(caught.value) == ("test_refusals.py", "complex(model.output.sum())")


def test_a_refusal_that_the_block_catches_does_no_harm():
    with model.trace(X):
        try:
            complex(model[0].output)
        except nnsight.RecordError:
            got = (model[0].output + 1).save()
    assert torch.equal(got.value, model._module[0](X) + 1)


def test_unknown_attribute_and_method():
    for name in ("shapee", "nope"):
        with pytest.raises(AttributeError, match=name) as caught:
            with model.trace(X):
                getattr(model[0].output, name).save()
        assert isinstance(caught.value, nnsight.NNsightError)
        assert ends_on(caught.value) == ("test_refusals.py", "getattr(model[0].output, name).save()")


def test_traces_do_not_nest():
    other = nnsight.NNsight(nn.Identity())
    for inner in (model, other):
        with pytest.raises(nnsight.RecordError, match="nested") as caught:
            with model.trace(X):
                with inner.trace(X):
                    pass
        assert users_line(caught.value) == ("test_refusals.py", "with inner.trace(X):")
    with other.trace(X):
        got = other.output.save()
    assert torch.equal(got, X)


def test_a_trace_runs_once():
    with model.trace(X) as tracer:
        pass
    with pytest.raises(nnsight.RecordError, match="has run already"):
        with tracer:
            pass
    with pytest.raises(nnsight.RecordError, match="when the block has ended"):
        with model.trace(X) as tracer:
            tracer.graph.detach()


def test_another_model_is_refused():
    other = nnsight.NNsight(nn.Linear(4, 4))
    for use in (lambda: other.output, lambda: setattr(other, "output", X), lambda: other.weight, lambda: other(model.output)):
        with pytest.raises(nnsight.RecordError, match="another model"):
            with model.trace(X):
                use()


def test_outside_a_trace():
    for use in (lambda: model.output, lambda: model[0].input, lambda: model.inputs, lambda: setattr(model[0], "output", 1)):
        with pytest.raises(nnsight.RecordError, match="inside a trace"):
            use()


def test_a_trace_without_input():
    with pytest.raises(nnsight.RecordError, match=r"model.trace\(x\)"):
        with model.trace():
            model.output.save()


def test_attributes_of_modules_cannot_be_assigned_in_a_trace():
    for name in ("out_features", "other"):
        with pytest.raises(nnsight.RecordError, match=rf"model.0.{name} cannot be assigned in a trace"):
            with model.trace(X):
                setattr(model[0], name, X)


def test_an_envoy_is_no_value():
    with pytest.raises(nnsight.RecordError):
        with model.trace(X):
            model.output = model[0]


@pytest.mark.parametrize("value", [X, (X, {}), ([X], {}, 1), 1])
def test_inputs_of_the_wrong_form(value):
    with pytest.raises((TypeError, RuntimeError)) as caught:
        with model.trace(X):
            model[1].inputs = value
    assert ends_on(caught.value) == ("test_refusals.py", "model[1].inputs = value")


@pytest.mark.parametrize("other", [torch.float16, "meta"])
def test_errors_of_torch_show_the_line_and_the_graph(other):
    with pytest.raises(RuntimeError, match="invalid for input of size 8") as caught:
        with model.trace(X):
            hidden = model[0].output
            hidden.to(other).view(3, 3).save()
    assert isinstance(caught.value, nnsight.NNsightError)
    assert ends_on(caught.value) == ("test_refusals.py", "hidden.to(other).view(3, 3).save()")
    notes = "\n".join(getattr(caught.value, "__notes__", [])) or str(caught.value)
    assert "[2, 4]" in notes
    assert "view(3, 3)" in notes


def test_a_line_of_a_function_of_ones_own():
    def widen(value):
        return value.view(3, 3)

    with pytest.raises(RuntimeError) as caught:
        with model.trace(X):
            widen(model[0].output)
    assert ends_on(caught.value) == ("test_refusals.py", "return value.view(3, 3)")
