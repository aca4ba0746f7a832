"""One's own functions on traced values, printing them, and unpacking what they return."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.run.lines import ends_on, users_line

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
model = nnsight.NNsight(nn.Sequential(nn.Identity(), nn.Identity()))


def test_apply_calls_with_real_values():
    def add(value, *, times=1, both=()):
        assert type(value) is torch.Tensor
        return {"sum": value * times + both[0], "shape": tuple(value.shape)}

    with model.trace(X):
        hidden = model[0].output
        made = nnsight.apply(add, hidden, times=hidden.shape[0], both=[hidden, 1])
        total, shape = made["sum"].save(), made["shape"].save()
    assert torch.equal(total.value, X * 3)
    assert shape.value == (2, 4)


def test_the_tracers_apply_and_a_known_function():
    with model.trace(X) as tracer:
        got = tracer.apply(torch.relu, model[0].output).save()
        plain = tracer.apply(max, 1, 2).save()
    assert torch.equal(got.value, X.relu())
    assert plain.value == 2


@pytest.mark.parametrize(
    "call", [lambda f, v: nnsight.apply(f, v, mutates=(0,)), lambda f, v: nnsight.apply(lambda n, a: f(a), 1, v, mutates=(1,))]
)
def test_a_function_that_says_what_it_writes(call):
    with model.trace(X):
        call(torch.Tensor.zero_, model[0].output)
        got = model[1].output.save()
    assert torch.equal(got.value, torch.zeros(2, 4))


@pytest.mark.parametrize("mutates", [(), (3,)])
def test_a_function_that_writes_without_saying_so(mutates):
    def silent(_, value):
        value.zero_()

    with pytest.raises(nnsight.NNsightError, match=r"silent wrote into its argument 1 .* mutates=\(1,\)") as caught:
        with model.trace(X):
            nnsight.apply(silent, 1, model[0].output, mutates=mutates)
    assert ends_on(caught.value) == ("test_apply.py", "nnsight.apply(silent, 1, model[0].output, mutates=mutates)")


@pytest.mark.parametrize("error", [LookupError("mine", 3), ZeroDivisionError("zero"), AssertionError()])
def test_an_error_of_ones_own_function_keeps_type_arguments_and_cause(error):
    def fail(_):
        raise error

    with pytest.raises(type(error)) as caught:
        with model.trace(X):
            nnsight.apply(fail, model[0].output)
    assert isinstance(caught.value, nnsight.NNsightError)
    assert caught.value.args == error.args
    assert caught.value.__cause__ is error
    assert ends_on(caught.value) == ("test_apply.py", "nnsight.apply(fail, model[0].output)")


def test_a_traced_function():
    @nnsight.trace
    def scaled(value, *, by=2):
        """Scale."""
        return value * by, [value]

    with model.trace(X):
        product, (same,) = scaled(model[0].output, by=3)
        product.save(), same.save()
    assert torch.equal(product.value, X * 3)
    assert torch.equal(nnsight.value(same), X)
    assert torch.equal(scaled(X)[0], X * 2)
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "Scale.")


def test_log_prints_while_the_model_runs(capsys):
    with model.trace(X) as tracer:
        hidden = model[0].output
        tracer.log("size:", hidden.shape)
        nnsight.log([hidden.shape[0], 2], {"key": hidden.sum()})
        assert capsys.readouterr().out == ""
    assert capsys.readouterr().out == f"size: {X.shape}\n[2, 2] {{'key': {X.sum()!r}}}\n"


def test_log_prints_what_was_reached_before_an_error(capsys):
    with pytest.raises(RuntimeError):
        with model.trace(X):
            nnsight.log("first", model[0].output.shape)
            model[1].output.view(7)
    assert capsys.readouterr().out == f"first {X.shape}\n"


def test_printing_in_the_block_shows_a_stand_in(capsys):
    fresh = nnsight.NNsight(nn.Sequential(nn.Identity()))
    with fresh.trace(X):
        print(fresh[0].output, [fresh[0].output + 1])
    assert capsys.readouterr().out == "InterventionProxy(0.output; see its numbers with nnsight_graph.log(...)) [InterventionProxy(add)]\n"
    with fresh.trace(X, scan=True):
        print(fresh[0].output, [fresh[0].output + 1], fresh[0].output.shape)
    shown = str(list(X.shape))
    assert capsys.readouterr().out == (
        f"InterventionProxy(0.output: float32{shown} on cpu; see its numbers with nnsight_graph.log(...)) "
        f"[InterventionProxy(add: float32{shown} on cpu)] torch.Size({shown})\n"
    )


def test_unpacking():
    with model.trace(X):
        pair = nnsight.apply(lambda v: (v, (v * 2, v * 3)), model[0].output)
        a, (b, c) = pair
        [d, _] = pair
        first, second = model[0].output
        values = [value.save() for value in (a, b, c, d, first, second)]
    for got, expected in zip(values, (X, X * 2, X * 3, X, X[0], X[1]), strict=True):
        assert torch.equal(nnsight.value(got), expected)


def test_unpacked_rows_are_views():
    with model.trace(X):
        first, _ = model[0].output
        first += 1
        got = model[1].output.save()
    assert torch.equal(got.value, X + torch.tensor([[1.0], [0.0]]))


@pytest.mark.parametrize(("count", "match"), [(1, "not enough values to unpack"), (3, "too many values to unpack")])
def test_unpacking_the_wrong_number(count, match):
    with pytest.raises(ValueError, match=match) as caught:
        with model.trace(X):
            a, b = nnsight.apply(lambda v: (v,) * count, model[0].output)
            a.save(), b.save()
    assert isinstance(caught.value, nnsight.NNsightError)
    assert ends_on(caught.value) == ("test_apply.py", "a, b = nnsight.apply(lambda v: (v,) * count, model[0].output)")


STARS = [
    "a, *b = value",
    "for a in value: pass",
    "list(value)",
    "[*value]",
    "print(*value)",
    "dict(value)",
    "[a for a in value]",
    "sum(value)",
]


@pytest.mark.parametrize("source", STARS)
def test_iterating_without_a_known_number_is_refused(source):
    with pytest.raises(nnsight.RecordError, match="how many items a traced value has"):
        with model.trace(X):
            exec(source, {"value": nnsight.apply(lambda x: x, model[0].output)})


def test_iterating_where_shapes_tell_the_number():
    with model.trace(X):
        rows = [row * 2 for row in list(model[0].output)]
        first, *others = model[0].output
        total = exec("kept.append(sum(value))", {"value": model[0].output, "kept": (kept := [])})
        rows[1].save(), first.save(), others[0].save(), kept[0].save()
    assert total is None
    for got, expected in zip((rows[1], first, others[0], kept[0]), (X[1] * 2, X[0], X[1], X[0] + X[1]), strict=True):
        assert torch.equal(torch.as_tensor(got), expected)


def test_where_a_refusal_stands():
    with pytest.raises(nnsight.RecordError) as caught:
        with model.trace(X):
            _, *_ = nnsight.apply(abs, model[0].output)
    assert users_line(caught.value) == ("test_apply.py", "_, *_ = nnsight.apply(abs, model[0].output)")


@pytest.mark.parametrize("name", ["apply", "log", "save"])
def test_outside_a_trace(name):
    with pytest.raises(nnsight.RecordError, match=f"{name} belongs inside a trace") as caught:
        getattr(nnsight, name)(print)
    assert users_line(caught.value)[0] == "test_apply.py"
