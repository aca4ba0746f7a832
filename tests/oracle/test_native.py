"""The oracle against answers written by hand: plain PyTorch, raw hooks, one rule of the contract each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from tests.oracle.generate import draw_case
from tests.oracle.modules import Keyword, Named, Residual, Stack, Twice, Unpack, draw_module, fill
from tests.oracle.native import Answer, answer
from tests.oracle.programs import Compute, Edit, Effect, Kind, Program, Read, Save, Site, Statement, Write
from tests.oracle.trees import same

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear() -> nn.Module:
    return nn.Linear(4, 4, dtype=torch.float64)


def filled(module: nn.Module) -> nn.Module:
    fill(module, torch.Generator().manual_seed(1))
    return module.eval()


def site(path: str, kind: Kind = "output") -> Site:
    return Site(path, kind)


def ask(module: nn.Module, *lines: Statement, **constants: Tensor) -> Answer:
    return answer(module, X, Program(lines, constants))


def result(name: str = "r") -> tuple[Statement, Statement]:
    return Read("result", Site("", "result")), Save(name, ("result",))


def three() -> Any:
    return filled(nn.Sequential(linear(), linear(), linear()))


def test_a_reader_above_an_edit_sees_the_value_without_it() -> None:
    model = three()
    right = ask(
        model,
        Read("late", site("2")),
        Read("x", site("0")),
        Compute("y", "{0} + {1}", ("x", "late")),
        Edit("{0}[:, 0] = 0", ("x",)),
        Save("s", ("y",)),
        *result(),
    )
    with torch.no_grad():
        x = model[0](X)
        edited = x.clone()
        edited[:, 0] = 0
        late = model[2](model[1](edited))
    assert same(right.values, {"s": x + late, "r": late})


def test_saved_values_and_views_show_edits_below_and_clones_do_not() -> None:
    model = three()
    right = ask(
        model,
        Read("x", site("1")),
        Save("whole", ("x",)),
        Compute("v", "{0}[0]", ("x",), Effect.VIEW),
        Save("view", ("v",)),
        Compute("c", "{0}.clone()", ("x",)),
        Save("old", ("c",)),
        Read("again", site("1")),
        Edit("{0}.mul_(2)", ("again",)),
    )
    with torch.no_grad():
        x = model[1](model[0](X))
    assert same(right.values, {"whole": x * 2, "view": x[0] * 2, "old": x})


def test_a_write_is_by_value_and_leaves_names_above_alone() -> None:
    model = three()
    right = ask(
        model,
        Read("old", site("1")),
        Read("v", site("0")),
        Write(site("1"), "{0}", ("v",)),
        Edit("{0}.zero_()", ("v",)),
        Edit("{0} += 7", ("old",)),
        Read("new", site("1")),
        Edit("{0}[0] = 3", ("new",)),
        Save("o", ("old",)),
        Save("w", ("v",)),
        *result(),
    )
    with torch.no_grad():
        first = model[0](X)
        handed = first.clone()
        handed[0] = 3
        old = model[1](torch.zeros_like(first)) + 7
        assert same(right.values, {"o": old, "w": torch.zeros_like(first), "r": model[2](handed)})


def hooked(model: nn.Module, **hooks: Any) -> Tensor:
    """The result of a forward with hooks by path, dots as double underscores."""
    handles = [model.get_submodule(path.strip("_").replace("__", ".")).register_forward_hook(hook) for path, hook in hooks.items()]
    with torch.no_grad():
        out: Tensor = model(X.clone())
    for handle in handles:
        handle.remove()
    return out


def zero_first(module: nn.Module, args: Any, output: Tensor) -> None:
    output[:, 0] = 0


def test_an_edit_is_in_place_in_the_model() -> None:
    model = filled(nn.Sequential(linear(), Residual(nn.Identity()), linear()))
    right = ask(
        model, Read("x", site("1.inner")), Edit("{0}[:, 0] = 0", ("x",)), Read("before", site("0")), Save("b", ("before",)), *result()
    )
    with torch.no_grad():
        first = model.get_submodule("0")(X)
    assert same(right.values, {"b": first, "r": hooked(model, _1__inner=zero_first)})


def test_an_edit_above_a_write_stays_in_the_tensor_of_the_model() -> None:
    model = filled(nn.Sequential(linear(), Residual(nn.Identity()), linear()))
    right = ask(
        model,
        Read("x", site("1.inner")),
        Edit("{0}[:, 0] = 0", ("x",)),
        Compute("v", "{0} + 1", ("x",)),
        Write(site("1.inner"), "{0}", ("v",)),
        Edit("{0}[:, 1] = 0", ("x",)),
        *result(),
    )

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output[:, 0] = 0
        return output + 1

    assert same(right.values, {"r": hooked(model, _1__inner=hook)})


def test_sites_are_independent_and_the_input_of_the_user_stays() -> None:
    model = filled(nn.Sequential(nn.Identity(), nn.Identity(), linear()))
    before = X.clone()
    right = ask(
        model,
        Read("c", site("2", "input")),
        Read("a", site("0")),
        Read("b", site("1", "input")),
        Edit("{0}.mul_(0)", ("b",)),
        Read("i", site("", "input")),
        Edit("{0} += 1", ("i",)),
        *(Save(name * 2, (name,)) for name in "abci"),
    )
    zero = torch.zeros_like(X)
    assert same(right.values, {"aa": X + 1, "bb": zero, "cc": zero, "ii": X + 1})
    assert same(X, before)


def test_writes_that_need_a_later_site() -> None:
    model = three()
    late = Read("late", site("2"))
    by_data = ask(model, late, Write(site("1"), "{0}", ("late",)))
    by_edit = ask(model, late, Read("x", site("1")), Edit("{0} += {1}", ("x", "late")))
    copied = (late, Read("x", site("0")), Compute("c", "{0}.clone()", ("x",)))
    by_order = ask(model, *copied, Edit("{0}[0] = {1}[0]", ("c", "late")), Compute("v", "{0} * 1", ("c",)), Write(site("1"), "{0}", ("v",)))
    assert [by_data.error, by_edit.error, by_order.error] == ["OutOfOrderError"] * 3
    private = ask(model, *copied, Edit("{0} += {1}", ("c", "late")), Save("s", ("c",)))
    retired = ask(
        model, late, Read("x", site("1")), Write(site("1"), "{0} * 2", ("x",)), Edit("{0} += {1}", ("x", "late")), Save("s", ("x",))
    )
    assert (private.error, retired.error) == (None, None)


def test_what_the_model_overwrites() -> None:
    model = filled(nn.Sequential(linear(), nn.ReLU(inplace=True), linear()))
    read = Read("x", site("0"))
    saved = ask(model, read, Save("s", ("x",)), *result())
    used = ask(model, read, Read("y", site("2")), Compute("z", "{0}[0] + {1}", ("x", "y")), Save("s", ("z",)))
    assert (saved.error, saved.either, used.error, used.either) == ("NNsightError", None, "NNsightError", None)
    kept = ask(model, read, Compute("c", "{0}.clone()", ("x",)), Save("s", ("c",)), *result())
    with torch.no_grad():
        assert same(kept.values["s"], model.get_submodule("0")(X))
    unused = ask(model, read, Compute("z", "{0} * 2", ("x",)), Save("s", ("z",)))
    assert unused.error is None


def test_tuples_dicts_and_keywords() -> None:
    model = filled(Stack([Keyword(linear(), gated=False), Unpack(Named(linear(), linear()), both=True)], linear()))
    right = ask(
        model,
        Read("out", site("h.1.block")),
        Compute("extra", '{0}["extra"]', ("out",), Effect.VIEW),
        Edit("{0}.zero_()", ("extra",)),
        Read("given", site("h.0.child", "inputs")),
        Compute("hidden", '{0}[1]["hidden"]', ("given",), Effect.VIEW),
        Compute("double", "{0} * 2", ("hidden",)),
        Write(site("h.0.child", "inputs"), '((), {{"hidden": {0}}})', ("double",)),
        *result(),
    )
    stack: Any = model
    with torch.no_grad():
        expected = stack.head(stack.h[1].block.first(stack.h[0].child.inner(X * 2)))
    assert torch.equal(right.values["r"], expected)


def test_a_site_is_the_first_call_under_any_name() -> None:
    model: Any = filled(nn.Sequential(linear(), Twice(linear(), both=True)))
    right = ask(model, Read("x", site("1.again")), Save("s", ("x",)), Edit("{0}[:, 0] = 0", ("x",)), *result())
    with torch.no_grad():
        first = model[1].once(model[0](X))
        first[:, 0] = 0
        assert same(right.values, {"s": first, "r": model[1].once(first)})


def test_a_call_in_a_trace_is_no_visit_and_lines_need_not_be_in_the_order_of_the_model() -> None:
    model = three()
    right = ask(
        model,
        Read("b", site("1")),
        Edit("{0} *= 2", ("b",)),
        Read("a", site("0")),
        Compute("again", "model[1]({0})", ("a",), Effect.MAYBE),
        Edit("{0} += {1}", ("b", "again")),
        Edit("{0}[0] = 1", ("a",)),
        Save("s", ("again",)),
        *result(),
    )
    with torch.no_grad():
        a = model[0](X)
        edited = a.clone()
        edited[0] = 1
        again = model[1](a)
        b = model[1](edited) * 2 + again
        assert same(right.values, {"s": again, "r": model[2](b)})


def test_cases_are_the_same_every_time() -> None:
    one, two = draw_case(3), draw_case(3)
    assert one.program.lines() == two.program.lines()
    assert same(dict(one.module.named_parameters()), dict(two.module.named_parameters()))
    assert same(draw_module(3)[1], one.x)


def test_most_programs_have_values_some_have_errors_and_few_may_do_both() -> None:
    kinds = Counter[str]()
    for seed in range(200):
        case = draw_case(seed)
        right = answer(case.module, case.x, case.program, case.plain)
        kinds["either" if right.either else right.error or "values"] += 1
    assert kinds["values"] > 150
    assert 2 < kinds["OutOfOrderError"] + kinds["NNsightError"] < 40
    assert kinds["either"] < 12
