"""Below its block a saved name is its value: of the plain type or one derived from it, and the very object that the model computed."""

from __future__ import annotations

import copy
import io
import json
import pickle
import statistics
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2.0, -3.0, 4.0], [-2.0, 0.0, 5.0, 1.0]])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


@pytest.fixture(scope="module")
def model(net):
    return nnsight.NNsight(net)


@pytest.fixture
def frozen(net):
    return nnsight.NNsight(copy.deepcopy(net).requires_grad_(False))


def saved(model):
    with model.trace(X):
        tensor = model[0].output.save()
        number = model[0].output.sum().item().save()
        whole = model[0].output.argmax().item().save()
        listed = model[0].output[0].tolist().save()
    return tensor, number, whole, listed


USES = {
    "parameter": lambda t, f, i, ls: nn.Parameter(t).detach().tolist(),
    "embedding": lambda t, f, i, ls: nn.Embedding.from_pretrained(t).weight.tolist(),
    "parameter list": lambda t, f, i, ls: nn.ParameterList([t])[0].tolist(),
    "optimizer": lambda t, f, i, ls: torch.optim.SGD([nn.Parameter(t)], 0.1).param_groups[0]["lr"],
    "tensor of numbers": lambda t, f, i, ls: torch.tensor([f, f, i, *ls]).tolist(),
    "tensor of tensors": lambda t, f, i, ls: torch.tensor([t.sum(), t.mean()]).tolist(),
    "tensor of a list": lambda t, f, i, ls: torch.tensor(ls).tolist(),
    "sizes": lambda t, f, i, ls: torch.zeros(i, 2).shape,
    "full": lambda t, f, i, ls: torch.full((2,), f).tolist(),
    "vmap": lambda t, f, i, ls: torch.vmap(lambda row: row * 2)(t).tolist(),
    "vmap over a list": lambda t, f, i, ls: torch.vmap(lambda rows: rows[0] * 2)([t]).tolist(),
    "grad": lambda t, f, i, ls: torch.func.grad(lambda v: (v**2).sum())(t).tolist(),
    "collate": lambda t, f, i, ls: [default_collate([one, one])[0].tolist() for one in (t, [f], ls)],
    "loader": lambda t, f, i, ls: [batch.tolist() for batch in DataLoader([t, t], batch_size=2)],
    "json": lambda t, f, i, ls: json.dumps({"f": f, "i": i, "l": ls}),
    "statistics": lambda t, f, i, ls: statistics.mean([f, i]),
    "numpy": lambda t, f, i, ls: (np.array([f, f]).dtype, np.array([i]).dtype, np.asarray(t).tolist(), np.float32(f)),
    "format": lambda t, f, i, ls: f"{f:.3f} {i:>4} {t.sum():.3f} {t} {ls} {i!r}",
    "percent": lambda t, f, i, ls: "%.2f %d" % (f, i),  # noqa: UP031
    "repr": lambda t, f, i, ls: repr([t, f, i, ls]),
    "index": lambda t, f, i, ls: ([*range(9)][i], {i: 1}[i], torch.arange(9)[i].item(), ls[0]),
    "count": lambda t, f, i, ls: Counter([i, i, f]) == {i: 2, f: 1},
    "lists": lambda t, f, i, ls: ([*ls, *ls], ls + ls, ls == [*ls], sorted(ls), ls[1:], ls * 2),
    "strict copies": lambda t, f, i, ls: (f.is_integer(), i.bit_length(), round(f, 2), int(f), float(i), divmod(i, 2), -f, abs(f)),
    "copies": lambda t, f, i, ls: repr((copy.copy(t), copy.copy(f), copy.copy(i), copy.copy(ls), ls.copy())),
    "truth": lambda t, f, i, ls: (bool(f), bool(i), bool(ls), f > 0, f == f, hash(f) == hash(float(f))),
    "linear": lambda t, f, i, ls: nn.functional.linear(torch.ones(1, 4), t).tolist(),
    "unbound method": lambda t, f, i, ls: torch.Tensor.sum(t).item(),
    "state": lambda t, f, i, ls: str(nn.Linear(4, 2, bias=False).load_state_dict({"weight": t})),
    "copy_": lambda t, f, i, ls: torch.zeros(2, 4).copy_(t).tolist(),
    "stack": lambda t, f, i, ls: (torch.stack([t, t]).tolist(), torch.cat(tuple(t)).tolist(), torch.atleast_1d([t])[0].tolist()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_works_on_plain_values_gives_the_same(frozen, use):
    kept = saved(frozen)
    plain = frozen._module[0](X)
    assert use(*kept) == use(plain, plain.sum().item(), int(plain.argmax()), plain[0].tolist())


def test_their_classes(frozen):
    tensor, number, whole, listed = saved(frozen)
    for value, kind in ((tensor, torch.Tensor), (number, float), (whole, int), (listed, list)):
        assert isinstance(value, kind)
        assert kind in type(value).__mro__
        assert type(nnsight.value(value)) is kind
        assert type(pickle.loads(pickle.dumps(value))) is kind
        assert type(copy.copy(value)) is kind
        assert type(copy.deepcopy(value)) is kind
        assert type(copy.deepcopy({"a": [value]})["a"][0]) is kind
    assert tensor.value is tensor
    assert listed.value is listed
    assert (number.value, whole.value) == (number, whole)
    assert type(number.value) is float


def test_other_values_come_as_they_are(frozen):
    with frozen.trace(X):
        flag, nothing = nnsight.apply(lambda v: True, frozen[0].output).save(), nnsight.apply(lambda v: None, frozen[0].output).save()
        shape, dtype, device = frozen[0].output.shape.save(), frozen[0].output.dtype.save(), frozen[0].output.device.save()
        array, text = frozen[0].output.numpy().save(), nnsight.apply(lambda v: "abc", frozen[0].output).save()
        pair, mapping = nnsight.apply(lambda v: (v, 1), frozen[0].output).save(), nnsight.apply(lambda v: {"a": v}, frozen[0].output).save()
    assert flag is True
    assert nothing is None
    assert (type(shape), type(dtype), type(device), type(array)) == (torch.Size, torch.dtype, torch.device, np.ndarray)
    assert (text, text.value, pair[1], list(mapping)) == ("abc", "abc", 1, ["a"])
    assert isinstance(pair, tuple)
    assert isinstance(mapping, dict)
    assert torch.equal(pair.value[0], mapping.value["a"])


def matched(value):
    match value:
        case float():
            return "float"
        case [_, *_]:
            return "list"
        case torch.Tensor():
            return "tensor"
    return "nothing"


def test_match(frozen):
    tensor, number, _, listed = saved(frozen)
    assert (matched(tensor), matched(number), matched(listed)) == ("tensor", "float", "list")


@pytest.mark.slow
def test_compile_takes_them(frozen):
    tensor, number, whole, listed = saved(frozen)
    compiled = torch.compile(lambda t, f, i, ls: t.detach() * f + i + ls[0], backend="eager", fullgraph=True)
    assert torch.equal(compiled(tensor, number, whole, listed), tensor * number + whole + listed[0])
    torch._dynamo.reset()


def test_files_hold_plain_types(frozen, tmp_path):
    kept = saved(frozen)
    torch.save(list(kept), tmp_path / "kept.pt")
    assert [type(value) for value in torch.load(tmp_path / "kept.pt", weights_only=True)] == [torch.Tensor, float, int, list]
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"t": kept[0]}, tmp_path / "kept.safetensors")
    assert torch.equal(safetensors.load_file(tmp_path / "kept.safetensors")["t"], kept[0])


@pytest.mark.slow
def test_another_process_reads_them_without_this_library(frozen, tmp_path):
    kept = saved(frozen)
    with open(tmp_path / "kept.pickle", "wb") as file:
        pickle.dump({"a": kept, "b": nn.Parameter(kept[0])}, file)
    program = (
        "import sys, pickle; sys.modules['nnsight_graph'] = None\n"
        f"kept = pickle.load(open({str(tmp_path / 'kept.pickle')!r}, 'rb'))\n"
        "print([type(value).__name__ for value in (*kept['a'], kept['b'])])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['Tensor', 'float', 'int', 'list', 'Parameter']"


def test_a_parameter_made_of_one_is_a_parameter_in_earnest(frozen):
    tensor, *_ = saved(frozen)
    made = nn.Parameter(tensor)
    assert type(made) is nn.Parameter
    assert made.data_ptr() == tensor.data_ptr()
    module = nn.Module()
    module.weight, module.held = made, nn.Buffer(tensor) if hasattr(nn, "Buffer") else None
    other = copy.deepcopy(module)
    assert type(other.weight) is nn.Parameter
    assert torch.equal(other.weight, made)
    assert other.weight is not made
    (made * 2).sum().backward()
    assert torch.equal(made.grad, torch.full((2, 4), 2.0))
    assert tensor.grad is None


# ------------------------------------------------------------------ identity and gradients


class Holds(nn.Module):
    """Keeps of its tensors what a model may keep."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.same, self.again = nn.Linear(4, 4), nn.Identity(), nn.Identity()
        self.register_buffer("offset", torch.ones(4))
        self.last: Any = None
        self.all: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.linear(x)
        self.all.append(self.again(self.last * 2))
        return self.last + self.same(self.offset) + self.all[-1]


def test_what_the_model_or_somebody_else_has_stays_as_it_is():
    module = Holds()
    model, given, vector = nnsight.NNsight(module), X.clone(), torch.ones(4)
    with model.trace(given):
        first, weight, buffer = model.input.save(), model.linear.weight.save(), model.offset.save()
        passed, last, listed = model.same.output.save(), model.linear.output.save(), model.again.output.save()
        captured = nnsight.apply(lambda v: vector, model.output).save()
        out = model.output.save()
    assert first is given
    assert weight is module.linear.weight
    assert buffer is passed is module.offset
    assert last is module.last
    assert listed is module.all[0]
    assert captured is vector
    kinds = {type(value) for value in (first, buffer, captured)}
    assert (kinds, type(weight)) == ({torch.Tensor}, nn.Parameter)
    assert all(value.value is value for value in (out, last, listed))  # which the run has made, whoever keeps them


def test_an_input_that_nobody_else_has(model):
    with model.trace(X.clone()):
        first = model.input.save()
    assert first.value is first


def test_it_is_the_object_that_the_model_computed(net):
    seen: list[torch.Tensor] = []
    model = nnsight.NNsight(net)
    with model.trace(X):
        hidden = model[0].output.save()
        same = model[1].input.save()
        view = model[0].output[0].save()
        other = hidden
    assert hidden is same is other
    assert view._base is hidden
    assert not seen


def test_gradients_are_there_as_with_a_hook(net, model):
    with model.trace(X):
        hidden = model[0].output.save()
        hidden.retain_grad()
        loss = model.output.sum().save()
    assert hidden.grad is None
    loss.backward()
    expected = net[0](X).detach().requires_grad_()
    net[2](net[1](expected)).sum().backward()
    assert torch.equal(hidden.grad, expected.grad)
    assert (hidden.requires_grad, hidden.is_leaf, loss.is_leaf) == (True, False, False)
    assert hidden.grad_fn is not None
    with pytest.raises(RuntimeError, match="created explicitly by the user"):
        copy.deepcopy(hidden)


def test_retaining_below_the_block(net, model):
    with model.trace(X):
        hidden = model[0].output.save()
        loss = model.output.sum().save()
    hidden.retain_grad()
    loss.backward()
    assert hidden.grad.shape == (2, 4)


def test_a_leaf_is_copied_with_its_gradient():
    model = nnsight.NNsight(nn.Identity())
    with model.trace(X):
        leaf = model.output.clone().requires_grad_().save()
    (leaf * 3).sum().backward()
    leaf.note = [1]
    made = copy.deepcopy({"a": leaf, "again": leaf, "view": leaf.detach()})
    assert made["a"] is made["again"]
    assert (type(made["a"]), made["a"].requires_grad, made["a"].is_leaf, made["a"].note) == (torch.Tensor, True, True, [1])
    assert made["a"].note is not leaf.note
    assert torch.equal(made["a"].grad, torch.full((2, 4), 3.0))
    assert made["view"].data_ptr() == made["a"].data_ptr() != leaf.data_ptr()
    buffer = io.BytesIO()
    torch.save(leaf, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).note == [1]


def test_edits_in_place_keep_the_object(frozen):
    tensor, _, _, listed = saved(frozen)
    same, list_ = tensor, listed
    tensor += 1
    tensor[0] = 0
    listed += [9]
    assert tensor is same
    assert tensor.value is same
    assert list_ is listed
    assert listed.value[-1] == 9


def test_a_tensor_that_is_saved_twice_and_in_a_container_is_one(frozen):
    with frozen.trace(X):
        hidden, again = frozen[0].output.save(), frozen[1].input.save()
        pair = nnsight.apply(lambda v: (v, [v]), frozen[0].output).save()
        lists = nnsight.list().save()
        lists.append(frozen[0].output)
        other = lists
    assert hidden is again is pair[0] is pair[1][0] is lists[0]
    assert other is lists
    assert hidden.value is hidden
    assert lists.value is lists
