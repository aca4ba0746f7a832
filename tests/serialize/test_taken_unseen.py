"""Memory and time that no shape shows: ranges, what lists hold, workspaces, work, the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import LimitError, Limits, NNsight
from nnsight_graph.ops.table import function_of
from nnsight_graph.run.limits import Meter
from tests.serialize.test_what_programs_take import READ, SMALL, Node, X, c, graph_of

pytestmark = pytest.mark.slow

MIB = 1 << 20


def within(function: Callable[..., Any], *values: Any, limits: Limits = SMALL, **named: Any) -> Any:
    """What an operation gives, within limits."""
    return Meter(limits).evaluate(function, list(values), named)


def operation(name: str, *values: Any, limits: Limits = SMALL, **named: Any) -> Any:
    """The same, by name."""
    return within(function_of(name), *values, limits=limits, **named)


# ---------------------------------------------------------------------- ranges and text

FAR = range(10**9)


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("iadd", [[], FAR]),
        ("setitem", [[1, 2], slice(0, 1), FAR]),
        (".extend", [[], FAR]),
        (".union", [{1}, FAR]),
        (".update", [{1}, FAR]),
        ("set", [FAR]),
        ("sorted", [FAR]),
        ("sum", [FAR]),
        ("sum", [range(2**62)]),
        ("max", [range(2**70)]),
        ("torch.tensor", [FAR]),
        ("torch.tensor", [[FAR]]),
        ("getitem", [torch.ones(3), FAR]),
        ("setitem", [torch.ones(3), FAR, 0]),
        ("torch.nn.functional.fold", [torch.ones(1, 4, 4), FAR, 2]),
        ("str", [[FAR]]),
        ("mul", [(range(1_000),), 1_000]),
        ("tuple", [FAR]),
        (".join", ["", FAR]),
        ("contains", [FAR, "a"]),
        ("zip", [[1], FAR]),
        ("iadd", [[], "a" * 200_000]),
        (".extend", [[], "a" * 200_000]),
        ("mul", ["\u4e00", 600_000]),
    ],
)
def test_ranges_and_texts_count_with_all_items(name: str, operands: list[Any]) -> None:
    with pytest.raises(LimitError, match="value_bytes"):
        operation(name, *operands)


def test_ranges_that_are_not_expanded() -> None:
    assert operation("len", FAR) == 10**9
    assert operation("getitem", range(2**62), 2**61) == 2**61
    assert operation("getitem", FAR, slice(5, 8)) == range(5, 8)
    assert operation("contains", FAR, 10**9 - 1) is True
    assert operation(".index", FAR, 7) == 7
    assert operation("range", 10**10) == range(10**10)
    assert operation("list", range(3)) == [0, 1, 2]
    assert operation("torch.tensor", range(4)).tolist() == [0, 1, 2, 3]
    base = [0]
    assert operation("iadd", base, range(2)) is base
    assert base == [0, 0, 1]


def test_a_range_in_a_file() -> None:
    model = NNsight(nn.Linear(4, 4))
    with model.trace(run=False) as tracer:
        total = model.output.sum() * 0
        for place in nnsight.iter(range(10**15)):
            total = total + 1
            if place > 4:
                break
        nnsight.save(total).save("total")
    assert tracer.graph.run(model, X, limits=SMALL)["total"] == 6
    graph = graph_of(READ, ["range", c(0), None], ["list", 1, None], constants=(10**9,))
    with pytest.raises(LimitError, match="value_bytes"):
        graph.run(model, X, limits=SMALL)


def test_what_containers_and_texts_hold_is_bounded_by_the_operations() -> None:
    meter, kept = Meter(SMALL), []
    text = "a" * 500_000
    with pytest.raises(LimitError, match="more than 2000 operations"):
        for _ in range(100):
            kept.append(meter.evaluate(str.upper, [text], {}))
    assert len(kept) < 10
    made = {"getitem": [[0] * 10_000, slice(None)], ".tolist": [torch.ones(1, 10_000)], ".extend": [[], range(10_000)]}
    for name, operands in made.items():
        meter = Meter(SMALL)
        with pytest.raises(LimitError, match="more than 2000 operations"):
            for _ in range(100):
                meter.evaluate(function_of(name), operands, {})


def test_what_was_there_is_not_made_again() -> None:
    meter, items = Meter(SMALL), [0] * 1_000
    for _ in range(500):
        meter.evaluate(function_of("iadd"), [items, [1]], {})
        meter.evaluate(function_of(".get"), [{"a": items}, "a"], {})
        meter.evaluate(function_of("getitem"), [[items], 0], {})
    assert len(items) == 1_500


@pytest.mark.parametrize(("name", "operands"), [(".encode", ["a", "punycode"]), (".decode", [b"a", "idna"])])
def test_codecs_that_take_for_ever(name: str, operands: list[Any]) -> None:
    with pytest.raises(LimitError, match="cannot be bounded"):
        operation(name, *operands)
    assert operation(".encode", "é", "UTF-8") == "é".encode()
    assert operation(".decode", b"\xe9", encoding="latin-1") == "é"


def test_rounding_to_a_power_of_ten_that_would_not_end() -> None:
    with pytest.raises(LimitError, match="integer_bits"):
        operation("round", 5, -(10**9))
    assert operation("round", 1234, -2) == 1200
    assert operation("round", 2.675, 1) == 2.7


# ---------------------------------------------------------------------- what is held


def held_in(kind: str, count: int) -> list[Node]:
    """A program that makes tensors of 1 MiB and holds them."""
    lines: list[Node] = [READ, ["under", "grad=False, inference=False", None], [kind, ["g", "list", []], None]]
    for turn in range(count):
        tensor = len(lines)
        lines.append(["torch.ones", c(0), None])
        if kind == "list":
            lines.append([".append", 2, tensor, None])
        else:
            lines.append(["setitem", 2, c(1 + turn), tensor, None])
    return lines


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_containers_hold_tensors(kind: str) -> None:
    model, constants = NNsight(nn.Linear(4, 4)), (1 << 18, *range(40))
    graph = graph_of(*held_in(kind, 40), ["len", 2, None], constants=constants)
    with pytest.raises(LimitError, match=r"all that the program holds .* Limits\(held_bytes"):
        graph.run(model, X, limits=SMALL)
    assert graph.run(model, X, limits=Limits(value_bytes=MIB, held_bytes=100 * MIB))["out"] == 40


def test_what_is_gone_counts_no_more() -> None:
    """Forty tensors one after the other are no more than one; views hold all that they are views of."""
    meter = Meter(SMALL)
    for place in range(40):
        assert meter.evaluate(torch.full, [(1 << 18,), float(place)], {})[0] == place
    meter, views = Meter(SMALL), []
    with pytest.raises(LimitError, match="held_bytes"):
        for place in range(40):
            views.append(meter.evaluate(torch.full, [(1 << 18,), float(place)], {})[:1])
    assert len(views) == 8


def test_the_models_own_is_not_the_programs() -> None:
    """Views and edits of what the model made hold nothing more."""
    meter, large = Meter(SMALL), [torch.ones(1 << 20) for _ in range(10)]
    for one in large:
        part = meter.evaluate(function_of("getitem"), [one, slice(0, 2)], {})
        meter.evaluate(function_of(".add_"), [part, 1], {})
    assert all(one[:3].tolist() == [2.0, 2.0, 1.0] for one in large)


def test_copies_that_a_run_makes_are_held() -> None:
    """A line above an edit sees what was before it: the run keeps a copy."""
    model = NNsight(nn.Linear(4, 4))
    with model.trace(run=False) as tracer:
        kept, base = [], model.output.new_zeros(1 << 18)
        for _ in range(12):
            kept.append(base.clone()[:2].save())
            base[0] += 1
    with pytest.raises(LimitError, match="held_bytes"):
        tracer.graph.run(model, X, limits=SMALL)
    model = NNsight(nn.Sequential(*[nn.Linear(1 << 9, 1 << 9) for _ in range(12)]))
    with model.trace(run=False) as tracer:
        for layer in model:
            before = layer.output * 1
            layer.output[:] = 0
            nnsight.save(before.sum())
    assert len(tracer.graph.run(model, torch.ones(400, 1 << 9), limits=SMALL)) == 12


def test_activations_of_sessions_are_held() -> None:
    model = NNsight(nn.Sequential(*[nn.Linear(100, 100) for _ in range(30)]))
    for gradients in (True, False):
        with model.session(run=False) as session:
            with torch.set_grad_enabled(gradients), model.trace(torch.ones(2_000, 100)):
                model.output.sum().save("out")
        if gradients:  # each of them is kept for a backward pass
            with pytest.raises(LimitError, match="held_bytes"):
                session.graph.run(model, limits=SMALL)
        else:
            with torch.no_grad():
                assert session.graph.run(model, limits=SMALL)["out"].numel() == 1


# ---------------------------------------------------------------------- workspaces and work


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
@pytest.mark.parametrize(
    ("function", "shape", "kernel", "named"),
    [
        (torch.conv2d, (1, 1, 200, 200), (1, 1, 100, 100), {}),
        (torch.conv2d, (1, 1, 200, 200), (1, 1, 50, 50), {"dilation": 2}),
        (torch.conv1d, (1, 1, 20_000), (1, 1, 5_000), {}),
        (torch.conv3d, (1, 1, 40, 40, 40), (1, 1, 16, 16, 16), {}),
        (torch.conv_transpose2d, (1, 1, 100, 100), (1, 1, 100, 100), {}),
    ],
)
def test_columns_of_convolutions(
    function: Callable[..., Any], shape: tuple[int, ...], kernel: tuple[int, ...], named: dict[str, Any], dtype: torch.dtype
) -> None:
    with pytest.raises(LimitError, match="value_bytes"):
        within(function, torch.ones(shape, dtype=dtype), torch.ones(kernel, dtype=dtype), **named)
    small = torch.ones((*kernel[:2], *(2 for _ in kernel[2:])), dtype=dtype), torch.ones((*shape[:2], *(6 for _ in shape[2:])), dtype=dtype)
    assert torch.equal(within(function, small[1], small[0], **named), function(small[1], small[0], **named))


def test_histograms() -> None:
    edges = [torch.linspace(0, 1, 101)] * 4
    for bins in ([100] * 4, edges):
        with pytest.raises(LimitError, match="value_bytes"):
            within(torch.histogramdd, torch.rand(10, 4), bins)
    given = torch.rand(50, 2)
    for bins in ([3, 4], [torch.linspace(0, 1, 4), torch.linspace(0, 1, 5)]):
        torch.testing.assert_close(within(torch.histogramdd, given, bins)[0], torch.histogramdd(given, bins)[0])


@pytest.mark.parametrize(
    ("function", "operands"),
    [
        (torch.nn.functional.avg_pool2d, (torch.ones(1, 1, 500, 500), 250, 1)),
        (torch.nn.functional.max_pool2d, (torch.ones(1, 1, 500, 500), [250, 250], 1)),
        (torch.nn.functional.lp_pool2d, (torch.ones(1, 1, 500, 500), 2, 250, 1)),
        (torch.matmul, (torch.ones(3_000, 3_000, dtype=torch.int64), torch.ones(3_000, 3_000, dtype=torch.int64))),
        (torch.matmul, (torch.ones(6_000, 6_000, dtype=torch.float16), torch.ones(6_000, 6_000, dtype=torch.float16))),
        (torch.index_put, (torch.ones(1, 50_000), [torch.zeros(50_000, dtype=torch.int64)], torch.ones(()))),
    ],
)
def test_work_counts_as_operations(function: Callable[..., Any], operands: Any) -> None:
    with pytest.raises(LimitError, match="more than 2000 operations"):
        within(function, *operands, limits=Limits(operations=2_000))


def test_shapes_that_torch_cannot_tell() -> None:
    """Factories of a device by default are measured without memory, too; what depends on numbers runs where it is no larger."""
    for function, operands in ((torch.tril_indices, (100_000, 100_000)), (torch.fft.fftfreq, (10**10,)), (torch.arange, (10**12,))):
        with pytest.raises(LimitError, match="value_bytes"):
            within(function, *operands)
    given = torch.tensor([3, 1, 3, 0])
    assert within(torch.nonzero, given).tolist() == [[0], [1], [2]]
    assert within(torch.unique, given).tolist() == [0, 1, 3]
    assert within(torch.masked_select, given, given > 1).tolist() == [3, 3]
    assert operation("getitem", given, given > 1).tolist() == [3, 3]
    edited = torch.zeros(3)
    operation("setitem", edited, given[:3] > 1, 5.0)
    assert edited.tolist() == [5.0, 0.0, 5.0]
    with pytest.raises(RuntimeError, match="shape"):
        within(torch.matmul, torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(NotImplementedError, match="not implemented for 'Float'"):
        within(torch.gcd, torch.ones(2), torch.ones(2))


@pytest.mark.parametrize(
    ("function", "operands"),
    [
        (torch.masked_select, (torch.ones(1_000, 1), torch.ones(1, 1_000, dtype=torch.bool))),
        (torch.Tensor.__getitem__, (torch.ones(1_000, 1), (torch.ones(1_000, dtype=torch.bool), torch.zeros(1_000, 1, dtype=torch.int64)))),
        (torch.binomial, (torch.ones(1_000, 1), torch.ones(1, 1_000))),
        (torch.linalg.lstsq, (torch.ones(1, 1_000), torch.ones(1, 1_000))),
    ],
)
def test_products_of_shapes_that_torch_cannot_tell(function: Callable[..., Any], operands: Any) -> None:
    with pytest.raises(LimitError, match="value_bytes"):
        within(function, *operands)


# ---------------------------------------------------------------------- the clock


class Ticking:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    ticking = Ticking()
    monkeypatch.setattr("nnsight_graph.run.limits.monotonic", ticking)
    return ticking


def test_the_clock_is_asked_between_operations(clock: Ticking) -> None:
    model = NNsight(nn.Linear(4, 4))
    with model.trace(run=False) as tracer:
        total = model.output.sum()
        for _ in range(100):
            total = total + 1
        nnsight.save(total).save("total")
    with pytest.raises(LimitError, match=r"more than 50 seconds: Limits\(seconds=...\)"):
        tracer.graph.run(model, X, limits=Limits(seconds=50))
    assert clock.now < 60
    assert torch.equal(tracer.graph.run(model, X, limits=Limits(seconds=1_000))["total"], tracer.graph.run(model, X)["total"])


def test_the_clock_is_asked_in_loops(clock: Ticking) -> None:
    model = NNsight(nn.Linear(4, 4))
    with model.session(run=False) as session:
        with model.trace(X):
            total = model.output.sum()
        while total < float("inf"):
            total = total * 1
        nnsight.save(total)
    with pytest.raises(LimitError, match="more than 50 seconds"):
        session.graph.run(model, limits=Limits(seconds=50))
    assert clock.now < 60


def test_the_clock_is_asked_in_the_forward(clock: Ticking) -> None:
    """Whatever the program reads: here only what the model gives in the end."""
    model = NNsight(nn.Sequential(*[nn.Linear(4, 4) for _ in range(100)]))
    with model.trace(run=False) as tracer:
        model.output.save("out")
    with pytest.raises(LimitError, match="more than 20 seconds"):
        tracer.graph.run(model, X, limits=Limits(seconds=20))
    assert 20 < clock.now < 30
    assert not any(module._forward_pre_hooks for module in model._module.modules())
    assert torch.equal(tracer.graph.run(model, X, limits=Limits(seconds=10_000))["out"], model._module(X))


def test_the_forwards_of_another_thread_are_its_own() -> None:
    """They are neither counted nor stopped."""
    module, inside, seen = nn.Linear(4, 4), threading.Event(), threading.Event()
    meter, errors = Meter(Limits(forwards=1, seconds=1e6)), []

    def beside() -> None:
        inside.wait(10)
        try:
            module(X), module(X)
        except LimitError as error:
            errors.append(error)
        seen.set()

    thread = threading.Thread(target=beside)
    thread.start()
    with meter.around(module, whole=False):
        inside.set()
        assert seen.wait(10)
        module(X)
        with pytest.raises(LimitError, match="more than 1 forwards"):
            module(X)
    thread.join()
    assert not errors
