"""What files of strangers tried to leave behind, or to make a model do: in modules, sessions, containers, names."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import safetensors.torch
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import GraphFormatError, Limits, NNsight, NNsightError
from nnsight_graph.ops.data import admitted, delivered, differs, items_of

from .test_untrusted import LIMITS, X, arguments, constant, group, site, written

CALL = "call"


def unchanged(run: Callable[[], Any], *tensors: Any) -> None:
    """What a run leaves as it was, whether it is refused or not."""
    before = [tensor.copy() if isinstance(tensor, numpy.ndarray) else tensor.detach().clone() for tensor in tensors]
    try:
        run()
    except (NNsightError, TypeError):
        pass
    for tensor, old in zip(tensors, before, strict=True):
        assert (tensor == old).all()


# ---------------------------------------------------------------------- tensors that a model keeps, wherever


class Holder:
    """An object with methods, as caches are."""

    __slots__ = ("inner", "table")

    def __init__(self) -> None:
        self.table, self.inner = torch.ones(4), None

    def get(self) -> torch.Tensor:
        return self.table


GLOBAL = torch.ones(4)


class Keeping(nn.Module):
    of_class = torch.ones(4)

    def __init__(self) -> None:
        super().__init__()
        self.holder, self.queue, self.several = Holder(), deque([torch.ones(4)]), {torch.ones(4)}
        self.array, self.other = numpy.ones(4), numpy.ones(4)

    def held(self) -> list[Any]:
        return [self.holder.table, self.queue[0], self.of_class, GLOBAL, *self.several, self.array, self.other]

    def forward(self, x: torch.Tensor) -> Any:
        return [*self.held()[:-1], torch.from_numpy(self.other)]


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.keep = Keeping()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.keep(x)[0]


@LIMITS
@pytest.mark.parametrize("place", range(7))
def test_what_models_keep_in_objects_classes_and_arrays(tmp_path: Path, limits: Limits | None, place: int) -> None:
    for change in ("setitem", [1, constant(2), constant(1)]), ("imul", [1, constant(1)]):
        model = NNsight(Outer())
        nodes = [["read", [], site("keep")], ["getitem", [0, constant(0)]], list(change), ["read", [], site("")]]
        graph = written(tmp_path, nodes, [place, 7.0, 0], 3)
        unchanged(lambda graph=graph, model=model: graph.run(model, X, limits=limits), *model._module.keep.held())


def test_what_a_run_makes_can_be_edited_in_place(tmp_path: Path) -> None:
    """Also where the storage was another tensor's, which the model has let go."""

    class Latest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.latest = nn.Identity(), torch.ones(2, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            del self.latest
            self.latest = self.fc(x + 1)
            return self.latest

    model = NNsight(Latest())
    graph = written(tmp_path, [["read", [], site("fc")], ["imul", [0, constant(0)]], ["read", [], site("")]], [7.0], 2)
    for _ in range(3):
        assert torch.equal(graph.run(model, X)["v"], (X + 1) * 7)


def test_arrays_are_copies_and_known_again() -> None:
    array = numpy.arange(3.0)
    shown = admitted([array])
    assert shown[0] is not array
    assert not differs(shown, [array])
    shown[0][1] = 7
    assert differs(shown, [array])
    assert array[1] == 1
    assert delivered(shown, [array])[0][1] == 7


# ---------------------------------------------------------------------- modules that work in place


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.table = nn.Linear(4, 4).requires_grad_(False), nn.ReLU(inplace=True), torch.full((4,), -1.0)
        self.fc.weight.fill_(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.fc(x) + self.table)


@LIMITS
def test_calls_of_modules_that_work_in_place(tmp_path: Path, limits: Limits | None) -> None:
    model, given = NNsight(InPlace()), -X
    weight, table = model._module.fc.weight, model._module.table
    for kind in ("module", "listening"):
        for read in (["parameter", [], site("fc.weight", "parameter")], ["read", [], site("fc", "input")]):
            nodes = [read, [".view", [0, constant(0)]], [kind, [1], site("act", CALL)], ["read", [], site("")]]
            graph = written(tmp_path, nodes, [-1], 2)
            unchanged(lambda graph=graph: graph.run(model, given, limits=limits), weight, given, table)
    nodes = [["parameter", [], site("fc.weight", "parameter")], ["module", [0], site("act", CALL)], ["read", [], site("")]]
    assert not written(tmp_path, nodes, [], 1).run(model, X, limits=limits)["v"].any()


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


@LIMITS
def test_a_weight_in_the_place_of_a_buffer(tmp_path: Path, limits: Limits | None) -> None:
    model = NNsight(Normed().train())
    replace = ["replace", ["running_mean", 0], site("norm", "inputs")]
    graph = written(tmp_path, [["parameter", [], site("norm.weight", "parameter")], replace, ["read", [], site("")]], [], 2)
    unchanged(lambda: graph.run(model, torch.randn(8, 4), limits=limits), model._module.norm.weight)


class Scaling(nn.Module):
    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        return states[-1].mul_(3)


class Listing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scaling = Scaling()
        self.register_buffer("table", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaling([x.clone()])


@LIMITS
def test_a_buffer_in_a_list_that_the_model_edits(tmp_path: Path, limits: Limits | None) -> None:
    model = NNsight(Listing())
    for change in ([".append", [0, 1]], ["iadd", [0, group("list", 1)]], [".insert", [0, constant(0), 1]]):
        nodes = [["read", [], site("scaling", "input")], ["parameter", [], site("table", "parameter")], change, ["read", [], site("")]]
        graph = written(tmp_path, nodes, [1], 3)
        unchanged(lambda graph=graph: graph.run(model, X, limits=limits), model._module.table)
        assert torch.equal(graph.run(model, X, limits=limits)["v"], torch.full((4,), 3.0))


# ---------------------------------------------------------------------- sessions


def session(folder: Path, body: list[Any], constants: list[Any], traces: list[int], saves: list[Any] | None = None) -> Any:
    """A session whose first constant is a tensor of ones, the input of its traces."""
    text = [["t", 0, [], False], *(["i", str(c)] if isinstance(c, int) else ["f", c.hex()] for c in constants)]
    document = {
        "format": 1, "ops": 1, "kind": "session", "body": [body], "constants": text, "saves": saves or [],
        "traces": [[node, 0, False] for node in traces],
    }  # fmt: skip
    path = folder / "stranger.nng"
    path.write_bytes(safetensors.torch.save({"0": torch.ones(2, 4)}, metadata={"nnsight_graph": json.dumps(document)}))
    return nnsight.load(path)


def trace(given: Any, *nodes: Any) -> list[Any]:
    return ["trace", ["", given], None, [], [[[*nodes]]]]


WEIGHT = ["parameter", [], ["fc.weight", "parameter", 0, 0]]
TABLE = ["read", [], ["table", "output", 0, 0]]


class Session(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.table = nn.Linear(4, 4).requires_grad_(False), Passing()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.mul_(1.5) @ self.fc.weight) + self.table(x)


class Passing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.kept


@LIMITS
@pytest.mark.parametrize("read", [WEIGHT, TABLE], ids=["weight", "kept"])
def test_lines_of_sessions_edit_copies(tmp_path: Path, limits: Limits | None, read: list[Any]) -> None:
    model = NNsight(Session())
    first, edit = trace(["c", 0], read), [".mul_", [1, ["c", 1]]]
    out = ["read", [], ["", "output", 0, 0]]
    weight, kept = model._module.fc.weight, model._module.table.kept
    for body, traces in (
        ([first, edit], [0]),
        ([first, [".requires_grad_", [1]]], [0]),
        ([first, trace(["c", 0], edit, out)], [0, 3]),
        ([first, trace(1, out)], [0, 3]),  # the model edits its input
    ):
        graph = session(tmp_path, body, [7.0], traces)
        unchanged(lambda graph=graph: graph.run(model, limits=limits), weight, kept)
        assert not weight.requires_grad
        assert not kept.requires_grad
    saved = session(tmp_path, [first, edit, ["save", [3]]], [7.0], [0], [[3, "v"]]).run(model, limits=limits)["v"]
    assert torch.equal(saved, (weight if read is WEIGHT else kept) * 7)


# ---------------------------------------------------------------------- gradients


@LIMITS
def test_gradients_of_what_the_caller_holds(tmp_path: Path, limits: Limits | None) -> None:
    model, leaf = NNsight(nn.Linear(4, 4)), torch.ones(2, 4, requires_grad=True)
    kept = torch.ones(4, requires_grad=True)
    model._module.register_forward_hook(lambda _module, _args, output: output * kept)
    graph = written(tmp_path, [["read", [], site("")], [".sum", [0]], ["backward", ["0", 1]]], [])
    graph.run(model, leaf, limits=limits)
    graph.run(model, leaf * 2, limits=limits)
    assert leaf.grad is None
    assert kept.grad is None


# ---------------------------------------------------------------------- what is a container of data


OPTIONS = {"a": 1.0}


class Named(NamedTuple):
    hidden: Any

    @property
    def options(self) -> dict[str, float]:
        return OPTIONS

    @property
    def shape(self) -> dict[str, float]:
        return OPTIONS


ENDED: list[Any] = []


class Owning:
    def __init__(self) -> None:
        self.path = "x"

    def __del__(self, ended: list[Any] = ENDED) -> None:
        ended.append(self)


@dataclass
class OwningFields:
    path: str = "x"

    def __del__(self, ended: list[Any] = ENDED) -> None:
        ended.append(self)


class Writing:
    written: list[Any] = []  # noqa: RUF012  (what a class keeps)

    def __init__(self) -> None:
        self.path = "x"

    def __setitem__(self, key: Any, value: Any) -> None:
        self.written.append(value)


class Linked:
    def __init__(self) -> None:
        self.one, self.other, self.number = self, self, 3


HELD = (Owning(), OwningFields(), Writing(), Linked())


class Handing(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return Named(x), *HELD


class Given(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hand = Handing()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hand(x)[0].hidden


@LIMITS
@pytest.mark.parametrize("name", ["@options", "@shape"])
def test_properties_of_named_tuples_give_copies(tmp_path: Path, limits: Limits | None, name: str) -> None:
    nodes = [
        ["read", [], site("hand")], ["getitem", [0, constant(0)]], [name, [1]], ["setitem", [2, constant(1), constant(2)]],
        ["read", [], site("")],
    ]  # fmt: skip
    written(tmp_path, nodes, [0, "a", 7.0], 4).run(NNsight(Given()), X, limits=limits)
    assert OPTIONS == {"a": 1.0}


@LIMITS
def test_objects_that_do_something_are_no_data(tmp_path: Path, limits: Limits | None) -> None:
    model = NNsight(Given())
    values = written(tmp_path, [["read", [], site("hand")]], [], 0).run(model, X, limits=limits)
    assert values["v"][1:4] == HELD[:3]
    assert values["v"][4].number == 3
    assert values["v"][4].one is HELD[3]
    nodes = [["read", [], site("hand")], ["getitem", [0, constant(0)]], ["setitem", [1, constant(0), constant(0)]], ["read", [], site("")]]
    with pytest.raises(TypeError):
        written(tmp_path, nodes, [3], 3).run(model, X, limits=limits)
    assert ENDED == []
    assert Writing.written == []
    assert [items_of(value) for value in HELD[:3]] == [None] * 3


# ---------------------------------------------------------------------- texts


class Naming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind, self.wiped = "plain", False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        name = "do_" + self.kind
        return getattr(self, name)(torch.add(x, 1))

    def do_plain(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def wipe(self, x: torch.Tensor) -> torch.Tensor:
        self.wiped = True
        return x


@LIMITS
def test_texts_inside_forwards_stay(tmp_path: Path, limits: Limits | None) -> None:
    """They may be names of what the model looks up."""
    model, out = NNsight(Naming()), ["read", [], site("")]
    put = "a program handles data: it cannot put another text into a forward"
    for attempt in (
        ["write", [constant(0)], site("source.op_add_0")],
        ["write", [group("tuple", group("tuple", constant(1), constant(2)), group("dict"))], site("source.op_add_0", "inputs")],
        ["skip", [constant(0)], site("source.op_add_0", "inputs")],
    ):
        with pytest.raises((NNsightError, TypeError), match=put):
            written(tmp_path, [attempt, out], ["wipe", "wi", "pe"], 1).run(model, X, limits=limits)
    assert not model._module.wiped
    right = [["write", [arguments(constant(0), constant(0))], site("source.torch_add_0", "inputs")], out]
    assert written(tmp_path, right, [4.0], 1).run(model, X, limits=limits)["v"] == 8


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * len(self.softmax(x))

    def softmax(self, x: torch.Tensor) -> list[Any]:
        return [x, x]


def test_what_only_has_the_name_of_attention_weights(tmp_path: Path) -> None:
    graph = written(tmp_path, [["read", [], site("source.attention_weights")]], [], 0)
    with pytest.raises(NNsightError, match="the model has no attention weights"):
        graph.run(NNsight(Odd()), X)


ESCAPE = "\x1b[31mred"


@pytest.mark.parametrize(
    "node",
    [["read", [], site(ESCAPE)], ["read", [], site("", ESCAPE)], [ESCAPE, []], ["log", [ESCAPE]], ["log", [], None, [[ESCAPE, "x"]]]],
    ids=["path", "point", "operation", "word", "keyword"],
)
def test_words_that_terminals_obey(tmp_path: Path, node: list[Any]) -> None:
    with pytest.raises(GraphFormatError) as error:
        written(tmp_path, [node], [])
    assert "\x1b" not in str(error.value)


def test_texts_that_terminals_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = written(tmp_path, [["read", [], site("")], ["log", [constant(0)]]], [f"a\n{ESCAPE}"])
    graph.run(NNsight(nn.Identity()), X)
    assert capsys.readouterr().out == "a\n\\x1b[31mred\n"
    assert "\x1b" not in str(graph)
