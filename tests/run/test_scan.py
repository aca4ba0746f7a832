"""A scan: what every site would get, found on fakes."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

import nnsight_graph as nnsight
from nnsight_graph.graph import Site
from nnsight_graph.run.fakes import evaluate_on_fakes, is_blind
from nnsight_graph.run.scan import Scan, Unknown, resized, scan, scanned, varying
from nnsight_graph.run.specs import Opaque, Spec, spec_of
from tests.run.untouched import by_hooks, differing, state

pytestmark = pytest.mark.slow

X = torch.rand(3, 5)


class Net(torch.nn.Module):
    """Calls a module twice, leaves one out, passes names, tuples and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(5, 5)
        self.unused = torch.nn.Linear(5, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.split = Split()
        self.last = torch.nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, Any]:
        hidden = self.norm(self.first(self.first(x) * scale))
        left, rest = self.split(hidden=hidden, at=4)
        return {"scores": self.last(left.double()), "rest": rest}


class Split(torch.nn.Module):
    def forward(self, hidden: torch.Tensor, at: int) -> tuple[torch.Tensor, dict[str, Any]]:
        return hidden[:, :at], {"right": [hidden[:, at:]], "owner": object()}


class Looks(torch.nn.Module):
    """Looks at numbers between its two layers."""

    def __init__(self, look: Any) -> None:
        super().__init__()
        self.before, self.eye, self.after = torch.nn.Linear(5, 5), Eye(look), torch.nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.before(x)
        self.eye(hidden)
        return self.after(hidden)


class Eye(torch.nn.Module):
    def __init__(self, look: Any) -> None:
        super().__init__()
        self.look = look

    def forward(self, x: torch.Tensor) -> Any:
        return self.look(x)


@pytest.fixture
def net() -> Net:
    return Net()


# ---------------------------------------------------------------------- what is found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_every_site_has_what_a_real_forward_delivers(net: Net, training: bool, grad: bool) -> None:
    net.train(training)
    with torch.set_grad_enabled(grad):
        found = scan(net, (X,), {"scale": 2.0})
        assert differing(found, by_hooks(net, lambda: net(X, scale=2.0))) == []
    assert found.complete
    assert found.unreached == {"unused"}


def test_values_are_found_by_site(net: Net) -> None:
    found = scan(net, (X,))
    assert str(found.value(Site("first", "output", 1))) == "float32[3, 5] on cpu"
    assert found.value(Site("split", "input")).shape == (3, 5)
    left, rest = found.value(Site("split", "output"))
    assert (left.shape, left.requires_grad, rest["owner"]) == ((3, 4), True, Opaque("object"))
    assert found.value(Site("", "result"))["scores"].dtype == torch.float64
    assert "does not reach unused.output" in str(found.value(Site("unused", "output")))


def test_the_order_is_that_of_the_forward(net: Net) -> None:
    found = scan(net, (X,))
    first, again, inner = (found.place(site) for site in (Site("first", "output"), Site("first", "output", 1), Site("split", "input")))
    assert first < again < inner < found.place(Site("", "output")) < found.place(Site("", "result"))
    assert found.place(Site("unused", "output")) is None


def test_nothing_changes_and_no_hook_runs(net: Net) -> None:
    ran: list[Any] = []
    handles = [
        torch.nn.modules.module.register_module_forward_hook(lambda *_: ran.append("global")),
        net.first.register_forward_hook(lambda *_: ran.append("own")),
        net.norm.register_forward_pre_hook(lambda *_: ran.append("before")),
    ]
    before, numbers = state(net), torch.get_rng_state()
    found = scan(net, (X,))
    assert (ran, found.hooked) == ([], ("first", "norm"))
    assert state(net) == before
    assert torch.equal(torch.get_rng_state(), numbers)
    for handle in handles:
        handle.remove()


class Draws(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(5) * torch.zeros(5)


def test_a_scan_within_a_trace_records_nothing() -> None:
    net = Draws()
    model = nnsight.NNsight(net)
    with torch.device("cpu"), model.trace(X) as tracer:
        with torch.device("meta"):
            found = scan(net, (X,))
        doubled = (model.output * 2 + torch.ones(5)).save()
    assert found.blind is False
    assert not found.complete  # torch.randn gave a tensor on the meta device, as it would in a real forward
    assert len(tracer.graph) == 4
    assert doubled.shape == (3, 5)


def test_arguments_are_not_written_to(net: Net) -> None:
    x, store = torch.zeros(2, 5), [torch.zeros(2, 5)]
    writes = Eye(lambda given: (given[0].add_(1), given[1].append(given[0]), given[1][0].mul_(0)))
    scan(writes, ((x, store),))
    assert (x.sum(), len(store), x._version, store[0]._version) == (0, 1, 0, 0)


def test_no_weights_are_needed() -> None:
    with torch.device("meta"):
        bare = Net()
    found = scan(bare, (X,))
    assert found.complete
    assert found.values == scan(Net(), (X,)).values
    assert scan(bare, (X.to("meta"),)).value(Site("", "result"))["scores"].device.type == "meta"
    assert scan(bare, (spec_of(X),)).value(Site("", "result"))["scores"].device.type == "cpu"


def test_a_device_that_is_not_there_ends_the_scan() -> None:
    there = Spec(torch.Size([3, 5]), torch.float32, torch.device("cuda", 99), False, torch.strided, (5, 1))
    assert not scan(Net(), (there,)).complete


# ---------------------------------------------------------------------- where it ends


@pytest.mark.parametrize(
    ("look", "error"),
    [
        (lambda x: x.sum().item(), "DataDependentOutputException"),
        (lambda x: bool(x.any()), "DataDependentOutputException"),
        (lambda x: x[x > 0], "DynamicOutputShapeException"),
        (lambda x: x.detach().numpy(), "RuntimeError"),
    ],
)
def test_what_hangs_on_numbers_is_unknown_and_what_comes_before_is_not(look: Any, error: str) -> None:
    net = Looks(look)
    before = state(net)
    found = scan(net, (X,))
    assert found.value(Site("before", "output")).shape == (3, 5)
    unknown = found.value(Site("after", "output"))
    assert isinstance(unknown, Unknown)
    assert f"ended in eye: {error}" in unknown.reason
    assert (found.complete, found.blind, found.at, found.unreached) == (False, True, "eye", frozenset())
    assert state(net) == before


def test_a_mistake_is_told_from_what_fakes_cannot_know(net: Net, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    before = state(net)
    with caplog.at_level(logging.DEBUG):
        found = scan(net, (torch.rand(3, 6),))
    assert (found.complete, found.blind, found.at) == (False, False, "first")
    assert (caplog.text, capfd.readouterr().err) == ("", "")
    assert state(net) == before


def test_an_interrupt_passes_and_leaves_nothing() -> None:
    def interrupt(_x: Any) -> None:
        raise KeyboardInterrupt

    net = Looks(interrupt)
    before, filters = state(net), logging.getLogger("torch._subclasses.fake_tensor").filters.copy()
    with pytest.raises(KeyboardInterrupt):
        scan(net, (X,))
    assert state(net) == before
    assert logging.getLogger("torch._subclasses.fake_tensor").filters == filters
    assert type(torch.zeros(1)) is torch.Tensor


def test_a_model_that_catches_its_own_error_goes_on() -> None:
    class Tries(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = torch.nn.Linear(9, 9), torch.nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> Any:
            try:
                return self.bad(x)
            except RuntimeError:
                return self.good(x)

    found = scan(Tries(), (X,))
    assert found.complete
    assert found.place(Site("bad", "output")) is None
    assert found.place(Site("good", "output")) is not None


# ---------------------------------------------------------------------- the cache


def test_an_equal_call_is_scanned_once(net: Net) -> None:
    assert scanned(net, (X,)) is None
    found = scan(net, (X,), {"scale": 2.0})
    assert scan(net, (torch.zeros(3, 5),), {"scale": 2.0}) is scanned(net, (spec_of(X),), {"scale": 2.0}) is found


def changed_dtype(net: Net) -> None:
    net.double()


def changed_flag(net: Net) -> None:
    net.norm.track_running_stats = False


def changed_mode(net: Net) -> None:
    net.eval()


def changed_grad(net: Net) -> None:
    net.requires_grad_(False)


def changed_module(net: Net) -> None:
    net.first = torch.nn.Linear(5, 5)


@pytest.mark.parametrize("change", [changed_dtype, changed_flag, changed_mode, changed_grad, changed_module])
def test_a_changed_model_is_scanned_again(net: Net, change: Any) -> None:
    scan(net, (X,))
    change(net)
    assert scanned(net, (X,)) is None


def test_another_call_is_scanned_again(net: Net) -> None:
    scan(net, (X,))
    others = [X[:2], X.double(), X.clone().requires_grad_(), X.to("meta"), torch.rand(5, 3).T]
    assert [scanned(net, (other,)) for other in others] == [None] * 5
    assert scanned(net, (X,), {"scale": 1}) is scanned(net, (X,), {"scale": True}) is scanned(net, (object(),)) is None
    with torch.no_grad():
        assert scanned(net, (X,)) is None
    with torch.autocast("cpu"):
        assert scanned(net, (X,)) is None


def test_the_cache_is_bounded(net: Net) -> None:
    for rows in range(2, 40):
        scan(net, (torch.zeros(rows, 5),))
    assert sum(scanned(net, (torch.zeros(rows, 5),)) is not None for rows in range(2, 40)) == 16


def test_a_model_is_not_kept_alive() -> None:
    net = Net()
    kept = scan(net, (X,))
    gone = weakref.ref(net)
    del net
    assert gone() is None
    assert kept.complete


def test_no_fake_survives_a_scan(net: Net) -> None:
    gc.collect()
    gc.disable()
    try:
        before = {id(each) for each in gc.get_objects() if type(each) is FakeTensor}  # what torch.compile keeps
        scan(net, (X,), {"scale": 3.0})
        scan(Looks(lambda x: x.sum().item()), (X,))
        left = [each for each in gc.get_objects() if type(each) is FakeTensor and id(each) not in before]
    finally:
        gc.enable()
    assert left == []


def test_threads_scan_one_model_at_once(net: Net) -> None:
    found: list[Scan] = []
    threads = [threading.Thread(target=lambda rows=rows: found.append(scan(net, (torch.zeros(rows, 5),)))) for rows in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.value(Site("first", "output")).shape[0] for each in found) == list(range(2, 10))


# ---------------------------------------------------------------------- other sizes, and single operations


def test_two_sizes_show_which_dimensions_hang_on_the_input() -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6))
    ids = torch.zeros(1, 7, dtype=torch.long)
    length, batch = (scan(net, resized((ids,), dim)) for dim in (1, 0))
    here = scan(net, (ids,)).value(Site("1", "output"))
    assert varying(here, length.value(Site("1", "output"))) == (False, True, False)
    assert varying(here, batch.value(Site("1", "output"))) == (True, False, False)
    assert varying({"a": (here, 3)}, {"a": (here, 4)}) == {"a": ((False, False, False), None)}
    assert varying(here, None) is varying((here,), ()) is None


def test_single_operations_are_evaluated_on_specs() -> None:
    x = spec_of(torch.zeros(1, 10))
    assert evaluate_on_fakes(lambda one, pair: one + pair[0], x, (spec_of(torch.zeros(3, 1)),)).shape == (3, 10)
    assert isinstance(evaluate_on_fakes(torch.Tensor.to, x, torch.float16), Spec)
    active = spec_of(torch.zeros(1, 10, requires_grad=True) * 2)
    assert evaluate_on_fakes(lambda value: value[:, 3].mul_(2), active) == Spec(torch.Size([1]), x.dtype, x.device, True, x.layout, (10,))
    with pytest.raises(IndexError, match="index 10 is out of bounds for dimension 1 with size 10"):
        evaluate_on_fakes(lambda value: value[:, 10], x)
    with pytest.raises(RuntimeError) as caught:
        evaluate_on_fakes(lambda value: value.tolist(), x)
    assert is_blind(caught.value)


MISTAKES = {
    "index": lambda x, y: x[:, 10],
    "rows": lambda x, y: x[7],
    "shapes": lambda x, y: x + y,
    "matmul": lambda x, y: x @ y,
    "linear": lambda x, y: torch.nn.functional.linear(x, y),
    "view": lambda x, y: x.view(7, 2),
    "reshape": lambda x, y: x.reshape(7, -1),
    "cat": lambda x, y: torch.cat([x, y]),
    "stack": lambda x, y: torch.stack([x, y]),
    "dimension": lambda x, y: x.sum(5),
    "dtype": lambda x, y: x @ y.T[:10].double(),
    "write": lambda x, y: x.__setitem__(slice(None), y),
    "einsum": lambda x, y: torch.einsum("ab,bc->ac", x, y),
    "permute": lambda x, y: x.permute(0, 1, 2),
    "squeeze": lambda x, y: x.transpose(0, 4),
    "in place": lambda x, y: x.add_(y),
    "split": lambda x, y: x.split([3, 3], 1),
    "gather": lambda x, y: x.gather(1, y),
    "expand": lambda x, y: x.expand(2, 3, 11),
    "norm": lambda x, y: torch.nn.functional.layer_norm(x, (11,)),
    "too many": lambda x, y: x[0, 0, 0],
    "mask": lambda x, y: x.masked_fill(y > 0, 0),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_the_words_of_real_tensors(mistake: str) -> None:
    x, y = torch.zeros(3, 10), torch.zeros(4, 7)
    with pytest.raises((RuntimeError, IndexError)) as real:
        MISTAKES[mistake](x, y)
    with pytest.raises((RuntimeError, IndexError)) as fake:
        evaluate_on_fakes(MISTAKES[mistake], spec_of(x), spec_of(y))
    assert (type(fake.value), str(fake.value)) == (type(real.value), str(real.value))
    assert not is_blind(fake.value)


COPIES = """
import copy, torch
from nnsight_graph.graph import Site
from nnsight_graph.run.scan import scan

class Counts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x):
        count = torch.tensor(3)
        first, second = copy.deepcopy([count, count])
        return self.linear(copy.deepcopy(x)) + first + (first is second)

net = Counts()
for rows in range(2, 30):
    found = scan(net, (torch.rand(rows, 3),))
    assert found.complete, found.stopped
    assert found.value(Site("", "result")).shape == (rows, 3)
"""


def test_a_fake_with_a_known_number_is_copied_without_its_memory() -> None:
    """As a cache's layer is copied, which counts its tokens in a tensor; in a process of its own, which torch may end."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COPIES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
