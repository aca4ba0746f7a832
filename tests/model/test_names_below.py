"""Names that a branch or a loop binds, and that are saved below it: what Python would have made of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3], [-2, 0, 5]])
WAYS = ["function", "method", "tuple", "second"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nnsight.NNsight(nn.Linear(3, 4).requires_grad_(False))


@pytest.fixture
def out(model):
    return model._module(X)


def same(got, expected):
    torch.testing.assert_close(torch.as_tensor(got.value if isinstance(got, nnsight.Proxy) else got), expected)


@pytest.mark.parametrize("way", WAYS)
def test_bound_in_a_branch(model, out, way):
    with model.trace(X):
        if model.output.sum() > -1e9:
            v = model.output * 2
        if way == "function":
            nnsight.save(v)
        elif way == "method":
            v.save()
        elif way == "tuple":
            nnsight.save((v, 1))
        else:
            w = v
            w.save()
    same(v, out * 2)
    if way == "second":
        same(w, out * 2)


def test_bound_in_one_of_several_arms(model, out):
    for low, expected in ((1e9, out - 1), (-1e9, out * 2)):
        with model.trace(X):
            if model.output.sum() > low:
                v = model.output * 2
            elif model.output.sum() > -1e9:
                if model.output.max() > -1e9:
                    v = model.output - 1
            v.save()
        same(v, expected)


def test_never_bound(model):
    with pytest.raises(NameError, match="'v'"), model.trace(X):
        if model.output.sum() > 1e9:
            v = model.output
        nnsight.save(v)


@pytest.mark.parametrize("kind", ["for", "while", "steps", "calls"])
def test_bound_in_a_loop(model, out, kind):
    with model.trace(X) as tracer:
        if kind == "for":
            for row in model.output:
                v = row * 2
        elif kind == "while":
            left = model.output.sum() * 0 + 2
            while left > 0:
                left = left - 1
                v = model.output[1] * 2
        elif kind == "steps":
            with tracer.iter[:]:
                v = model.output[1] * 2
        else:
            for _ in tracer.iter[:1]:
                v = model.output[1] * 2
        nnsight.save(v)
    same(v, out[1] * 2)


def test_bound_in_an_invoke(model, out):
    with model.trace() as tracer:
        with tracer.invoke(X):
            if model.output.sum() > -1e9:
                v = model.output + 1
            v.save()
        with tracer.invoke(X * 2):
            pass
    same(v, out + 1)


def test_edits_below_are_seen(model, out):
    with model.trace(X):
        if model.output.sum() > -1e9:
            v = model.output.clone()
        nnsight.save(v)
        v[0] = 0
    same(v, torch.stack([torch.zeros(4), out[1]]))


def test_a_name_that_was_saved_in_the_branch_too(model, out):
    with model.trace(X):
        if model.output.sum() > -1e9:
            v = model.output.sum().save()
        w = v + 1
        nnsight.save((v, w))
    same(v, out.sum())
    same(w, out.sum() + 1)


# ------------------------------------------------------------------ parts of what is saved


@pytest.mark.parametrize("rewritten", [False, True])
def test_parts_of_a_saved_value(model, out, rewritten):
    if rewritten:
        with model.trace(X):
            flag = 1 if model.output.sum() > 0 else 0
            nnsight.save(flag)
            rows, width = model.output.shape.save()
            values, indices = model.output.topk(2).save()
            left, right = nnsight.save(model.output.chunk(2, -1))
    else:
        with model.trace(X):
            rows, width = model.output.shape.save()
            values, indices = model.output.topk(2).save()
            left, right = nnsight.save(model.output.chunk(2, -1))
    assert (int(rows), int(width)) == (2, 4)
    for got, expected in zip((values, indices, left, right), (*out.topk(2), *out.chunk(2, -1)), strict=True):
        same(got, expected)


def test_parts_of_parts(model, out):
    with model.trace(X):
        (left, right), whole = nnsight.save((model.output.chunk(2, -1), model.output))
        first, *others = nnsight.save(model.output.chunk(4, -1))
    for got, expected in zip((left, right, whole, first, others[2]), (*out.chunk(2, -1), out, *out.chunk(4, -1)[::3]), strict=True):
        same(got, expected)


# ------------------------------------------------------------------ loops in functions that the block calls


def test_a_name_that_a_function_hands_on(model):
    def halved(tracer):
        value = model.output
        with tracer.iter(range(3)):
            value = value * 0.5
        return value

    with pytest.raises(nnsight.RecordError, match="`value` is bound again") as caught:
        with model.trace(X) as tracer:
            halved(tracer).save()
    assert any(entry.name == "halved" for entry in caught.traceback)


@pytest.mark.parametrize("form", ["with", "for"])
def test_a_number_that_a_function_adds_up(model, form):
    def total(tracer):
        found = 0
        if form == "with":
            with tracer.iter[:]:
                found = found + model.output.sum()
        else:
            for _ in tracer.iter[:]:
                found = found + model.output.sum()
        return found

    with pytest.raises(nnsight.RecordError, match="`found` is bound again"), model.trace(X) as tracer:
        total(tracer)


def test_a_name_of_one_turn_below_the_loop(model, out):
    def last(tracer):
        with tracer.iter(range(3)) as turn:
            value = model.output * turn
        with tracer.iter[:]:
            called = model.output * 3
        return nnsight.save((value, called))

    with model.trace(X) as tracer:
        value, called = last(tracer)
    same(value, out * 2)
    same(called, out * 3)

    def used(tracer):
        with tracer.iter(range(3)) as turn:
            value = model.output * turn
        return value.sum()

    with pytest.raises(nnsight.NNsightError, match="made in a branch or a loop") as caught:
        with model.trace(X) as tracer:
            used(tracer).save()
    assert caught.traceback[-1].name == "used"


def test_what_a_function_may_do_in_a_loop(model, out):
    def collected(tracer):
        found = nnsight.list()
        with tracer.iter(range(3)) as turn:
            value = model.output * turn
            value = value + 1
            found.append(value)
            kept = (value * 2).save()
        return found.save(), kept

    with model.trace(X) as tracer:
        found, kept = collected(tracer)
    for turn, value in enumerate(found):
        same(value, out * turn + 1)
    same(kept, (out * 2 + 1) * 2)


# ------------------------------------------------------------------ match


@pytest.mark.parametrize("what", ["singleton", "sequence", "item", "either"])
def test_match_does_not_decide_on_a_traced_value(model, what):
    with pytest.raises(nnsight.RecordError, match="write the others as if, elif and else"), model.trace(X):
        subject = (model.output.sum() > 0).item()
        match subject if what != "item" else (subject, 1):
            case True if what == "singleton":
                pass
            case [_, _] if what == "sequence":
                pass
            case (None, 1) if what == "item":
                pass
            case None | False if what == "either":
                pass
            case _:
                pass


def test_match_takes_apart_what_holds_traced_values(model, out):
    with model.trace(X):
        match (model.output, 2, [model.output + 1]):
            case (first, 2, [*others]):
                found = (first + others[0]).save()
            case _:
                found = None
        match "kind":
            case "kind" | None:
                kind = 1
            case _:
                kind = 2
    same(found, out + out + 1)
    assert kind == 1
