"""After its trace a saved name is its value, and what the block handed on itself stands for it; else it says why there is none."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import nnsight_graph as nnsight
from tests.run.lines import users_line

model = nnsight.NNsight(nn.Identity())


def x():
    return torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


def value_of(function=lambda v: v):
    with model.trace(x()):
        got = nnsight.apply(function, model.output).save()
    return got


def stand_in_for(function=lambda v: v):
    with model.trace(x()):
        return nnsight.apply(function, model.output).save()


both = pytest.mark.parametrize("saved", [value_of, stand_in_for], ids=["value", "stand-in"])


ON_TENSORS = {
    "value": lambda v: v + 0,
    "operators": lambda v: 2 * v - v / 4 + v @ v.T.sum() if v.ndim == 1 else 2 * v - v / 4,
    "two operands": lambda v: v + v * v,
    "matmul": lambda v: v @ v.T,
    "real on the left": lambda v: x() + v,
    "comparison": lambda v: (v == 1) | (v < 0),
    "row": lambda v: v[0],
    "slice": lambda v: v[:, 1:],
    "mask by itself": lambda v: v[v > 0],
    "index of a real one": lambda v: x()[v > 0],
    "rows": lambda v: torch.stack(list(v)),
    "method": lambda v: v.sum(-1, keepdim=True),
    "attribute": lambda v: v.T,
    "function": lambda v: torch.softmax(v, -1),
    "functional": lambda v: functional.relu(v),
    "list of them": lambda v: torch.cat([v, x(), v]),
    "module": lambda v: nn.Flatten(0)(v),
    "abs": abs,
    "clone": lambda v: v.clone(),
    "double": lambda v: v.double(),
}


@both
@pytest.mark.parametrize("use", ON_TENSORS.values(), ids=ON_TENSORS)
def test_as_a_tensor(use, saved):
    got = use(saved())
    assert type(got) is torch.Tensor
    assert torch.equal(got, use(x()))


PLAIN = {
    "str": str,
    "repr": repr,
    "format": lambda v: f"{v}",
    "percent": lambda v: "%s" % (v,),  # noqa: UP031
    "len": len,
    "shape": lambda v: v.shape,
    "equal": lambda v: torch.equal(v, x()),
    "allclose": lambda v: torch.allclose(v, x()),
    "contains": lambda v: 5.0 in v,
    "isinstance": lambda v: isinstance(v, torch.Tensor) and torch.is_tensor(v),
    "numpy": lambda v: v.numpy().tolist(),
    "asarray": lambda v: np.asarray(v, dtype=np.float64).tolist(),
    "numpy function": lambda v: np.exp(v).tolist(),
    "numpy stack": lambda v: np.stack([v, v]).shape,
    "tolist": lambda v: v.tolist(),
    "item": lambda v: v[0, 1].item(),
    "rows": lambda v: [row.tolist() for row in v],
    "smallest": lambda v: min(v[0]).item(),
    "dir": lambda v: "mean" in dir(v),
}


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@both
@pytest.mark.parametrize("use", PLAIN.values(), ids=PLAIN)
def test_plain_answers(use, saved):
    assert use(saved()) == use(x())


def test_value_is_the_tensor_itself():
    got, stand_in = value_of(), stand_in_for()
    assert got.value is got
    assert type(stand_in) is nnsight.Proxy
    assert type(stand_in.value) is torch.Tensor
    assert torch.equal(got.value, x())
    assert torch.equal(stand_in.value, x())


NUMBERS = {
    "int": int,
    "float": float,
    "index": lambda n: [5, 6, 7][n],
    "range": lambda n: list(range(n)),
    "arithmetic": lambda n: (n + 1, 1 - n, -n, n**2, 2**n, n // 2, n % 2, n << 1, n & 3, n | 1, n ^ 1, ~n, n / 4),
    "divmod": lambda n: divmod(n, 2) + divmod(7, n),
    "round": lambda n: round(n, 1),
    "comparison": lambda n: (n > 1, n >= 2, n < 3, n <= 1, n != 2, n == 2),
    "truth": bool,
    "format": lambda n: f"{n:>5}|{n:d}",
    "slice": lambda n: x()[:, :n].tolist(),
    "shape": lambda n: torch.zeros((n, 3)).shape,
    "sum": lambda n: sum([n, n]),
    "sorted": lambda n: sorted([n, 1, 3]) == [1, 2, 3],
    "isinstance": lambda n: isinstance(n, int),
}
OF_VALUES_ALONE = {
    "json": lambda n: json.dumps([n]),  # what C asks for the exact type sees a stand-in
    "sizes": lambda n: torch.zeros(n, 3).shape,  # for which torch takes a stand-in as a whole
}


@both
@pytest.mark.parametrize("use", NUMBERS.values(), ids=NUMBERS)
def test_as_a_number(use, saved):
    assert use(saved(lambda v: v.shape[0])) == use(2)


@pytest.mark.parametrize("use", OF_VALUES_ALONE.values(), ids=OF_VALUES_ALONE)
def test_as_a_number_in_earnest(use):
    assert use(value_of(lambda v: v.shape[0])) == use(2)
    with pytest.raises(TypeError):
        use(stand_in_for(lambda v: v.shape[0]))


@both
@pytest.mark.parametrize("value", ["abc", None, True, [1, 2], {"a": 1}, (1, (2, 3)), 1 + 2j])
def test_other_values(value, saved):
    got = saved(lambda _: value)
    assert type(nnsight.value(got)) is type(value)
    assert nnsight.value(got) == value
    assert got == value
    assert isinstance(got, type(value))
    assert str(got) == str(value)
    assert bool(got) is bool(value)


@both
def test_containers(saved):
    mapping, items, text = saved(lambda _: {"a": 1}), saved(lambda _: [1, 2]), saved(lambda _: "abc")
    items.append(3)
    items[0] = 7
    assert (list(mapping), mapping["a"], "a" in mapping, dict(mapping), {**mapping}) == (["a"], 1, True, {"a": 1}, {"a": 1})
    assert ([*items], [*items, 4], items[-1], len(items)) == ([7, 2, 3], [7, 2, 3, 4], 3, 3)
    assert (text.upper(), text + "d", "x" + text, "b" in text) == ("ABC", "abcd", "xabc", True)


@both
def test_pickling_and_copying_give_the_value(saved):
    got = saved()
    for made in (pickle.loads(pickle.dumps(got)), copy.copy(got), copy.deepcopy(got), copy.deepcopy({"a": got})["a"]):
        assert type(made) is torch.Tensor
        assert torch.equal(made, x())


@both
def test_edits_and_attributes_reach_the_value(saved):
    got = saved()
    other = got
    got += 1
    got[0] = 0
    got.mul_(2)
    got.note = "mine"
    expected = (x() + 1) * 2
    expected[0] = 0
    assert other is got
    assert torch.equal(got.value, expected)
    assert got.value.note == "mine"


@both
def test_a_real_tensor_takes_it(saved):
    real = torch.zeros(2, 4)
    got = saved()
    real[:] = got
    real += got
    real.copy_(got + real)
    assert torch.equal(real, 3 * x())
    assert torch.equal(torch.utils.data.TensorDataset(got)[1][0], x()[1])


def test_gradients_flow_through_it():
    leaf = x().requires_grad_()
    with model.trace(leaf):
        got = (model.output * 2).save()
    got.sum().backward()
    assert torch.equal(leaf.grad, torch.full((2, 4), 2.0))


def unsaved():
    with model.trace(x()):
        value = model.output * 2
    return value


USES = {
    "value": lambda v: v.value,
    "format": lambda v: f"{v}",
    "operator": lambda v: v + 1,
    "reflected": lambda v: 1 - v,
    "augmented": lambda v: v.__iadd__(1),
    "real on the left": lambda v: x() + v,
    "negative": lambda v: -v,
    "comparison": lambda v: v == 1,
    "index": lambda v: v[0],
    "as an index": lambda v: x()[v],
    "write": lambda v: v.__setitem__(0, 1),
    "attribute": lambda v: v.shape,
    "attribute write": lambda v: setattr(v, "note", 1),
    "method": lambda v: v.sum(),
    "call": lambda v: v(),
    "function": torch.relu,
    "list": lambda v: torch.cat([v, v]),
    "len": len,
    "iteration": list,
    "truth": bool,
    "number": int,
    "contains": lambda v: 1 in v,
    "array": np.asarray,
    "numpy function": np.exp,
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_was_not_saved_says_so(use):
    value = unsaved()
    with pytest.raises(
        ValueError, match=r"Accessing value before it's been set\..*test_settled.py:\d+ `value = model.output \* 2`: it was not saved"
    ) as caught:
        use(value)
    assert isinstance(caught.value, nnsight.UnsetValueError)
    assert type(caught.value).__name__ == "UnsetValueError"
    assert users_line(caught.value)[0] in ("test_settled.py", "copy.py")


def test_what_was_not_reached_says_why():
    with pytest.raises(ZeroDivisionError):
        with model.trace(x()):
            value = model.output.save()
            1 / 0
    with pytest.raises(
        nnsight.UnsetValueError, match=r"`value = model.output.save\(\)`: its trace was given up \(ZeroDivisionError in the block\)"
    ):
        value.value


def test_the_trace_has_not_run_yet():
    with pytest.raises(nnsight.UnsetValueError, match="the trace it belongs to has not run yet"):
        with model.trace(x()):
            model.output.save().value


def test_saving_after_the_trace_is_refused():
    with pytest.raises(nnsight.RecordError, match=r"\.save\(\) belongs inside its block"):
        unsaved().save()


@pytest.mark.parametrize("keep", [lambda v: v.save(), nnsight.save, lambda v: nnsight.save(v.save()), lambda v: v.save().save()])
def test_ways_to_save(keep):
    with model.trace(x()):
        got = keep(model.output)
    assert torch.equal(nnsight.value(got), x())


def test_saving_several_at_once():
    with model.trace(x()):
        a, b = nnsight.save((model.output, model.output[0]))
        number = nnsight.save(3)
    assert torch.equal(a, x())
    assert torch.equal(b.value, x()[0])
    assert number == 3


@pytest.mark.parametrize("keep", [lambda v: nnsight.save({"a": v})["a"], lambda v: nnsight.save([[v]])[0][0]])
def test_saving_what_holds_values_deeper(keep):
    with model.trace(x()):
        got = keep(model.output)
    assert torch.equal(got, x())
