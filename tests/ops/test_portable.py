"""The table of operations that may stand in files of strangers: complete, closed, and what it says is so."""

from __future__ import annotations

import inspect
import time
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nnsight_graph.ops import portable
from nnsight_graph.ops.evaluate import literal
from nnsight_graph.ops.portable import (
    is_portable,
    is_portable_literal,
    keywords_of,
    may_allocate,
    most_arguments,
    only_broadcasts,
    version,
    why_not,
)
from nnsight_graph.ops.table import function_of, names
from tools import portable_table
from tools.portable_rules import ALLOW, DENY

pytestmark = pytest.mark.slow

ROWS = portable._rows()
ALLOWED = [name for name in ROWS if is_portable(name)]

HOW = "new: decide on each; `tools/portable_table.py --accept NAME ...` allows, a rule in tools/portable_rules.py denies: "


def test_every_public_name_of_torch_has_a_row() -> None:
    new = sorted(portable_table.public().keys() - ROWS.keys())
    assert not new, HOW + " ".join(new)


def test_the_walk_over_torch_sees_all_its_namespaces() -> None:
    spaces = [torch, F, torch.linalg, torch.fft, torch.special]
    count = sum(callable(getattr(space, name)) for space in spaces for name in dir(space) if name[0] != "_")
    members = [name for name in dir(torch.Tensor) if name[0] != "_"]
    assert len(portable_table.public()) == count + len(members)
    assert {"torch.sum", "torch.linalg.svd", "torch.fft.rfft", "torch.special.erf", ".sum", "@shape"} <= portable_table.public().keys()


def test_every_row_of_the_op_table_has_one_here() -> None:
    assert not names() - ROWS.keys(), HOW + " ".join(names() - ROWS.keys())


def test_rows_are_sorted_and_of_one_form() -> None:
    assert list(ROWS) == sorted(ROWS)
    for name, (verdict, words, notes) in ROWS.items():
        assert verdict in ("allow", "deny"), name
        assert name == name.strip()
        if verdict == "deny":
            assert (words in portable._REASONS, notes) == (True, ""), name
        else:
            assert words.split() == sorted(set(words.split())), name
            assert all(note in ("allocates", "broadcasts", "traps") or note.startswith("most:") for note in notes.split()), name


def test_every_reason_of_a_rule_has_a_sentence() -> None:
    assert set(DENY) | {"type"} == set(portable._REASONS)


def test_what_is_allowed_resolves() -> None:
    lacking = []
    for name in ALLOWED:
        try:
            assert callable(function_of(name))
        except LookupError:
            lacking.append(name)
    assert len(lacking) < 20, lacking  # another torch than the table's


def test_what_is_allowed_is_in_the_op_table_or_was_written_down() -> None:
    assert set(ALLOWED) <= names() | set(ALLOW)


# --------------------------------------------------------------------------------------------- keywords


def test_keywords_are_those_that_torch_takes() -> None:
    second = {"axis", "keepdims"}
    for name in ALLOWED:
        if name[:6] != "torch." or not hasattr(portable_table.SPACES[name.rpartition(".")[0]], name.rpartition(".")[2]):
            continue
        told = list(portable_table.signatures(name))
        if told and name not in portable_table.by_hand():
            taken = frozenset().union(*(one.keywords for one in told))
            assert keywords_of(name) <= taken | second, name


def test_keywords_are_parameters_where_python_has_a_signature() -> None:
    checked = 0
    for name in ALLOWED:
        function = getattr(torch.Tensor, name[1:], None) if name[0] == "." else function_of(name) if "torch." in name else None
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) or name in portable_table.by_hand():
            continue
        keyword = {p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        assert keywords_of(name) <= keyword, name
        checked += 1
    assert checked > 100


X = torch.arange(1.0, 7.0).reshape(2, 3)
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    (".to", (X,), {"device": "cpu", "dtype": torch.float64, "copy": True, "memory_format": torch.contiguous_format}),
    (".type", (X,), {"dtype": torch.float64}),
    (".new_tensor", (X, [1.0]), {"dtype": torch.float64, "device": "cpu", "requires_grad": True}),
    (".new_zeros", (X,), {"size": (2,), "dtype": torch.int64, "device": "cpu"}),
    (".requires_grad_", (X.clone(),), {"requires_grad": True}), (".sum", (X,), {"dim": 0, "keepdim": True, "dtype": torch.float64}),
    (".sum", (X,), {"axis": 0, "keepdims": True}), (".uniform_", (X.clone(),), {"from": 0.0, "to": 1.0}),
    (".repeat_interleave", (X,), {"repeats": 2, "dim": 0}), (".cpu", (X,), {"memory_format": torch.preserve_format}),
    (".sort", (X,), {"dim": 0, "descending": True, "stable": True}), (".sort", ([2, 1],), {"reverse": True}),
    (".split", (X,), {"split_size": 1, "dim": 0}), (".split", ("a b",), {"sep": " ", "maxsplit": 1}),
    (".encode", ("a",), {"encoding": "utf-8", "errors": "strict"}), (".clone", (X,), {"memory_format": torch.contiguous_format}),
    ("torch.tensor", ([1.0],), {"dtype": torch.float64, "device": "cpu", "requires_grad": True}),
    ("torch.as_tensor", ([1.0],), {"dtype": None}),
    ("torch.zeros", (), {"size": (2,), "dtype": torch.float32, "device": "cpu", "requires_grad": False}),
    ("torch.unique", (), {"input": X, "sorted": True, "return_inverse": True, "return_counts": True, "dim": None}),
    ("torch.unique_consecutive", (), {"input": X, "return_inverse": True, "return_counts": True, "dim": 0}),
    ("torch.cat", (), {"tensors": [X, X], "axis": 1}), ("torch.add", (), {"input": X, "other": X, "alpha": 2}),
    ("torch.lu", (), {"A": torch.eye(2), "pivot": True, "get_infos": True}), ("torch.meshgrid", (X[0], X[0]), {"indexing": "ij"}),
    ("torch.can_cast", (), {"from_": torch.int, "to": torch.float}),
    ("torch.promote_types", (), {"type1": torch.int, "type2": torch.float}), ("torch.result_type", (), {"tensor": X, "other": X}),
    ("torch.nn.functional.logsigmoid", (), {"input": X}),
    ("torch.nn.functional.softmax", (), {"input": X, "dim": 0, "dtype": torch.float64}), ("torch.numel", (), {"input": X}),
    ("torch.linalg.norm", (), {"input": X, "ord": 2, "dim": 1, "keepdim": True}),
    ("torch.fft.rfft", (X,), {"n": 8, "dim": 0, "norm": "ortho"}),
    ("torch.nn.functional.scaled_dot_product_attention", (), {"query": X, "key": X, "value": X, "is_causal": True}),
    ("torch.nn.functional.max_pool1d", (X,), {"kernel_size": 2, "return_indices": True}), ("sorted", ([2, 1],), {"reverse": True}),
    ("min", ([],), {"default": 0}), ("sum", ([1],), {"start": 1}), ("enumerate", ([1],), {"start": 1}),
    ("zip", ([1], [2]), {"strict": True}), ("round", (1.25,), {"ndigits": 1}), ("torch.einsum", ("ij->j", X), {}),
    ("torch.cov", (X,), {"correction": 0}),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_calls_of_everyday_are_allowed_and_run(call: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
    name, args, kwargs = call
    most = most_arguments(name)
    assert kwargs.keys() <= keywords_of(name)
    assert most is None or len(args) <= most
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are deprecated
        function_of(name)(*args, **kwargs)


def test_keywords_that_no_file_may_give() -> None:
    closed = {"out", "layout", "pin_memory", "non_blocking", "generator", "sparse", "sparse_grad", "unsafe", "names", "distance_function"}
    for name in ALLOWED:
        assert not keywords_of(name) & closed, name
        assert not any(word.startswith("_") for word in keywords_of(name)), name
    assert "key" not in keywords_of("sorted") | keywords_of("max") | keywords_of(".sort")
    assert "output_size" not in keywords_of("torch.repeat_interleave") | keywords_of(".repeat_interleave")


def test_no_parameter_takes_a_function() -> None:
    for name in ALLOWED:
        function = getattr(torch.Tensor, name[1:], None) if name[0] == "." else function_of(name) if name[:6] == "torch." else None
        if inspect.isfunction(function):
            takers = {p.name for p in inspect.signature(function).parameters.values() if "Callable" in str(p.annotation)}
            assert not takers & keywords_of(name), name


def test_closed_parameters_cannot_come_by_position_either() -> None:
    assert most_arguments("torch.nn.functional.embedding") == list(inspect.signature(F.embedding).parameters).index("sparse")
    assert most_arguments("torch.lobpcg") is not None
    samples = list(inspect.signature(F.fractional_max_pool2d_with_indices).parameters).index("_random_samples")
    assert most_arguments("torch.nn.functional.fractional_max_pool2d") == samples


# --------------------------------------------------------------------------------------------- what is denied

CLASSES = {
    "files": "torch.load torch.save torch.from_file",
    "memory": """
 torch.as_strided .as_strided .as_strided_ torch.as_strided_scatter torch.frombuffer torch.from_dlpack torch.from_numpy torch.asarray
 .set_ .storage .untyped_storage .resize_ .resize_as_ .data_ptr .const_data_ptr .apply_ @data .pin_memory .is_pinned .share_memory_
 .record_stream torch.nn.functional.ctc_loss torch.ctc_loss torch.nn.functional.embedding_bag torch.segment_reduce
 torch.lu_unpack torch.linalg.eigvals
 torch.batch_norm_update_stats""",
    "uninitialized": "torch.empty torch.empty_like torch.empty_permuted .new_empty .new_empty_strided .new",
    "global-state": """
 torch.manual_seed torch.seed torch.set_default_dtype torch.set_default_device torch.set_num_threads torch.set_grad_enabled
 torch.use_deterministic_algorithms torch.set_printoptions torch.set_rng_state torch.get_rng_state torch.set_flush_denormal""",
    "callable": ".map_ .map2_ .register_hook .register_post_accumulate_grad_hook torch.compile torch.vmap torch.cond torch.while_loop",
    "autograd-internals": ".backward @grad @grad_fn",
    "sparse": ".to_sparse .to_sparse_csr torch.sparse_coo_tensor torch.sparse_csr_tensor .coalesce .to_dense",
    "quantized": ".dequantize torch.quantize_per_tensor torch.quantize_per_channel .int_repr torch.dequantize",
    "numpy": ".numpy .__array__ .astype",
    "format": ".format .format_map .__format__",
    "named-tensors": "@names @name .rename .refine_names",
    "removed": ".symeig @volatile torch.solve",
    "type": "torch.Tensor torch.dtype torch.Generator torch.FloatTensor",
}


@pytest.mark.parametrize("why", CLASSES)
def test_denied(why: str) -> None:
    for name in CLASSES[why].split():
        assert not is_portable(name), name
        assert ROWS[name][1] == why, name
        assert why_not(name).startswith(f"{name} may not stand in a graph file: {portable._REASONS[why]}")
        assert (keywords_of(name), most_arguments(name), may_allocate(name)) == (frozenset(), 0, True)


ATTACKS = """
 @__globals__ @__class__ @__dict__ @__code__ @__self__ @__func__ @__builtins__ .__class__ .__reduce__ .__reduce_ex__ .__getattribute__
 .__getattr__ .__setattr__ .__init__ .__subclasses__ .__setstate__ .__torch_function__ .__dlpack__ .__array_interface__
 .__cuda_array_interface__ .__setitem__ .__call__ .__enter__ @_base @_version @_typed_storage ._typed_storage .__import__ @__module__
 @shape.__class__ @shape.numel .sum.__globals__ .f_back @gi_frame @cr_frame @tb_frame @func_globals @base @ctypes .tofile .dump .dumps
 .tobytes .setflags .eval .train .load_state_dict .apply .forward .to_empty .system .popen .write .read .open .to_pickle .save
 .save_pretrained .from_pretrained .push_to_hub eval exec open compile getattr setattr vars type __import__ input print print_ id hash
 globals locals breakpoint memoryview object super call attrgetter methodcaller itemgetter torch.ops torch.ops.aten.add torch.hub.load
 torch.utils torch.jit.load torch._C torch._dynamo torch.classes torch.storage torch.func.vmap torch.nn.Module torch.autograd.grad
 torch.linalg.torch torch.fft.sys torch.serialization os.system passing.replaced passing.torch passing.dataclasses . @ ..sum @@shape
 .append\u200b TORCH.SUM""".split()


@pytest.mark.parametrize("name", [*ATTACKS, "", " ", "torch.sum ", "torch.sum\t", "# version"])
def test_attacks(name: str) -> None:
    assert not is_portable(name)
    assert "may not stand in a graph file" in why_not(name)
    assert not keywords_of(name)


def test_names_with_underscores_are_a_short_list() -> None:
    dunder = {name for name in ALLOWED if name[1:2] == "_" or "._" in name[1:]}
    assert dunder == {
        ".__bool__", ".__complex__", ".__contains__", ".__deepcopy__", ".__float__", ".__index__", ".__int__", ".__len__",
        ".__radd__", ".__rand__", ".__rdiv__", ".__rdivmod__", ".__reversed__", ".__rfloordiv__", ".__rlshift__", ".__rmatmul__",
        ".__rmod__", ".__rmul__", ".__ror__", ".__rpow__", ".__rrshift__", ".__rsub__", ".__rtruediv__", ".__rxor__",
    }  # fmt: skip


def test_attributes_that_are_allowed_only_tell() -> None:
    x = torch.zeros(2, 3, dtype=torch.complex64)
    for name in ALLOWED:
        if name[0] == "@" and not callable(getattr(torch.Tensor, name[1:], None)) and hasattr(torch.Tensor, name[1:]):
            assert not callable(getattr(x, name[1:])) or isinstance(getattr(x, name[1:]), torch.Tensor), name


def test_literals_are_dtypes_and_memory_formats() -> None:
    named = {name: value for name in dir(torch) if isinstance(value := getattr(torch, name), (torch.dtype, torch.memory_format))}
    allowed = {name for name in named if is_portable_literal(f"torch.{name}")}
    assert {named[name] for name in allowed} >= {torch.float32, torch.int64, torch.bool, torch.channels_last}
    assert not any(name.strip("_").startswith(("q", "bits")) for name in allowed)
    assert all(is_portable_literal(name) for name in ("None", "True", "...", "unbound", "item", "mutates:"))
    for name in ("torch.load", "torch.serialization", "torch.os", "torch.qint8", "torch.strided", "torch.sparse_coo", "torch.", "torch.x"):
        assert not is_portable_literal(name)
    assert all(not callable(literal(f"torch.{name}")) for name in allowed)


# --------------------------------------------------------------------------------------------- what is allowed


def test_methods_of_containers_and_strings() -> None:
    words = """
 append extend insert pop remove clear update add discard setdefault popitem sort reverse copy count index items keys values get split
 strip lower upper startswith endswith join replace encode translate"""
    assert all(is_portable("." + word) for word in words.split())


def test_everyday_operations() -> None:
    words = """
 add getitem setitem len abs .item .tolist .to .cuda .cpu .float .type .requires_grad_ .detach .clone .retain_grad @shape @H @mT @T
 @dtype @device @logits @last_hidden_state @values @indices torch.randn torch.nn.functional.dropout torch.linalg.svd
 passing.hidden_states"""
    assert [name for name in words.split() if not is_portable(name)] == []
    assert why_not("add") == ""


def test_what_may_allocate() -> None:
    words = """
 torch.zeros torch.ones torch.full torch.arange torch.linspace .expand .repeat .tile .repeat_interleave torch.kron .outer
 torch.cartesian_prod torch.combinations torch.nn.functional.pad torch.nn.functional.interpolate torch.nn.functional.one_hot
 torch.tril_indices torch.vander torch.meshgrid torch.cdist torch.einsum torch.matmul .matmul matmul .new_zeros .new_full range mul pow
 lshift add getitem torch.randn .unfold .tensor_split torch.block_diag torch.nn.functional.mse_loss torch.fft.fft torch.linalg.qr"""
    assert [name for name in words.split() if not may_allocate(name)] == []
    assert not any(map(may_allocate, ["neg", ".sum", ".relu", "@shape", "len", ".add_", "torch.softmax", "torch.cumsum", ".reshape"]))
    assert list(map(only_broadcasts, ["torch.where", "torch.zeros", "neg", "no_such_name"])) == [True, False, False, False]


def test_the_version_is_the_tools() -> None:
    assert version() == portable_table.VERSION


def test_reading_takes_less_than_ten_milliseconds() -> None:
    def took() -> float:
        portable._text.cache_clear(), portable._rows.cache_clear()
        begin = time.perf_counter()
        portable._rows()
        return time.perf_counter() - begin

    assert min(took() for _ in range(5)) < 0.01


def test_the_tool_would_write_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.__version__.split("+")[0] != portable_table.TORCH:
        pytest.skip("written with another torch")
    monkeypatch.setattr("sys.argv", ["portable_table.py", "--check"])
    assert portable_table.main() == 0, capsys.readouterr().out


def test_the_tool_allows_nothing_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(portable_table, "public", lambda: {"torch.sum": torch.sum, "torch.brand_new": len})
    monkeypatch.setattr("sys.argv", ["portable_table.py", "--check"])
    assert portable_table.main() == 1
    assert "torch.brand_new" in capsys.readouterr().out
