"""Files of strangers compute, and do nothing else: every way out that was found, and what each defence alone keeps in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, Limits, NNsight, NNsightError, RecordError
from nnsight_graph.model.saved import SavedGraph
from nnsight_graph.run import local, untrusted

X = torch.ones(2, 4)
PUT = "a program handles data: it cannot put"
LIMITS = pytest.mark.parametrize("limits", [None, Limits()], ids=["without limits", "with limits"])


def written(folder: Path, nodes: list[list[Any]], constants: list[Any], save: int | None = None, kind: str = "trace") -> SavedGraph:
    """A file as anybody can write it: nodes are ``[operation, operands, site, keywords]``."""
    body = [[node[0], node[1], node[2] if len(node) > 2 else None, node[3] if len(node) > 3 else [], []] for node in nodes]
    text = [["i", str(c)] if isinstance(c, int) else ["f", c.hex()] if isinstance(c, float) else ["s", c] for c in constants]
    saves = [] if save is None else [[save, "v"]]
    document = {
        "format": 1, "ops": 1, "kind": kind, "body": [[*body, *([["save", [save]]] if save is not None else [])]],
        "constants": text, "saves": saves,
    }  # fmt: skip
    path = folder / "stranger.nng"
    path.write_bytes(safetensors.torch.save({}, metadata={"nnsight_graph": json.dumps(document)}))
    return nnsight.load(path)


def constant(place: int) -> list[Any]:
    return ["c", place]


def group(kind: str, *items: Any) -> list[Any]:
    return ["g", kind, list(items)]


def site(path: str, point: str = "output") -> list[Any]:
    return [path, point, 0, 0]


def arguments(*args: Any) -> list[Any]:
    return group("tuple", group("tuple", *args), group("dict"))


def without(monkeypatch: pytest.MonkeyPatch, *defences: str) -> None:
    """Switch defences off: ``sites``, the closed list, and texts that stay there; ``reads`` and ``writes``, what passes there."""
    if "sites" in defences:
        monkeypatch.setattr(untrusted.UntrustedRun, "permit", lambda *_: None)
        monkeypatch.setattr(untrusted.UntrustedRun, "permit_call", lambda _run, _path, target, *_: target)
        monkeypatch.setattr(untrusted.UntrustedRun, "_reject_texts", lambda *_: None)
    if "reads" in defences:
        monkeypatch.setattr(untrusted, "admitted", lambda value: value)
    if "writes" in defences:
        monkeypatch.setattr(untrusted, "delivered", lambda value, *_: value)
    if "data" in defences:
        monkeypatch.setattr(local, "UntrustedRun", Trusting)


class Trusting(untrusted.UntrustedRun):
    """A run without any of them."""

    arrive = untrusted.Run.arrive  # type: ignore[assignment]
    skip, keep_last, _owns = untrusted.Run.skip, untrusted.Run.keep_last, untrusted.Run._owns
    permit = permit_call = lambda _run, _path, target, *_: target  # type: ignore[assignment]

    def guard(self, *_: Any) -> None:
        pass


def refused(run: Callable[[], Any], match: str) -> None:
    with pytest.raises(NNsightError, match=match):
        run()


# ---------------------------------------------------------------------- operations inside forwards


class Asking(nn.Module):
    """Its forward does what forwards of real models do beside computing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.kind = "relu"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        name = getattr(self, "kind")  # noqa: B009
        where = os.environ.get("HOME", "")
        return self.scaled(torch.nn.functional.relu(self.fc(x)), len(where) * 0 + len(name) * 0 + 1)

    def scaled(self, x: torch.Tensor, by: float) -> torch.Tensor:
        return torch.mul(x, by)


@LIMITS
def test_a_look_up_that_a_file_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None) -> None:
    monkeypatch.setenv("NNSIGHT_SECRET", "s3cr3t")
    nodes = [["write", [arguments(constant(0))], site("source.os_environ_get_0", "inputs")], ["read", [], site("source.os_environ_get_0")]]
    graph, model = written(tmp_path, nodes, ["NNSIGHT_SECRET"], 1), NNsight(Asking())
    refused(lambda: graph.run(model, X, limits=limits), r"source\.os_environ_get_0: it calls .*get, which is not among the operations")
    without(monkeypatch, "sites")
    assert graph.run(model, X, limits=limits)["v"] == "s3cr3t"


@LIMITS
def test_a_site_in_what_an_operation_calls(tmp_path: Path, limits: Limits | None) -> None:
    graph = written(tmp_path, [["read", [], site("source.self_scaled_0.source.torch_mul_0")]], [], 0)
    refused(lambda: graph.run(NNsight(Asking()), X, limits=limits), "does not look into what an operation calls")


def test_methods_of_the_model_itself(tmp_path: Path) -> None:
    graph = written(tmp_path, [["read", [], site("source.self_scaled_0")]], [], 0)
    refused(lambda: graph.run(NNsight(Asking()), X), r"it calls Asking\.scaled")


@LIMITS
def test_reviewed_operations_and_modules(tmp_path: Path, limits: Limits | None) -> None:
    model = NNsight(Asking())
    with model.trace(X) as tracer:
        model.source.torch_nn_functional_relu_0.input = model.source.self_fc_0.output * -1
        model.source.torch_nn_functional_relu_0.output.save("hidden")
        model.output.save("out")
    tracer.graph.save(tmp_path / "own.nng")
    expected = torch.relu(-model._module.fc(X))
    values = nnsight.load(tmp_path / "own.nng").run(model, X, limits=limits)
    assert torch.equal(values["hidden"], expected)
    assert torch.equal(values["out"], expected)


class Summing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.copy_(x.sum(0))
        return torch.add(x, self.total)


@LIMITS
def test_arguments_that_a_file_writes_to_a_reviewed_operation(tmp_path: Path, limits: Limits | None) -> None:
    model = NNsight(Summing())
    copied, added = site("source.self_total_copy__0", "inputs"), site("source.torch_add_0", "inputs")
    fill = [["read", [], added], ["write", [arguments(constant(0))], copied]]
    refused(lambda: written(tmp_path, fill, [7.0], 0).run(model, X, limits=limits), r"\.copy_ writes into its arguments")
    total = model._module.total
    out = [
        ["read", [], added], ["getitem", [0, constant(0)]], ["getitem", [1, constant(1)]],
        ["write", [group("tuple", 1, group("dict", constant(2), 2))], added],
        ["read", [], site("")],
    ]  # fmt: skip
    refused(lambda: written(tmp_path, out, [0, 1, "out"], 4).run(model, X, limits=limits), r"torch\.add takes no argument 'out'")
    assert torch.equal(total, X.sum(0))


# ---------------------------------------------------------------------- what sites deliver, and are given


@dataclass
class Record:
    hidden: torch.Tensor
    parts: list[Any]


class Keeping(nn.Module):
    """A module that passes on what it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Any] = [1.0]
        self.options = {"scale": 1.0}
        self.table = torch.ones(4)

    def forward(self, x: torch.Tensor) -> Any:
        return x * self.options["scale"], self.steps, self.options, self.table


class Deciding(nn.Module):
    def forward(self, x: torch.Tensor, act: Any = torch.relu, then: Any = torch.tanh) -> Any:
        return act(x), then


class Machinery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.keep, self.first, self.second = Keeping(), Deciding(), Deciding()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, steps, options, table = self.keep(x)
        x, _ = self.first(x * sum(steps) * table, torch.relu, then=os.getcwd)
        x, _ = self.second(x, act=torch.abs)
        return x * options["scale"]


def kept(model: NNsight) -> Any:
    keep = model._module.keep
    return list(keep.steps), dict(keep.options), keep.table.clone()


def test_a_constant_that_nothing_uses(tmp_path: Path) -> None:
    """Plans are kept by the structure of programs; the number of constants belongs to it."""
    model, nodes = NNsight(nn.Identity()), [["read", [], site("")], ["add", [0, constant(0)]], ["mul", [1, constant(1)]]]
    for constants in ([1, 2], [1, 2, 7.5], [1, 2]):
        assert torch.equal(written(tmp_path, nodes, constants, 2).run(model, X)["v"], (X + 1) * 2)


def changes(nodes: list[list[Any]], constants: list[Any], folder: Path, model: NNsight, limits: Limits | None = None) -> bool:
    """Whether a program changes what the model keeps, whatever else becomes of it."""
    before, end = kept(model), len(nodes)
    graph = written(folder, [*nodes, ["read", [], site("")]], constants, end)
    try:
        graph.run(model, X, limits=limits)
    except Exception:
        pass
    after = kept(model)
    return not (before[:2] == after[:2] and torch.equal(before[2], after[2]))


KEPT: dict[str, list[list[Any]]] = {
    "a list": [["read", [], site("keep")], ["getitem", [0, constant(0)]], [".append", [1, constant(2)]]],
    "a dict": [["read", [], site("keep")], ["getitem", [0, constant(1)]], ["setitem", [1, constant(3), constant(2)]]],
    "a tensor": [["read", [], site("keep")], ["getitem", [0, constant(4)]], [".mul_", [1, constant(2)]]],
}


@LIMITS
@pytest.mark.parametrize("nodes", KEPT.values(), ids=KEPT)
def test_what_a_model_keeps_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None, nodes: list[list[Any]]) -> None:
    constants = [1, 2, 7.5, "scale", 3]
    assert not changes(nodes, constants, tmp_path, NNsight(Machinery()), limits)
    without(monkeypatch, "data")
    assert changes(nodes, constants, tmp_path, NNsight(Machinery()), limits)


@LIMITS
def test_changes_of_containers_reach_the_model_for_this_run(tmp_path: Path, limits: Limits | None) -> None:
    """As in a trace of one's own, but what the model keeps stays as it is."""
    model = NNsight(Machinery())
    nodes = [*KEPT["a dict"], ["read", [], site("")]]
    right = model._module(X)
    values = written(tmp_path, nodes, [1, 2, 7.5, "scale"], 3).run(model, X, limits=limits)
    assert torch.equal(values["v"], right * 7.5)
    assert torch.equal(model._module(X), right)


@LIMITS
def test_functions_that_sites_deliver_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None) -> None:
    """A function of the model, taken out of a tuple, a dict or a slice, and put where another is called."""
    model = NNsight(Machinery())
    get = [["read", [], site("first", "inputs")], ["getitem", [0, constant(0)]], ["getitem", [1, constant(1)]]]
    call = ["read", [], site("second", "inputs")]
    for moved in (2, group("list", 2)):
        nodes = [*get, call, ["write", [arguments(group("tuple"), moved)], site("second", "inputs")], ["read", [], site("")]]
        graph = written(tmp_path, nodes, [1, "then"], 5)
        refused(lambda graph=graph: graph.run(model, X, limits=limits), PUT)
    nodes = [*get, ["write", [group("tuple", constant(2), 2)], site("second")], ["read", [], site("second")]]
    refused(lambda: written(tmp_path, nodes, [1, "then", 1.0], 4).run(model, X, limits=limits), PUT)
    without(monkeypatch, "data")
    named = group("tuple", group("tuple", constant(2)), group("dict", constant(3), 2))
    nodes = [*get, ["write", [named], site("second", "inputs")], ["read", [], site("second")]]
    with pytest.raises(TypeError, match="getcwd"):  # it is called
        written(tmp_path, nodes, [1, "then", "x", "act"], 4).run(model, X)


@LIMITS
def test_what_is_withheld_can_be_put_back(tmp_path: Path, limits: Limits | None) -> None:
    """Arguments that are read, changed in part and written again: what is no data stands where it stood."""
    model = NNsight(Machinery())
    with model.trace(X) as tracer:
        args, kwargs = model.first.inputs
        model.first.inputs = ((args[0] * 2, args[1]), kwargs)
        model.first.output.save("first")
        model.output.save("out")
    tracer.graph.save(tmp_path / "own.nng")
    values = nnsight.load(tmp_path / "own.nng").run(model, X, limits=limits)
    assert torch.equal(values["out"], model._module(X) * 2)
    assert values["first"][1] is os.getcwd  # whoever runs the program gets what the model gave


@LIMITS
def test_operations_on_what_is_withheld(tmp_path: Path, limits: Limits | None) -> None:
    model = NNsight(Machinery())
    get = [["read", [], site("first", "inputs")], ["getitem", [0, constant(0)]], ["getitem", [1, constant(1)]]]
    for node in (["@logits", [2]], [".copy", [2]], ["getitem", [2, constant(0)]], ["add", [2, constant(0)]]):
        graph = written(tmp_path, [*get, node], [1, "then"], 3)
        with pytest.raises((NNsightError, TypeError, AttributeError)):
            graph.run(model, X, limits=limits)


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = Answering()

    def forward(self, x: torch.Tensor) -> Any:
        answer = self.fc(x)
        return answer.last_hidden_state * len(answer.hidden_states)


class Answering(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        x = super().forward(x)
        return BaseModelOutput(last_hidden_state=x, hidden_states=(x, x + 1))  # type: ignore[arg-type]


@LIMITS
def test_outputs_of_models_are_data(tmp_path: Path, limits: Limits | None) -> None:
    model = NNsight(Structured())
    with model.trace(X) as tracer:
        answer = model.fc.output
        answer.hidden_states[1].save("second")
        answer["last_hidden_state"] = answer.last_hidden_state * 3
        answer.save("answer")
        model.output.save("out")
    tracer.graph.save(tmp_path / "own.nng")
    values = nnsight.load(tmp_path / "own.nng").run(model, X, limits=limits)
    right = model._module.fc(X)
    assert torch.equal(values["second"], right.hidden_states[1])
    assert torch.equal(values["out"], right.last_hidden_state * 6)
    assert type(values["answer"]) is BaseModelOutput
    assert torch.equal(values["answer"].last_hidden_state, right.last_hidden_state * 3)


def test_a_cache_passes_by(tmp_path: Path) -> None:
    """What generates with a KV cache works; the program sees that there is one, and no more; whoever runs it gets it."""
    model = LanguageModel("nnsight-graph/capitals", dispatch=True)
    ids = torch.tensor([[5, 6, 7]])
    with model.trace(ids, use_cache=True) as tracer:
        args, kwargs = model.transformer.h[2].inputs
        model.transformer.h[2].inputs = ((args[0] * 2, args[1], args[2], args[3]), kwargs)
        tracer.result.save("result")
        model.lm_head.output.save("logits")
    tracer.graph.save(tmp_path / "own.nng")
    again = nnsight.load(tmp_path / "own.nng").run(model, ids, use_cache=True)
    own = tracer.graph.run(model, ids, use_cache=True)
    assert torch.equal(again["logits"], own["logits"])
    assert type(again["result"]) is type(own["result"])
    assert again["result"].past_key_values.get_seq_length() == 3


# ---------------------------------------------------------------------- what stays


def test_weights_stay_as_they_are(tmp_path: Path) -> None:
    model = NNsight(nn.Linear(4, 4))
    held = site("weight", "parameter")
    for nodes in ([["parameter", [], held]], [["parameter", [], held], [".view", [0, constant(1)]], ["getitem", [1, constant(2)]]]):
        change = ["setattr", [len(nodes) - 1, constant(0), "False"]]
        with pytest.raises(RecordError, match="changes a parameter of the model in place"):
            written(tmp_path, [*nodes, change, ["read", [], site("")]], ["requires_grad", -1, 0], len(nodes) + 1).run(model, X)
    assert model.weight.requires_grad
    with model.trace(X) as tracer:
        model.output.sum().backward()
    tracer.graph.save(tmp_path / "own.nng")
    before = model._module.weight.grad.clone()  # of one's own trace, as in PyTorch
    nnsight.load(tmp_path / "own.nng").run(model, X)
    assert torch.equal(model._module.weight.grad, before)


def test_attributes_of_tensors_stay_as_they_are(tmp_path: Path) -> None:
    model = NNsight(nn.Linear(4, 4))
    nodes = [["read", [], site("", "input")], ["setattr", [0, constant(1), constant(0)]], ["read", [], site("")]]
    with pytest.raises(TypeError, match=r"cannot set \.note of a tensor"):
        written(tmp_path, nodes, [1.0, "note"], 2).run(model, X)
    assert not hasattr(X, "note")


# ---------------------------------------------------------------------- edits from files, and the user's own lines beside them


def test_an_edit_of_a_stranger_beside_lines_of_ones_own(tmp_path: Path) -> None:
    model = NNsight(Asking())
    editor = model.edit()
    with editor:
        model.fc.output[:] = 0
    editor.graph.save(tmp_path / "own.nng")
    edited = nnsight.load(tmp_path / "own.nng").edit(model)
    with edited.trace(X):
        inner = edited.source.self_scaled_0.source.torch_mul_0.output.save()
    assert torch.equal(inner.value, torch.zeros(2, 4))
    nodes = [["write", [arguments(constant(0))], site("source.os_environ_get_0", "inputs")]]
    strange = written(tmp_path, nodes, ["NNSIGHT_SECRET"], kind="edit").edit(model)
    with pytest.raises(NNsightError, match="not among the operations"), strange.trace(X):
        strange.output.save()


# ---------------------------------------------------------------------- the way that was found


LLAMA = transformers.LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)


@pytest.mark.slow
@pytest.mark.skipif(transformers.__version__ < "5", reason="the look-up is written in another way")
@LIMITS
def test_the_way_to_the_builtins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None) -> None:
    """``getattr(function, "__globals__")`` inside an attention, and what it gives handed to the next block as its attention."""
    mark = tmp_path / "mark"
    first, second = ("model.layers.0.self_attn.source.", "model.layers.1.self_attn.source.")
    inner, lookup = first + "attention_interface_0.source.getattr_0", "ALL_ATTENTION_FUNCTIONS_get_interface_0"
    c = [constant(place) for place in range(9)]
    nodes = [
        ["read", [], site(first + lookup, "inputs")], ["getitem", [0, c[0]]], ["getitem", [1, group("slice", c[1], c[6], "None")]],
        ["add", [2, group("tuple", c[2])]], ["write", [group("tuple", 3, group("dict"))], site(inner, "inputs")],
        ["read", [], site(inner)], ["write", ["True"], site(inner)], ["getitem", [5, c[3]]], [".keys", [7]], ["list", [8]],
        [".index", [9, c[4]]], ["add", [10, c[1]]], [".values", [7]], ["list", [12]], ["getitem", [13, group("slice", 10, 11, "None")]],
        ["add", [group("list", c[7]), 14]], ["write", [group("tuple", 15, group("dict"))], site(second + lookup, "inputs")],
        ["write", [arguments(c[5])], site(second + "attention_interface_0", "inputs")], ["read", [], site("lm_head")],
    ]  # fmt: skip
    constants = [0, 1, "__globals__", "__builtins__", "exec", f"open({str(mark)!r}, 'w').close()", 2, "eager"]
    model = LanguageModel(transformers.LlamaForCausalLM(LLAMA).eval())
    graph, prompt = written(tmp_path, nodes, constants, 18), torch.tensor([[1, 2, 3]])
    for path in ((), ("sites",), ("reads",), ("writes",)):
        with monkeypatch.context() as patch:
            without(patch, *path)
            with pytest.raises(Exception):  # noqa: B017
                graph.run(model, prompt, limits=limits)
        assert not mark.exists(), path
    if limits is None:  # within limits the values of lines are looked at, too
        without(monkeypatch, "data")
        with pytest.raises(Exception):  # noqa: B017
            graph.run(model, prompt)
        assert mark.exists()


@pytest.mark.slow
def test_attention_inside_models_of_transformers(tmp_path: Path) -> None:
    """Attention functions are reviewed: their results can be read and replaced, and so can attention weights."""
    model, prompt = LanguageModel(transformers.LlamaForCausalLM(LLAMA).eval()), torch.tensor([[1, 2, 3]])
    attention = model.model.layers[1].self_attn
    with model.trace(prompt) as tracer:
        attention.source.attention_interface_0.output[0][:, :, 1] = 0
        model.model.layers[0].self_attn.attention_weights[:] = 0
        model.lm_head.output.save("logits")
    tracer.graph.save(tmp_path / "own.nng")
    values, own = nnsight.load(tmp_path / "own.nng").run(model, prompt), tracer.graph.run(model, prompt)
    assert torch.equal(values["logits"], own["logits"])
    assert not torch.equal(own["logits"], model._module(prompt).logits)
