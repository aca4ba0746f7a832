"""Inputs, outputs and results: read, edited in place, replaced; in tuples, dicts, dataclasses and model outputs."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
Pair = namedtuple("Pair", "p q")


@dataclass
class Record:
    p: torch.Tensor
    n: int = 1


@dataclass
class Output(ModelOutput):
    p: torch.Tensor | None = None
    q: torch.Tensor | None = None


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class Two(nn.Module):
    """``second(first(x))``."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = Call(first), Call(second)

    def forward(self, x):
        return self.second(self.first(x))


def result_of(module, edit):
    model = nnsight.NNsight(module)
    with model.trace(X.clone()) as tracer:
        edit(model)
        result = tracer.result.save()
    return result.value


def set_output(m, make):
    m.first.output = make(m.first.output)


PAIR = {
    "nothing": (lambda m: None, 3 * X),
    "part in place": (lambda m: m.first.output[0].__setitem__(slice(None), 0), 2 * X),
    "other part in place": (lambda m: m.first.output[1].zero_(), X),
    "part replaced": (lambda m: m.first.output.__setitem__(0, m.first.output[0] * 3), 5 * X),
    "whole replaced": (lambda m: set_output(m, lambda t: (t[0] * 3, t[1])), 5 * X),
    "by the input of the next": (lambda m: m.second.input[0].mul_(2), 4 * X),
    "by the arguments of the next": (lambda m: m.second.inputs[0][0][1].zero_(), X),
    "input of the next replaced": (lambda m: setattr(m.second, "input", (X, X)), 2 * X),
    "arguments of the next replaced": (lambda m: setattr(m.second, "inputs", (((X, X),), {})), 2 * X),
    "a view of a part": (lambda m: m.first.output[0][:, 1:][0].zero_(), torch.tensor([[3.0, 4, -6, 8], [-6, 0, 15, 3]])),
    "from the other part": (lambda m: m.first.output[0].add_(m.first.output[1]), 5 * X),
}


@pytest.mark.parametrize(
    "make", [lambda x: (x + 0, x * 2), lambda x: Pair(x + 0, x * 2), lambda x: [x + 0, x * 2]], ids=["tuple", "namedtuple", "list"]
)
@pytest.mark.parametrize(("edit", "expected"), PAIR.values(), ids=PAIR)
def test_a_pair(make, edit, expected):
    assert torch.equal(result_of(Two(make, lambda t: t[0] + t[1]), edit), expected)


def test_a_part_is_edited_by_augmented_assignment():
    def edit(m):
        m.first.output[0] *= 3
        a, b = m.first.output
        a += b

    assert torch.equal(result_of(Two(lambda x: (x + 0, x * 2), lambda t: t[0] + t[1]), edit), 7 * X)


def test_the_kind_of_a_container_stays():
    model = nnsight.NNsight(Two(lambda x: Pair(x, x), lambda t: t))
    with model.trace(X):
        model.first.output[0] = model.first.output[0] * 2
        got = model.second.input.save()
    assert type(got) is Pair
    assert torch.equal(got.p, X * 2)


DICT = {
    "item replaced": (lambda m: m.first.output.__setitem__("p", m.first.output["p"] * 3), 5 * X),
    "item in place": (lambda m: m.first.output["p"].mul_(3), 5 * X),
    "item of a list": (lambda m: m.first.output["q"].__setitem__(0, X * 0), X),
    "whole": (lambda m: setattr(m.first, "output", {"p": X, "q": [X]}), 2 * X),
    "at the next module": (lambda m: m.second.input["q"][0].zero_(), X),
}


@pytest.mark.parametrize(("edit", "expected"), DICT.values(), ids=DICT)
def test_a_dict(edit, expected):
    assert torch.equal(result_of(Two(lambda x: {"p": x + 0, "q": [x * 2]}, lambda t: t["p"] + t["q"][0]), edit), expected)


def test_a_list_grows():
    model = nnsight.NNsight(Two(lambda x: [x], lambda t: t))
    with model.trace(X):
        model.first.output.append(1)
        got = model.second.input.save()
    assert len(got) == 2


RECORD = {
    "field in place": (lambda m: m.first.output.p.zero_(), 0 * X),
    "field replaced": (lambda m: setattr(m.first.output, "p", m.first.output.p + 1), 2 * (X + 1)),
    "number replaced": (lambda m: setattr(m.first.output, "n", 5), 6 * X),
}


@pytest.mark.parametrize(("edit", "expected"), RECORD.values(), ids=RECORD)
def test_a_dataclass(edit, expected):
    assert torch.equal(result_of(Two(lambda x: Record(x + 0), lambda t: t.p * (1 + t.n)), edit), expected)


def test_a_saved_dataclass_is_one():
    model = nnsight.NNsight(Two(Record, lambda t: t.p))
    with model.trace(X):
        got = model.first.output.save()
    assert isinstance(got, Record)
    assert torch.equal(got.p, X)


OUTPUT = {
    "attribute replaced": (lambda m: setattr(m.first.output, "p", m.first.output.p * 3), 5 * X),
    "item replaced": (lambda m: m.first.output.__setitem__("p", m.first.output["p"] * 3), 5 * X),
    "by position, in place": (lambda m: m.first.output[0].zero_(), 2 * X),
    "the next one's": (lambda m: m.second.input.q.zero_(), X),
}


@pytest.mark.parametrize(("edit", "expected"), OUTPUT.values(), ids=OUTPUT)
def test_a_model_output(edit, expected):
    assert torch.equal(result_of(Two(lambda x: Output(p=x + 0, q=x * 2), lambda t: t.p + t["q"]), edit), expected)


def test_reading_a_model_output():
    model = nnsight.NNsight(Two(lambda x: Output(p=x, q=x * 2), lambda t: t.p))
    with model.trace(X):
        out = model.first.output
        a, b = out.to_tuple()
        got, names, size = (a + b).save(), out.keys().save(), nnsight.apply(len, out).save()
    assert torch.equal(got.value, 3 * X)
    assert (list(names), size.value) == (["p", "q"], 2)


def scaled(x=None, *, scale=1):
    return x * scale


ARGUMENTS = {
    "input": (lambda m: setattr(m, "input", m.input + 1), 2 * (X + 1)),
    "input in place": (lambda m: m.input.zero_(), 0 * X),
    "input, augmented": (lambda m: m.input.__iadd__(1), 2 * (X + 1)),
    "inputs": (lambda m: setattr(m, "inputs", ((X * 2,), {"scale": 4})), 8 * X),
    "named": (lambda m: m.inputs[1].__setitem__("scale", 3), 3 * X),
}


@pytest.mark.parametrize(("edit", "expected"), ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("named", [False, True])
def test_arguments(edit, expected, named):
    model = nnsight.NNsight(Call(scaled))
    with model.trace(x=X.clone(), scale=2) if named else model.trace(X.clone(), scale=2) as tracer:
        edit(model)
        got = tracer.result.save()
    assert torch.equal(got.value, expected)


def test_reading_arguments():
    model = nnsight.NNsight(Call(scaled))
    with model.trace(X, scale=2):
        args, kwargs = model.inputs
        first, given, scale = model.input.save(), args.save(), kwargs["scale"].save()
    assert torch.equal(first, X)
    assert (len(given), scale.value) == (1, 2)


def test_a_call_without_arguments_has_no_input():
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Call(lambda: 1)

        def forward(self, x):
            return x + self.inner()

    model = nnsight.NNsight(Silent())
    with model.trace(X):
        inputs, made = model.inner.inputs.save(), model.inner.output.save()
    assert (inputs.value, made.value) == (((), {}), 1)
    with pytest.raises(nnsight.NNsightError, match=r"it has no \.input"):
        with model.trace(X):
            model.inner.input.save()


def test_trace_false_and_calling_the_wrapper():
    module = nn.Linear(4, 3)
    model = nnsight.NNsight(module)
    assert torch.equal(model.trace(X, trace=False), module(X))
    assert torch.equal(model(X), module(X))


def test_remote_is_refused():
    with pytest.raises(nnsight.RemoteError, match="leave remote=True out"):
        nnsight.NNsight(nn.Identity()).trace(X, remote=True)


def test_the_result_is_what_the_call_returned():
    model = nnsight.NNsight(Two(lambda x: x, lambda x: (x, {"a": x * 2})))
    with model.trace(X) as tracer:
        whole, part = tracer.result.save(), tracer.result[1]["a"].save()
    assert torch.equal(whole[0], X)
    assert torch.equal(part.value, 2 * X)


def test_augmented_assignment_of_what_passes():
    model = nnsight.NNsight(nn.Sequential(nn.Identity(), nn.Identity()))
    with model.trace(X) as tracer:
        above = model[0].output.clone().save()
        same = model[0].output.save()
        model[0].output += 1
        model[1].input *= 2
        got = tracer.result.save()
    assert torch.equal(above.value, X)
    assert torch.equal(same.value, X + 1)
    assert torch.equal(got.value, (X + 1) * 2)


def test_lines_name_modules_in_any_order():
    layers = [nn.Linear(4, 4) for _ in range(3)]
    model = nnsight.NNsight(nn.Sequential(*layers))
    with model.trace(X) as tracer:
        result = tracer.result.save()
        late, early = model[2].input.save(), model[0].output.save()
        model[1].output = model[0].output * 2
    hidden = layers[0](X)
    assert torch.equal(early.value, hidden)
    assert torch.equal(late.value, hidden * 2)
    assert torch.equal(result.value, layers[2](hidden * 2))


@pytest.mark.parametrize("value", [3, "text", (), {"a": 1}, [None]])
def test_any_value_may_be_written(value):
    model = nnsight.NNsight(nn.Sequential(nn.Identity(), nn.Identity()))
    with model.trace(X):
        model[0].output = value
        got = model[1].output.save()
    assert got.value == value


def test_none_is_written_or_refused():
    model = nnsight.NNsight(nn.Sequential(nn.Identity(), nn.Identity()))
    try:
        with model.trace(X):
            model[0].output = None
            got = model[1].output.save()
    except nnsight.NNsightError:
        return
    assert got.value is None
