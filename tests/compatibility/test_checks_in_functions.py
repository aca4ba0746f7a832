"""``if value: raise ...`` and ``assert value`` in functions that a block calls: the run raises, and only where something is wrong."""

from __future__ import annotations

import traceback

import pytest
import torch
from torch import nn

from nnsight_graph import NNsight, RecordError

X = torch.tensor([[1.0, 2.0, -1.0]])


class BadError(Exception):
    pass


@pytest.fixture
def model():
    torch.manual_seed(0)
    return NNsight(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))


def one_line(value, limit):
    if value.sum() > limit: raise BadError(f"{value.sum():.2f} is over {limit}")  # fmt: skip


def negated(value, limit):
    if not (value.sum() <= limit):
        raise BadError(f"{value.sum():.2f} is over {limit}")


def below_another(value, limit):
    if value.shape[0] > 7:
        raise BadError("never")
    elif not torch.allclose(value, value):
        raise BadError("never")
    elif value.sum() > limit:
        raise BadError(f"{value.sum():.2f} is over {limit!r}")


def asserted(value, limit):
    assert value.sum() <= limit, f"{value.sum():.2f} is over {limit}"


def over_lines(value, limit):
    if (
        value.sum()
        > limit
    ):  # fmt: skip
        raise BadError(
            f"{value.sum():.2f} is over"
            f" {limit}"
        )  # fmt: skip


def method(value, limit):
    class Checker:
        def __call__(self):
            if value.sum() > limit:
                raise BadError(f"{value.sum():.2f} is over {limit}")

    Checker()()


CHECKS = [one_line, negated, below_another, asserted, over_lines, method]


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_wrong(model, check):
    with model.trace(X):
        check(model[0].output, 100)
        out = model.output.save()
    assert torch.equal(out, model._module(X))


@pytest.mark.parametrize("check", CHECKS)
def test_the_run_raises(model, check):
    total = model._module[0](X).sum().item()
    kind = AssertionError if check is asserted else BadError
    with pytest.raises(kind, match=rf"^{total:.2f} is over -100") as caught, model.trace(X):
        check(model[0].output, -100)
        _ = model.output.save()
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_classes_and_bare_asserts(model):
    def by_class(value):
        if value.max() > 1e9:
            raise BadError
        assert (value < 1e9).all()
        if value.min() < -limit:
            raise BadError

    for limit in (1e9, -1e9):
        if limit > 0:
            with model.trace(X):
                by_class(model[0].output)
                out = model.output.save()
            assert torch.equal(out, model._module(X))
        else:
            with pytest.raises(BadError), model.trace(X):
                by_class(model[0].output)


def test_a_message_that_cannot_be_made_yet(model):
    def check(value, limit):
        if value.sum() > limit:
            raise BadError("too large: " + f"{value.sum():.1f}" if made else never_bound)  # noqa: F821

    made = False
    with model.trace(X):
        check(model[0].output, 100)
        out = model.output.save()
    assert torch.equal(out, model._module(X))
    with pytest.raises(NameError, match="never_bound"), model.trace(X):
        check(model[0].output, -100)
    made = True
    with pytest.raises(BadError, match=rf"^too large: {model._module[0](X).sum():.1f}"), model.trace(X):
        check(model[0].output, -100)


def test_in_a_scan_and_a_checked_trace(model):
    with model.scan(X):
        one_line(model[0].output, -100)
        shape = model[0].output.shape
    assert shape == (1, 3)
    with model.trace(X, validate=True):
        one_line(model[0].output, 100)
        out = model.output.save()
    assert torch.equal(out, model._module(X))


def test_a_checked_block_with_a_text_of_numbers(model):
    with model.trace(X, validate=True):
        hidden = model[0].output
        if hidden.sum() > 1e9:
            raise BadError(f"{hidden.sum():.2f}")
        out = model.output.save()
    assert torch.equal(out, model._module(X))


def test_in_invokes_each_row_is_asked(model):
    with pytest.raises(BadError, match="is over"), model.trace() as tracer:
        with tracer.invoke(X * 0):
            one_line(model[0].output, 100)
        with tracer.invoke(X):
            one_line(model[0].output, -100)


def two_values(value):
    if value.sum() > 3 and value.sum() < 5:
        raise BadError


def something_first(value):
    if value.sum() > 3:
        print("large")
        raise BadError


def assigns(value):
    if value.sum() > 3:
        value = value * 2
    return value


def three_values(value):
    if value.sum() > 3 > value.max():
        raise BadError


def asks_inside(value):
    if abs(not value.sum()):
        raise BadError


def chooses_inside(value):
    if [1 if value.sum() else 0]:
        raise BadError


def picks_inside(value):
    if [1 for _ in range(2) if not value.sum()]:
        raise BadError


def of_containers(value):
    if [value.sum(), 1] == [value.max(), 2]:
        raise BadError


OTHERS = [two_values, something_first, assigns, three_values, asks_inside, chooses_inside, picks_inside, of_containers]


@pytest.mark.parametrize("function", OTHERS)
def test_other_branches_are_refused(model, function):
    with pytest.raises(RecordError, match="not part of the block itself, but of a function that it calls"), model.trace(X):
        function(model[0].output)


def test_without_source_it_is_refused(model):
    names = {}
    exec("def check(value):\n    if value.sum() > 3:\n        raise ValueError", names)
    with pytest.raises(RecordError, match="known only while the model runs"), model.trace(X):
        names["check"](model[0].output)
