"""The op table against what torch really does."""

from __future__ import annotations

import operator
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F

from nnsight_graph.ops.effect import OPAQUE, Effect, parse, shared, written
from nnsight_graph.ops.table import effect_of, function_of, is_random, name_of, names

ROOT = Path(__file__).parents[2]
X, Y = torch.arange(1.0, 7.0).reshape(2, 3), torch.arange(1.0, 7.0).reshape(3, 2)
INDEX, PLACES, MASK = torch.tensor([1, 0]), torch.zeros(2, 3, dtype=torch.long), torch.arange(6).reshape(2, 3) > 2

VIEWS: list[tuple[Any, ...]] = [
    (".t",), (".detach",), (".squeeze",), (".view_as", X), (".expand_as", X), (".unbind",), (".diagonal",), (".unsqueeze", 0),
    (".select", 0, 1), (".narrow", 1, 0, 2), (".transpose", 0, 1), (".permute", 1, 0), (".chunk", 2, 1), (".split", 1),
    (".tensor_split", 3, 1), (".unfold", 1, 2, 1), (".swapaxes", 0, 1), (".movedim", 0, 1), (".view", 3, 2), (".expand", 2, 3),
    (".unflatten", 1, (3, 1)), (".hsplit", 3), (".adjoint",), (".as_strided", (2,), (1,)), (".__iter__",), ("torch.t",),
    ("torch.squeeze",), ("torch.unsqueeze", 0), ("torch.transpose", 0, 1), ("torch.unbind",), ("torch.chunk", 2), ("torch.split", 1),
    ("torch.diagonal",), ("torch.narrow", 1, 0, 2), ("torch.select", 0, 1), ("torch.broadcast_to", (2, 3)),
    ("torch.broadcast_tensors", X), ("torch.linalg.diagonal",), ("torch.unsafe_split", 1), ("@T",), ("@mT",), ("@H",), ("@mH",),
    ("@data",),
]  # fmt: skip
PURE: list[tuple[Any, ...]] = [
    ("add", 1), ("sub", X), ("mul", 2), ("truediv", X), ("matmul", Y), ("neg",), ("abs",), ("eq", X), ("lt", 2), ("pow", 2),
    ("floordiv", 2), ("mod", 2), ("contains", 1), ("imatmul", Y), (".clone",), (".add", 1), (".sum",), (".mean",), (".softmax", -1),
    (".repeat", 1, 1), (".tile", 1, 1), (".index_select", 0, INDEX), (".gather", 1, PLACES), (".masked_fill", MASK, 0), (".tolist",),
    (".cumsum", 0), (".sort",), (".topk", 2), (".roll", 1), (".flip", 0), (".new_zeros", 2), (".where", MASK, X), (".__rsub__", 1),
    ("torch.sum",), ("torch.relu",), ("torch.sigmoid",), ("torch.zeros_like",), ("torch.flip", (0,)), ("torch.rot90", 0),
    ("torch.tril",), ("torch.linalg.norm",), ("torch.fft.fft",), ("torch.special.expit",), ("torch.nn.functional.relu",),
    ("torch.nn.functional.softmax", -1), ("torch.nn.functional.gelu",), ("torch.nn.functional.linear", X),
    ("torch.nn.functional.layer_norm", (3,)), ("torch.nn.functional.silu",),
]  # fmt: skip
MUTATES: list[tuple[Any, ...]] = [
    ("iadd", 1), ("isub", X), ("imul", 2), ("itruediv", 2), ("ifloordiv", 2), ("imod", 2), ("ipow", 2), ("setitem", 0, 5.0),
    (".add_", 1), (".mul_", X), (".zero_",), (".fill_", 3), (".copy_", X), (".clamp_", 0, 1), (".masked_fill_", MASK, 0),
    (".index_fill_", 0, INDEX, 2), (".scatter_", 1, PLACES, X), (".relu_",), (".exp_",), (".normal_",), (".uniform_",), (".tril_",),
    ("torch.relu_",), ("torch.zero_",), ("torch.index_put_", (INDEX,), X), ("torch.nn.functional.relu_",),
    ("torch.nn.functional.leaky_relu_",),
]  # fmt: skip
# Arguments with which the result shares storage, and with which it does not.
MAYBE: list[tuple[str, Any, Any, Any]] = [
    (".reshape", X, (3, 2), None), (".contiguous", X, (), None), (".float", X, (), None), (".double", X, None, ()),
    (".to", X, (torch.float32,), (torch.int,)), (".flatten", X, (), None), (".flatten", X.t(), None, ()), (".ravel", X, (), None),
    (".cpu", X, (), None), (".type_as", X, (X,), (MASK,)), (".sum_to_size", X, (2, 3), (2, 1)), (".conj", X, (), None),
    (".numpy", X, None, None), ("getitem", X, (0,), (INDEX,)), ("pos", X, (), None), ("torch.atleast_1d", X, (), None),
    ("torch.cartesian_prod", X[0], (), (X[1],)), ("torch.real", X, (), None), ("torch.positive", X, (), None),
    ("torch.nn.functional.dropout", X, (0.5, False), (0.5, True)), ("torch.asarray", X, (), None), ("@real", X, (), None),
]  # fmt: skip


def storages(value: Any) -> set[int]:
    """The storages of a tensor, or of a sequence of tensors."""
    if isinstance(value, torch.Tensor):
        return {value.untyped_storage().data_ptr()}
    return set().union(*map(storages, value)) if hasattr(value, "__iter__") else set()


def run(name: str, *args: Any) -> tuple[bool, bool]:
    """Whether the result shares storage with argument 0, and whether argument 0 was written into."""
    first = X.clone()
    version = first._version
    result = function_of(name)(first, *args)
    return bool(storages(result) & storages(first)), first._version != version


@pytest.mark.parametrize("case", VIEWS, ids=str)
def test_views_share_storage(case: tuple[Any, ...]) -> None:
    effect = effect_of(case[0])
    assert (effect.views, effect.mutates) == ((0,), ())
    assert run(*case) == (True, False)


@pytest.mark.parametrize("case", PURE, ids=str)
def test_pure_operations_share_nothing(case: tuple[Any, ...]) -> None:
    effect = effect_of(case[0])
    assert (effect.views, effect.maybe, effect.mutates) == ((), (), ())
    assert run(*case) == (False, False)


@pytest.mark.parametrize("case", MUTATES, ids=str)
def test_mutators_write_into_their_first_argument(case: tuple[Any, ...]) -> None:
    effect = effect_of(case[0])
    assert effect.mutates == effect.views == (0,)
    assert run(*case)[1]


@pytest.mark.parametrize("case", MAYBE, ids=str)
def test_what_shares_only_sometimes_is_maybe(case: tuple[str, Any, Any, Any]) -> None:
    name, first, sharing, fresh = case
    assert effect_of(name).maybe == (0,)
    if sharing is not None:
        assert storages(function_of(name)(first, *sharing)) & storages(first)
    if fresh is not None:
        assert not storages(function_of(name)(first, *fresh)) & storages(first)


def resolves(name: str) -> bool:
    """Another torch than the one that the table was written with may lack a few."""
    try:
        return callable(function_of(name))
    except LookupError:
        return False


def test_nearly_every_row_resolves() -> None:
    assert len(names()) > 1500
    assert len([name for name in names() if not resolves(name)]) < 20


def test_a_function_that_this_torch_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "hamming_window")
    with pytest.raises(LookupError, match=r"torch \S+ has no torch\.hamming_window"):
        function_of.__wrapped__("torch.hamming_window")


def test_every_row_that_resolves_comes_back() -> None:
    for name in names():
        if not resolves(name):
            continue
        function = function_of(name)
        known = name_of(function)
        assert known is not None
        assert function_of(known) == function, name
        assert known == name or effect_of(known) == effect_of(name), name


def test_members_of_tensor_go_by_their_names() -> None:
    for name in names():
        member = getattr(torch.Tensor, name[1:], None) if name[0] in ".@" else None
        if member is not None:
            known = name_of(member if name[0] == "." else member.__get__)
            assert known == name or (known and getattr(torch.Tensor, known[1:], member) is member), name


class Announced(torch.Tensor):
    """Notes the name of every function that torch hands over."""

    names: ClassVar[list[str | None]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.names.append(name_of(func))
        return None


@pytest.mark.parametrize(
    ("act", "name"),
    [
        (lambda x: x + 1, ".add"), (lambda x: x.add(1), ".add"), (lambda x: 1 - x, ".__rsub__"), (lambda x: x[0], "getitem"),
        (lambda x: -x, ".neg"), (lambda x: operator.setitem(x, 0, 1), "setitem"), (lambda x: x.shape, "@shape"), (lambda x: x.T, "@T"),
        (lambda x: x.sum(), ".sum"), (lambda x: torch.sum(x), "torch.sum"), (lambda x: F.relu(x), "torch.nn.functional.relu"),
        (lambda x: F.linear(x, x), "torch.nn.functional.linear"), (lambda x: F.conv2d(x, x), "torch.conv2d"),
        (lambda x: torch.linalg.norm(x), "torch.linalg.norm"), (lambda x: F.max_pool2d(x, 2), "torch.nn.functional.max_pool2d"),
        (lambda x: torch.einsum("i->i", x), "torch.einsum"), (lambda x: torch.zeros_like(x), "torch.zeros_like"),
        (lambda x: x.split(1), ".split"), (lambda x: torch.Tensor.__itruediv__(x, 2), ".div_"), (lambda x: x.normal_(), ".normal_"),
        (lambda x: len(x), ".__len__"),
    ],
)  # fmt: skip
def test_names_of_what_torch_announces(act: Any, name: str) -> None:
    x = torch.ones(2).as_subclass(Announced)
    Announced.names.clear()
    try:
        act(x)
    except TypeError:  # len() of None
        pass
    assert Announced.names[:1] == [name]


def test_names_of_functions_of_tensor() -> None:
    assert [name_of(getattr(torch.Tensor, f"__{n}__")) for n in ("add", "iadd", "and", "mod", "rsub", "getitem", "setitem")] == [
        "add", "iadd", "and_", "mod", ".__rsub__", "getitem", "setitem",
    ]  # fmt: skip
    assert [name_of(f) for f in (operator.add, divmod, torch.Tensor.grad.__get__, print, [], torch.load, torch.nn.Linear)] == [
        "add", "divmod", "@grad", None, None, None, None,
    ]  # fmt: skip


def test_methods_are_called_by_name_on_any_object() -> None:
    assert function_of(".append")([1], 2) is None
    assert function_of(".sum")(X, dim=0).tolist() == [5.0, 7.0, 9.0]
    assert function_of("@shape")(X) == (2, 3)
    assert function_of(".upper")("a") == "A"
    assert function_of(".frobnicate") is function_of(".frobnicate")


@pytest.mark.parametrize("name", ["exec", "torch.load", "torch.no_such", "os.system", "@__globals__", ".__reduce__", "@a.b", "", "."])
def test_what_is_not_in_the_table_does_not_resolve(name: str) -> None:
    with pytest.raises(LookupError, match="not in the table"):
        function_of(name)


def test_effects_of_names_that_are_not_in_the_table() -> None:
    assert effect_of(".frobnicate_").mutates == (0,)
    assert effect_of(".frobnicate") is effect_of("mine") is OPAQUE
    assert effect_of("@logits") == Effect(maybe=(0,))


def test_random_functions_are_flagged() -> None:
    drawing = [torch.rand, torch.randn, torch.randperm, torch.normal, torch.bernoulli, torch.Tensor.uniform_, F.dropout, F.gumbel_softmax]
    assert all(map(is_random, drawing))
    assert all(effect_of(name).random for name in map(name_of, drawing) if name)
    assert not any(map(is_random, [torch.zeros, torch.add, F.relu, print, []]))


def test_written_and_shared_arguments_of_a_call() -> None:
    relu, norm = effect_of("torch.nn.functional.relu"), effect_of("torch.nn.functional.batch_norm")
    assert [written(relu, ["x"], {}), written(relu, ["x", True], {})] == [[], ["x"]]
    assert shared(relu, [], {"input": "x", "inplace": True}) == ["x"]
    assert written(norm, ["x", "mean", "var"], {"training": True}) == written(norm, ["x", "mean"], {"running_var": "var", "training": 1})
    assert written(norm, ["x", "mean", "var"], {}) == written(norm, ["x", None, None], {"training": True}) == []
    assert written(effect_of("torch.add"), ["x", "y"], {"out": "z"}) == shared(effect_of("torch.add"), ["x", "y"], {"out": "z"}) == ["z"]
    assert shared(effect_of("torch.meshgrid"), ["x", "y"], {}) == ["x", "y"]
    with pytest.raises(ValueError, match="is no effect"):
        parse("mutate:0")


def test_inplace_switches_stand_where_torch_has_them() -> None:
    import inspect

    for name in names():
        if (switch := effect_of(name).switch) and switch[0] == "inplace":
            assert list(inspect.signature(function_of(name)).parameters)[switch[1]] == "inplace", name


@pytest.mark.slow
def test_no_row_is_contradicted_by_torchs_own_samples() -> None:
    # In a process of its own: torch's testing modules change torch as they are imported.
    command = [sys.executable, str(ROOT / "tools" / "op_table.py"), "--check", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none contradicted" in done.stdout
