#!/usr/bin/env python3
"""Writes nnsight_graph/ops/table.tsv from what the installed torch says and does, or checks it.

Three sources, the later ones winning:

1. torch's own schemas: which argument an operator writes into, which ones its result aliases, whether it draws random numbers;
2. runs: every operator with samples in torch's test suite, and every one that takes a few plain tensors, is called, and storages,
   version counters and the random state are compared;
3. OVERRIDES: what neither can tell, by hand.

Usage: op_table.py             rewrite the table
       op_table.py --check     print differences; exit status 1 where a run contradicts a row
       op_table.py --why NAME  what each source says about some names
"""
import argparse
import builtins
import inspect
import itertools
import operator
import sys
import types
import unittest
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.overrides import get_overridable_functions
from torch.utils._pytree import tree_flatten, tree_map_only

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from nnsight_graph.ops import passing  # noqa: E402
from nnsight_graph.ops.effect import parse  # noqa: E402  (this tree's, wherever it is called from)

TABLE = ROOT / "nnsight_graph" / "ops" / "table.tsv"

HEADER = """\
# Operations: name, tab, effect. Sorted. Written by tools/op_table.py; hand-made rows stand in its OVERRIDES.
#
# Names: add (operators, of Python's operator module or builtins), .add (a method, called by name on whatever object it is),
# @shape (an attribute), torch.add (a function).
# Effects: pure (the result shares no storage with an argument, nothing is mutated) | metadata (depends on shape, dtype and device
# alone, the result is no tensor) | view:0 (the result always is, or contains, views of argument 0) | maybe:0 (sometimes shares its
# storage) | mutates:0 (writes into argument 0 and returns it) | view:* maybe:* (all arguments) | random (may draw random numbers) |
# writes:name@1?switch@5 (writes into the argument `name`, at position 1, where the argument `switch`, at position 5, is given).
"""

NAMESPACES = {
    "passing": passing,
    "torch": torch,
    "torch.fft": torch.fft,
    "torch.linalg": torch.linalg,
    "torch.nn.functional": torch.nn.functional,
    "torch.special": torch.special,
}
PREFIXES = {"torch.fft": "fft_", "torch.linalg": "linalg_", "torch.special": "special_"}  # of the schemas' names

OPERATORS = """
 add sub mul matmul truediv floordiv mod pow and_ or_ xor lshift rshift neg pos invert abs eq ne lt le gt ge getitem setitem delitem
 contains divmod round not_ truth is_ is_not len int float bool str min max sum range enumerate zip sorted reversed any all list dict
 tuple set iadd isub imul imatmul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift""".split()

# Methods of containers, strings and arrays that are called on traced values, and dunders that torch announces.
OTHER_METHODS = """
 append extend insert pop remove clear reverse update setdefault popitem keys values items get to_tuple count copy index join split
 rsplit splitlines strip lstrip rstrip lower upper title capitalize format replace startswith endswith find encode decode union
 intersection difference issubset issuperset discard bit_length hex as_integer_ratio is_integer astype __len__ __bool__ __int__ __float__
 __complex__ __index__ __iter__ __reversed__ __array__ __contains__ __deepcopy__ __copy__ __format__ __radd__ __rsub__ __rmul__
 __rmatmul__ __rtruediv__ __rdiv__ __rfloordiv__ __rmod__ __rpow__ __rand__ __ror__ __rxor__ __rlshift__ __rrshift__ __rdivmod__""".split()

# Functions of these namespaces that neither torch's list of overridable functions nor a schema of the same name gives.
OTHER_FUNCTIONS = """
 torch.as_tensor torch.asarray torch.tensor torch.from_numpy torch.frombuffer torch.from_dlpack torch.broadcast_shapes
 torch.promote_types torch.result_type torch.can_cast torch.is_tensor torch.is_storage torch.unique torch.pca_lowrank torch.svd_lowrank
 torch.sparse_coo_tensor torch.sparse_csr_tensor torch.sparse_csc_tensor torch.sparse_bsr_tensor torch.sparse_bsc_tensor
 torch.sparse_compressed_tensor torch.nn.functional.upsample torch.nn.functional.upsample_bilinear
 torch.nn.functional.upsample_nearest""".split()

# Removed from torch (they only raise), or reading files.
EXCLUDED = {".eig", ".lstsq", ".reinforce", ".solve", ".symeig", "@volatile", "torch.from_file"}

# By effect; `~x` is each of .x, torch.x and torch.nn.functional.x that there is.
OVERRIDES = {
    # operators; tensors have no in-place matmul: `x @= y` gives a new one
    "pure": """
 not_ truth is_ is_not len int float bool str sum range any all
 abs add sub mul matmul truediv floordiv mod pow and_ or_ xor lshift rshift neg invert eq ne lt le gt ge contains divmod round imatmul
 .keys .count .join .rsplit .splitlines .strip .lstrip .rstrip .lower .upper .title .capitalize .format .replace .startswith .endswith
 .find .encode .decode .issubset .issuperset .bit_length .hex .as_integer_ratio .is_integer .item .tolist .is_shared .data_ptr
 .const_data_ptr .storage_type .__bool__ .__int__ .__float__ .__complex__ .__index__ .__contains__ .__deepcopy__ .__format__ .__rdivmod__
 @requires_grad @is_leaf @retains_grad @grad_fn @grad_dtype @output_nr @name torch.nn.functional.unfold torch.sym_float torch.sym_int
 torch.sym_ite torch.sym_max torch.sym_min torch.sym_not torch.sym_sqrt torch.sym_sum""",
    "mutates:0": """
 iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift setitem delitem .clear .remove .reverse .pop .popitem .discard
 .apply_ .map_ .map2_ .backward .register_hook .register_post_accumulate_grad_hook .retain_grad .share_memory_""",
    # what a container takes in, it shares afterwards; so does a tensor that is given another's storage
    "mutates:0 maybe:1": ".append .extend .set_ .module_load",
    "mutates:0 maybe:2": ".insert .setdefault",
    "mutates:0 maybe:*": ".update",
    "metadata": """
 .size .dim .ndimension .numel .nelement .stride .is_contiguous .element_size .is_floating_point .is_complex .is_signed .dim_order
 ~get_device .is_same_size .sparse_dim .dense_dim .__len__ torch.numel torch.is_tensor torch.is_storage torch.is_floating_point
 torch.is_complex torch.is_signed torch.is_same_size torch.result_type torch.can_cast torch.promote_types torch.broadcast_shapes @shape
 @dtype @device @ndim @layout @itemsize @nbytes @is_cpu @is_cuda @is_ipu @is_maia @is_meta @is_mkldnn @is_mps @is_mtia @is_nested
 @is_quantized @is_sparse @is_sparse_csr @is_vulkan @is_xla @is_xpu""",
    # made of other operators, all of which are views
    "view:0": """
 ~adjoint ~broadcast_to ~chunk ~dsplit ~hsplit ~vsplit ~split ~tensor_split ~unsafe_chunk ~unsafe_split ~unsafe_split_with_sizes
 ~expand_as ~moveaxis ~movedim ~narrow ~swapaxes ~swapdims ~unflatten ~view_as ~imag torch.linalg.diagonal torch.from_numpy
 torch.frombuffer .as_subclass .__iter__ @T @mT @H @mH @imag @data passing.hidden_states passing.as_tuple""",
    # containers and iterators hold what they are made of
    "view:*": "torch.broadcast_tensors torch.meshgrid",
    "maybe:0": """
 getitem pos .items .to_tuple .copy .union .intersection .difference .astype .index .__copy__ .__array__ .__reversed__ .numpy .type
 ~type_as .to .float .double .half .bfloat16 .int .long .short .char .byte .bool .cfloat .cdouble .chalf .cpu .cuda .ipu .xpu .mtia
 .storage .untyped_storage ~conj_physical ~dequantize .to_dense .to_sparse .to_sparse_coo .to_sparse_csr .to_sparse_csc .to_sparse_bsr
 .to_sparse_bsc .to_mkldnn .sum_to_size .resize .resize_as ~q_per_channel_scales ~q_per_channel_zero_points torch.as_tensor torch.asarray
 torch.from_dlpack ~pad ~pixel_shuffle ~pixel_unshuffle ~channel_shuffle ~native_channel_shuffle @real @grad""",
    "maybe:0,1": ".sparse_mask torch.sparse_coo_tensor passing.with_hidden_states passing.as_passed",
    "maybe:0,1,2": """
 torch.sparse_csr_tensor torch.sparse_csc_tensor torch.sparse_bsr_tensor torch.sparse_bsc_tensor torch.sparse_compressed_tensor""",
    "maybe:0,2": ".get",
    "maybe:1": "torch.histogramdd",
    "maybe:*": """
 min max enumerate zip sorted reversed list dict tuple set torch.atleast_1d torch.atleast_2d torch.atleast_3d torch.cartesian_prod
 torch.einsum torch.chain_matmul .new""",
    # evaluation mode gives the argument back
    "random maybe:0": "torch.dropout torch.alpha_dropout torch.feature_dropout torch.feature_alpha_dropout torch.native_dropout",
    "random maybe:0 writes:input@0?inplace@3": """
 torch.nn.functional.dropout torch.nn.functional.dropout1d torch.nn.functional.dropout2d torch.nn.functional.dropout3d
 torch.nn.functional.alpha_dropout torch.nn.functional.feature_alpha_dropout""",
    "random pure": "torch.nn.functional.multi_head_attention_forward torch.nn.functional.scaled_dot_product_attention",
    # statistics that are updated while training, rows that are normed again
    "pure writes:running_mean@1,running_var@2?training@5": "torch.nn.functional.batch_norm",
    "pure writes:running_mean@3,running_var@4?training@5": """
 torch.batch_norm torch.native_batch_norm torch.cudnn_batch_norm torch.miopen_batch_norm""",
    "pure writes:running_mean@1,running_var@2": "torch.nn.functional.instance_norm torch.batch_norm_update_stats",
    "pure writes:running_mean@3,running_var@4?use_input_stats@5": "torch.instance_norm",
    "pure writes:running_mean@3,running_var@4": "torch.batch_norm_gather_stats torch.batch_norm_gather_stats_with_counts",
    "pure writes:weight@1?max_norm@3": "torch.nn.functional.embedding torch.nn.functional.embedding_bag",
}


@dataclass
class Seen:
    """What runs of one operation have shown."""

    calls: int = 0
    shares: Counter[int] = field(default_factory=Counter)
    writes: set[int] = field(default_factory=set)
    random: bool = False


def objects() -> dict[str, Any]:
    """Every name of the table with the object behind it, None for a method that Tensor lacks."""
    found: dict[str, Any] = {name: getattr(operator, name, None) or getattr(builtins, name) for name in OPERATORS}
    for name, value in inspect.getmembers(torch.Tensor):
        if not name.startswith("_") and not isinstance(value, type):
            found[f".{name}" if callable(value) else f"@{name}"] = value
    found |= {f".{name}": getattr(torch.Tensor, name, None) for name in OTHER_METHODS if f".{name}" not in found}
    for space, module in NAMESPACES.items():
        listed = {id(function) for key in (module, torch.functional) for function in get_overridable_functions().get(key, [])}
        for name in dir(module):
            value = getattr(module, name)
            if name[0] != "_" and callable(value) and not isinstance(value, type):
                full = f"{space}.{name}"
                if id(value) in listed or full in OTHER_FUNCTIONS or schemas().get(PREFIXES.get(space, "") + name):
                    found[full] = value
    return {name: value for name, value in sorted(found.items()) if name not in EXCLUDED}


SCHEMAS: dict[str, list[Any]] = {}


def schemas() -> dict[str, list[Any]]:
    """aten's schemas by name, without ``out=`` overloads and those that take no tensor and make none."""
    if not SCHEMAS:
        by_name, registered = defaultdict(list), set(torch._C._dispatch_get_all_op_names())
        for schema in torch._C._jit_get_all_schemas():
            space, _, name = schema.name.partition("::")
            out = any(a.kwarg_only and a.alias_info and a.alias_info.is_write for a in schema.arguments)
            if space == "aten" and not out and "Tensor" in str(schema) and qualified(schema) in registered:
                by_name[name].append(schema)
        SCHEMAS.update(by_name)
    return SCHEMAS


def qualified(schema: Any) -> str:
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)


def schema_effect(name: str) -> str | None:
    """The effect that the schemas of an operation declare, None where it has none."""
    space, _, short = name.rpartition(".")
    found = schemas().get(PREFIXES.get(space, "") + short, [])
    if not found or "." not in name:
        return None
    writes, returns, views, composite, random = {}, False, Counter[int](), False, False
    for schema in found:
        composite |= torch._C._dispatch_has_kernel_for_dispatch_key(qualified(schema), "CompositeImplicitAutograd")
        overload = getattr(getattr(torch.ops.aten, schema.name.removeprefix("aten::")), schema.overload_name or "default")
        random |= torch.Tag.nondeterministic_seeded in overload.tags
        returned = [r.alias_info for r in schema.returns if r.alias_info]
        returns |= any(r.is_write for r in returned)
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info and argument.alias_info.is_write:
                writes[position] = f"{argument.name}@{position}"
            elif argument.alias_info and returned:
                views[position] += 1
    always = not composite and all(count == len(found) for count in views.values())
    effect = ("view:" if always else "maybe:") + ",".join(map(str, sorted(views))) if views else "pure"
    if writes:
        effect = "mutates:" + ",".join(map(str, writes)) if returns else f"{effect} writes:" + ",".join(writes.values())
    return f"random {effect}" if random else effect


def storages(value: Any) -> set[int]:
    """The identities of all storages in a nest of tensors."""
    found = set()
    for leaf in tree_flatten(value)[0]:
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided and not leaf.is_nested and leaf.untyped_storage().nbytes():
            found.add(leaf.untyped_storage().data_ptr())
    return found


def versions(value: Any) -> list[int]:
    return [leaf._version for leaf in tree_flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def observe(seen: Seen, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Calls once on copies, and notes what happened; False where the call failed."""
    args, kwargs = tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
    before, draws = [versions(a) for a in args], torch.get_rng_state()
    held = [storages(a) for a in args]
    try:
        result = function(*args, **kwargs)
    except Exception:  # a sample that this operation does not take
        return False
    results = storages(list(result) if isinstance(result, Iterator) else result)
    seen.calls += 1
    seen.random |= not torch.equal(draws, torch.get_rng_state())
    seen.shares.update(i for i, h in enumerate(held) if h & results)
    seen.writes.update(i for i, a in enumerate(args) if versions(a) != before[i])
    return True


def variants(info: Any) -> list[Any]:
    kinds = ("op", "method_variant", "inplace_variant", "operator_variant", "inplace_operator_variant")
    return [getattr(form, kind, None) for form in [info, *info.aliases] for kind in kinds]


def run_samples(seen: dict[str, Seen], names: dict[Any, list[str]], limit: int) -> None:
    """Runs torch's own samples for the operators that it tests."""
    # torch's samples import a package of assertions that none of them needs.
    sys.modules.setdefault("expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))  # type: ignore[arg-type]
    from torch.testing._internal.common_methods_invocations import op_db

    for info in op_db:
        functions = [f for f in variants(info) if f is not None and f in names]
        if not functions or info.name.startswith(("jiterator", "torch.ops")):
            continue
        for dtype in {torch.float32, torch.complex64, torch.int64, torch.bool} & set(info.dtypes):
            try:
                samples = list(itertools.islice(info.sample_inputs("cpu", dtype), limit))
            except Exception:  # samples that need a package or a device
                continue
            for sample, function in itertools.product(samples, functions):
                for name in names[function]:
                    observe(seen[name], function, [sample.input, *sample.args], dict(sample.kwargs))


# Not called on probes: they wait, reach outside the process, or take a probe for a pointer or a divisor.
UNPROBED = set(""".index .share_memory_ .record_stream .cuda .xpu .mtia .ipu .backward .register_hook .data_ptr .new .pin_memory
 .register_post_accumulate_grad_hook .set_ .resize_ .storage .untyped_storage .storage_type""".split())
UNPROBED_WORDS = ("cudnn", "miopen", "mkldnn", "fbgemm", "quantized", "sparse", "sym_", "init", "shuffle")


def run_probes(seen: dict[str, Seen], table: dict[str, Any]) -> None:
    """Calls everything on a few plain tensors and numbers: what fits, fits."""
    shapes = [(2, 3), (3,), (4, 4), (1, 2, 4, 4), (), (2, 1, 3)]
    tensors = [torch.rand(shape) + 0.1 for shape in shapes] + [torch.rand(3, 2).t(), torch.rand(2, 3) > 0.5]
    tensors += [torch.ones(2, 3, dtype=torch.int64), torch.rand(2, 3, dtype=torch.complex64)]
    rests: list[list[Any]] = [[], [0], [1], [0, 1], [0, 0], ["x"], ["x", 0], [(0,)], [(2, 3)], [2, 3], [torch.float32], [-1, 2], [0, 0, 1]]
    for name, function in table.items():
        if not callable(function) or name in UNPROBED or any(word in name for word in UNPROBED_WORDS):
            continue
        for tensor, rest in itertools.product(tensors, rests):
            observe(seen[name], function, [tensor, *(tensor if r == "x" else r for r in rest)], {})
        for tensor in tensors:
            observe(seen[name], function, [[tensor, tensor.clone()]], {})


def observations(quick: bool) -> dict[str, Seen]:
    """What runs show of every operation; ``quick`` takes few samples, and probes only where there were none."""
    table = objects()
    seen: dict[str, Seen] = defaultdict(Seen)
    names: dict[Any, list[str]] = defaultdict(list)
    for name, function in table.items():
        if callable(function):
            names[function].append(name)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        run_samples(seen, names, 4 if quick else 20)
        run_probes(seen, {name: function for name, function in table.items() if not (quick and name in seen)})
    return seen


def overrides(known: dict[str, Any]) -> dict[str, str]:
    """OVERRIDES by name."""
    found: dict[str, str] = {}
    for effect, words in OVERRIDES.items():
        for word in words.split():
            names = [prefix + word[1:] for prefix in (".", "torch.", "torch.nn.functional.")] if word[0] == "~" else [word]
            found.update((name, effect) for name in names if name in known)
    return found


def switched(function: Any) -> str | None:
    """``writes:input@0?inplace@1`` for a function with a parameter ``inplace``."""
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return f"writes:{parameters[0]}@0?inplace@{parameters.index('inplace')}" if "inplace" in parameters else None


def derive(name: str, function: Any, seen: Seen) -> str:
    """The effect of an operation as its schemas and its runs suggest it."""
    effect = (schema_effect(name) if function is not None else None) or "pure"
    switch = switched(function) if name.startswith("torch.") else None
    if seen.random and "random" not in effect:
        effect = f"random {effect}"
    if switch:
        return f"{effect} {switch}"
    missing = [i for i in seen.shares if i not in parse(effect).views + parse(effect).maybe]
    return effect.replace("pure", "maybe:" + ",".join(map(str, sorted(missing)))) if missing else effect


def contradictions(effects: dict[str, str], seen: dict[str, Seen]) -> list[str]:
    """Rows that promise more than runs have shown: a wrong one makes a plan wrong."""
    found = []
    for name, text in effects.items():
        effect, entry = parse(text), seen[name]
        writes = {position for _, position in effect.writes}
        if entry.random and not effect.random:
            found.append(f"{name}: {text!r}, but it drew random numbers")
        if wrong := entry.writes - writes - set(effect.mutates):
            found.append(f"{name}: {text!r}, but it wrote into {sorted(wrong)}")
        if not effect.every and (wrong := set(entry.shares) - writes - set(effect.views + effect.maybe)):
            found.append(f"{name}: {text!r}, but its result shares storage with {sorted(wrong)}")
        # A view of nothing shares nothing, so a few runs may show none.
        views = () if effect.every or entry.calls < 5 else set(effect.views) - set(effect.mutates)
        if any(entry.shares[i] < entry.calls / 2 for i in views):
            found.append(f"{name}: {text!r}, but it shared storage in {dict(entry.shares)} of {entry.calls} runs")
    return found


def read() -> dict[str, str]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if line and not line.startswith("#"))


def rows(seen: dict[str, Seen]) -> dict[str, str]:
    """The table as it should be."""
    table = objects()
    hand = overrides(table)
    return {name: hand.get(name) or derive(name, function, seen[name]) for name, function in table.items()}


def check(suggested: dict[str, str], seen: dict[str, Seen]) -> int:
    """Prints how the file differs from what this torch suggests; 1 where a row is contradicted by a run."""
    present = read()
    for name in sorted(present.keys() | suggested.keys()):
        if present.get(name) != suggested.get(name):
            print(f"differs: {name}: table {present.get(name)!r}, torch {torch.__version__} {suggested.get(name)!r}")
    wrong = contradictions({name: text for name, text in present.items() if name in suggested}, seen)
    print("\n".join(["wrong: " + line for line in wrong] or [f"{len(present)} rows, none contradicted"]))
    return 1 if wrong else 0


def main() -> int:
    """Runs the command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments.add_argument("--quick", action="store_true", help="fewer runs: seconds instead of half a minute")
    arguments.add_argument("--why", nargs="+", metavar="NAME", default=[], help="what schemas and runs say about these names")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    seen = observations(options.quick)
    suggested = rows(seen)
    for name in options.why:
        print(name, suggested.get(name), schema_effect(name), seen[name], sep="\n  ")
    if options.check:
        return check(suggested, seen)
    if not options.why:
        TABLE.write_text(HEADER + "".join(f"{name}\t{effect}\n" for name, effect in sorted(suggested.items())), encoding="utf-8")
        print("\n".join(contradictions(suggested, seen) or [f"{len(suggested)} rows written"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
