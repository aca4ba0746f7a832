"""Programs of strangers take no more than they may, handle data alone, and leave the model as it is."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnsight_graph import GraphFormatError, LanguageModel, LimitError, Limits, NNsight, NNsightError, apply
from nnsight_graph.model.saved import SavedGraph
from nnsight_graph.serialize.content import Content

pytestmark = pytest.mark.slow

SMALL = Limits(operations=2_000, value_bytes=1 << 20, integer_bits=256)
X = torch.ones(2, 4)
Node = list[Any]


class Owner(nn.Module):
    """A model whose sites show its own weight and buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.table = Table()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.fc(x) + self.table(x), self.fc.weight)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(2, 4))

    def forward(self, x: torch.Tensor) -> Any:
        return self.kept


def graph_of(*nodes: Node, constants: tuple[Any, ...] = (), saved: int = -1, tensors: tuple[torch.Tensor, ...] = ()) -> SavedGraph:
    """A program as a stranger writes it: its lines, what is saved, its constants."""
    place = len(nodes) - 1 if saved < 0 else saved
    body = [[[target, list(operands), site, []] for target, *operands, site in nodes] + [["save", [place]]]]
    table = [["t", i] for i in range(len(tensors))] + [["i", str(one)] if isinstance(one, int) else ["s", one] for one in constants]
    document = {"format": 1, "ops": 1, "kind": "trace", "body": body, "constants": table, "saves": [[place, "out"]]}
    return SavedGraph(Content(json.dumps(document).encode(), list(tensors)))


READ = ["read", ["", "output", 0, 0]]
LINEAR = "source.nn_functional_linear_0"
NO_GRAD = ["under", "grad=False, inference=False", None]


def c(place: int) -> list[Any]:
    return ["c", place]


def doubled(target: str, count: int, start: Node) -> list[Node]:
    lines: list[Node] = [READ, start]
    for place in range(1, count):
        lines.append([target, ["g", "list", [place, place]], None] if target == "list" else [target, place, place, None])
    return lines


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([READ, NO_GRAD, ["len", 0, None], ["pow", 2, c(0), None]], (10**7,)),
        ([READ, ["len", 0, None], [".__rpow__", c(0), 1, None]], (10**7,)),
        ([READ, ["len", 0, None], ["str", 1, None], [".__rmul__", 2, c(0), None]], (10**9,)),
        ([READ, ["len", 0, None], ["mod", c(0), 1, None]], ("%1000000000d",)),
        ([READ, ["len", 0, None], [".zfill", c(0), c(1), None]], ("a", 10**9)),
        ([READ, ["mul", c(0), c(1), None], [".replace", 1, c(0), 1, None]], ("a", 10_000)),
        ([READ, ["range", c(0), None], ["sum", 1, None]], (10**10,)),
        ([READ, ["range", c(0), None], ["zip", 1, None], ["list", 2, None]], (10**10,)),
        (doubled("add", 40, ["str", ["g", "list", []], None]), ()),
        (doubled("add", 40, ["list", 0, None]), ()),
        ([*doubled("list", 40, ["list", ["g", "list", []], None]), ["str", 39, None]], ()),
        ([READ, ["torch.zeros", c(0), None], ["torch.unbind", 1, None]], (100_000,)),
        ([READ, ["torch.zeros", c(0), None], ["list", 1, None]], (100_000,)),
        ([READ, ["torch.zeros", c(0), None], [".tolist", 1, None]], (100_000,)),
        ([READ, ["torch.tensor_split", 0, c(0), None]], (10**8,)),
        ([READ, ["torch.special.hermite_polynomial_h", 0, c(0), None]], (10**12,)),
        ([READ, ["torch.mvlgamma", 0, c(0), None]], (10**9,)),
        ([READ, [".long", 0, None], [".abs", 1, None], [".flatten", 2, None], [".bincount", 3, "None", c(0), None]], (10**9,)),
        ([READ, [".histogram", 0, c(0), None]], (10**12,)),
        ([READ, ["torch.combinations", 0, c(0), None]], (10**9,)),
    ],
    ids=lambda value: value[-1][0] if isinstance(value, list) else "",
)  # fmt: skip
def test_more_than_there_may_be(nodes: list[Node], constants: tuple[Any, ...]) -> None:
    graph = graph_of(*nodes, constants=constants)
    start = time.perf_counter()
    with pytest.raises(LimitError):
        graph.run(NNsight(nn.Linear(4, 4)), X, limits=SMALL)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "nodes",
    [
        [["read", [LINEAR, "inputs", 0, 0]], ["getitem", 0, c(0), None], ["getitem", 1, c(1), None], ["@T", 2, None]],
        [["read", ["table", "output", 0, 0]]],
        [["parameter", ["fc.weight", "parameter", 0, 0]], ["list", ["g", "list", [0]], None], [".pop", 1, None]],
        [["parameter", ["fc.weight", "parameter", 0, 0]], ["sum", ["g", "list", []], 0, None]],
    ],
    ids=["view", "buffer", "taken out", "sum"],
)
@pytest.mark.parametrize("limits", [None, SMALL], ids=["plain", "limits"])
def test_weights_stay(nodes: list[Node], limits: Limits | None) -> None:
    module = Owner()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    last = len(nodes) - 1 if nodes[0][0] != "read" else len(nodes)
    shifted = [[target, *[_later(one) for one in operands], site] for target, *operands, site in nodes] if nodes[0][0] == "read" else nodes
    lines = [NO_GRAD, *shifted, [".zero_", last, None]] if nodes[0][0] == "read" else [*nodes, NO_GRAD, [".zero_", last, None]]
    graph = graph_of(*lines, constants=(0, 1))
    with pytest.raises(NNsightError, match="for good"):
        graph.run(NNsight(module), X, limits=limits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def _later(operand: Any) -> Any:
    return operand + 1 if isinstance(operand, int) else operand


@pytest.mark.parametrize("base", [c(0), 1])
def test_edits_of_constants_do_not_stay(base: Any) -> None:
    """Whatever the file says of itself, and also through a view."""
    lines = [READ, ["getitem", c(0), c(1), None], [".add_", base, c(1), None], ["add", c(0), c(1), None]]
    graph = graph_of(*lines, constants=(1,), tensors=(torch.zeros(2, 2),))
    model = NNsight(nn.Linear(4, 4))
    assert len({str(graph.run(model, X)["out"].tolist()) for _ in range(3)}) == 1
    assert all(not one.any() for one in graph.graph.constants if isinstance(one, torch.Tensor))


def test_edits_of_constants_and_gradients_are_gone_with_the_run() -> None:
    model = NNsight(nn.Linear(4, 4))
    graph = graph_of([".add_", c(0), c(1), None], constants=(1,), tensors=(torch.ones(2),))
    assert [graph.run(model, X, limits=SMALL)["out"].tolist() for _ in range(2)] == [[2.0, 2.0]] * 2
    with model.trace(run=False) as tracer:
        model.output.sum().backward()
    tracer.graph.run(model, X, limits=SMALL)
    assert all(parameter.grad is None for parameter in model._module.parameters())


ATTENTION = "transformer.h.3.attn.source.attention_interface_0"


@pytest.mark.parametrize("last", [[".half", 2, None], ["@config", 2, None], [".requires_grad_", 2, None], ["bound", 2, "half", None]])
@pytest.mark.parametrize("limits", [None, Limits()], ids=["plain", "limits"])
def test_programs_handle_data_alone(last: Node, limits: Limits | None) -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    lines = [["read", [ATTENTION, "inputs", 0, 0]], ["getitem", 0, c(0), None], ["getitem", 1, c(0), None], last]
    with pytest.raises(TypeError, match="a program handles data"):
        graph_of(*lines, constants=(0,)).run(lm, "The Eiffel Tower", limits=limits)
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in lm._module.parameters())


def test_configurations_write_no_files(tmp_path: Path) -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    interface = "transformer.h.4.attn.source.ALL_ATTENTION_FUNCTIONS_get_interface_0"
    graph = graph_of(
        ["read", [ATTENTION, "inputs", 0, 0]], ["getitem", 0, c(0), None], ["getitem", 1, c(0), None],
        ["@config", 2, None], ["@save_pretrained", 3, None], ["write", 4, [interface, "output", 0, 0]],
        ["write", ["g", "tuple", [["g", "tuple", [c(1)]], ["g", "dict", []]]], [ATTENTION.replace("h.3", "h.4"), "inputs", 0, 0]],
        ["read", ["lm_head", "output", 0, 0]], constants=(0, str(tmp_path / "written")),
    )  # fmt: skip
    with pytest.raises(TypeError, match="a program handles data"):
        graph.run(lm, "The Eiffel Tower")
    assert not (tmp_path / "written").exists()


def test_programs_of_ones_own_handle_anything() -> None:
    """Until a program from a file is part of them."""
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    with lm.trace("The Eiffel Tower") as tracer:
        attention = lm.transformer.h[3].attn.source.attention_interface_0.inputs[0][0]
        place, bias = attention.layer_idx.save(), attention.c_attn.bias.save()
        probe = apply(lambda hidden: nn.Linear(hidden.shape[-1], 2), lm.transformer.h[3].output)
        weight = probe.requires_grad_(False).weight.save()
    assert place == 3
    assert torch.equal(bias, lm._module.transformer.h[3].attn.c_attn.bias)
    assert weight.shape == (2, 96)
    assert not weight.requires_grad
    with lm.session(), lm.trace("The Eiffel Tower"):
        place = lm.transformer.h[2].attn.source.attention_interface_0.inputs[0][0].layer_idx.save()
    assert place == 2
    with lm.trace("The Eiffel Tower") as tracer:
        lm.transformer.h[2].attn.source.attention_interface_0.inputs[0][0].layer_idx.save("place")
    assert tracer.graph.run(lm, "The Eiffel Tower") == {"place": 2}
    for limits, graph in ((Limits(), tracer.graph.detach()), (None, SavedGraph(tracer.graph.detach()._content))):
        with pytest.raises(TypeError, match="a program handles data"):
            graph.run(lm, "The Eiffel Tower", limits=limits)


@pytest.mark.parametrize("in_session", [False, True])
def test_edits_from_files_handle_data_alone(in_session: bool) -> None:
    """Whatever trace they are part of, and whatever is made of that."""
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    body = [[["read", [], [ATTENTION, "inputs"]], ["getitem", [0, c(0)]], ["getitem", [1, c(0)]], [".requires_grad_", [2, "False"]]]]
    document = {"format": 1, "ops": 1, "kind": "edit", "body": body, "constants": [["i", "0"]]}
    edited = SavedGraph(Content(json.dumps(document).encode(), [])).edit(lm)
    with pytest.raises(TypeError, match="a program handles data"):
        with edited.session() if in_session else nullcontext(), edited.trace("The Eiffel Tower"):
            edited.lm_head.output.save()
    with edited.trace("The Eiffel Tower", run=False) as tracer:
        edited.lm_head.output.save()
    with pytest.raises(TypeError, match="a program handles data"):
        tracer.graph.run(lm, "The Eiffel Tower")
    assert all(parameter.requires_grad for parameter in lm._module.parameters())


@pytest.mark.parametrize("name", ["register_hook", "numpy", "set_", "untyped_storage", "apply_"])
def test_methods_are_no_attributes(name: str) -> None:
    with pytest.raises(GraphFormatError, match="may not stand in a graph file"):
        graph_of(READ, ["@" + name, 0, None])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (["add", None], "add does not take these"),
        (["setitem", 0, 0, None], "setitem does not take these"),
        ([".sum", None], ".sum does not take these"),
        (["save", "x", None], "save does not take these"),
        (["param", 0, "first", None], "param may not name 'first'"),
        (["backward", "one", 0, None], "backward may not name 'one'"),
    ],
)
def test_operands_that_are_not_there(node: Node, message: str) -> None:
    with pytest.raises(GraphFormatError, match=message):
        graph_of(READ, node, saved=0)


@pytest.mark.parametrize("words", ["0:1000000000000:1", "0:999999:1", "0:None:0", "0:2:-1", "0,99999999999", "x"])
def test_steps_that_are_too_many(words: str) -> None:
    body = [[["steps", [words], None, [], [[[], ["False"]]]]]]
    text = json.dumps({"format": 1, "ops": 1, "kind": "trace", "body": body}).encode()
    with pytest.raises(GraphFormatError, match=r"may not name|more than 200000 nodes"):
        SavedGraph(Content(text, []))


def test_many_loops_are_checked_in_time() -> None:
    loops = [["while", [], None, [], [[[], ["False"]]]] for _ in range(20_000)]
    body = [[["read", [], ["", "output", 0, 0]], *[["add", [0, 0]]] * 20_000, *loops]]
    text = json.dumps({"format": 1, "ops": 1, "kind": "trace", "body": body}).encode()
    start = time.perf_counter()
    SavedGraph(Content(text, []))
    assert time.perf_counter() - start < 4


def test_many_names_are_checked_in_time() -> None:
    body = [[["read", [], ["", "output", 0, 0]], ["save", [0]]]]
    saves = [[0, f"name_{place}"] for place in range(30_000)]
    text = json.dumps({"format": 1, "ops": 1, "kind": "trace", "body": body, "saves": saves}).encode()
    start = time.perf_counter()
    assert len(SavedGraph(Content(text, [])).names) == 30_000
    assert time.perf_counter() - start < 4
