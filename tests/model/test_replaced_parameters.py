"""Parameters that are others for one run, against models whose parameters were edited by hand."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from nnsight_graph import LanguageModel, NNsight, NNsightError, OutOfOrderError, RecordError
from tests.huggingface.families import tiny_model
from tests.run.untouched import state

X = torch.linspace(-1, 1, 12).reshape(3, 4)
PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def model(net: nn.Sequential) -> NNsight:
    return NNsight(net)


def by_hand(net: nn.Module, change: Callable[[nn.Module], None], x: torch.Tensor = X) -> torch.Tensor:
    changed = copy.deepcopy(net)
    with torch.no_grad():
        change(changed)
    out: torch.Tensor = changed(x)
    return out


def test_an_assignment_holds_for_one_run(net: nn.Sequential, model: NNsight) -> None:
    before = state(net)
    with model.trace(X):
        model[0].weight = torch.eye(4) * 2
        seen = model[0].weight.save()
        out = model.output.save()
    assert torch.equal(seen, torch.eye(4) * 2)
    assert torch.equal(out, by_hand(net, lambda changed: changed[0].weight.copy_(torch.eye(4) * 2)))  # type: ignore[index]
    assert state(net) == before
    with model.trace(X):
        plain = model.output.save()
    assert torch.equal(plain, net(X))


def test_edits_in_place_of_it_and_of_its_rows(net: nn.Sequential, model: NNsight) -> None:
    with model.trace(X):
        weight = model[0].weight
        weight[0] = 0
        model[0].weight[1][:] = 3
        model[0].bias += 1
        again = weight.save()
        out = model.output.save()

    def change(changed: nn.Module) -> None:
        changed[0].weight[0] = 0  # type: ignore[index]
        changed[0].weight[1] = 3  # type: ignore[index]
        changed[0].bias += 1  # type: ignore[index]

    assert torch.equal(out, by_hand(net, change))
    assert torch.equal(again[:2], torch.tensor([[0.0] * 4, [3.0] * 4]))
    assert net[0].weight[0].any()


def test_a_value_of_the_run(net: nn.Sequential, model: NNsight) -> None:
    with model.trace(X):
        model[2].weight = model[2].weight * model[0].output.mean()
        out = model.output.save()
    hidden = net[0](X)
    torch.testing.assert_close(out.value, functional.linear(hidden.relu(), net[2].weight * hidden.mean(), net[2].bias))
    with pytest.raises(OutOfOrderError, match=r"replaces a parameter of 0, but needs 2\.output"):
        with model.trace(X):
            model[0].weight = model[0].weight * model[2].output.mean()
            model.output.save()


def test_gradients_flow_to_what_it_was_made_of(net: nn.Sequential, model: NNsight) -> None:
    with model.trace(X):
        model[0].weight = model[0].weight * 2
        model.output.sum().backward()
    changed = copy.deepcopy(net)
    with torch.no_grad():
        changed[0].weight *= 2
    changed(X).sum().backward()
    torch.testing.assert_close(net[0].weight.grad, changed[0].weight.grad * 2)


def test_tied_parameters_in_a_generation() -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    with lm.generate(PROMPT, max_new_tokens=4) as tracer:
        lm.transformer.wte.weight[5:] *= 0.5
        ids = tracer.result.save()
    changed = copy.deepcopy(lm._module)
    assert changed.lm_head.weight is changed.transformer.wte.weight
    with torch.no_grad():
        changed.transformer.wte.weight[5:] *= 0.5
    expected = changed.generate(**lm.tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert ids.tolist() == expected.tolist()


def test_recurrent_modules_and_buffers() -> None:
    lstm = nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(1, 2, 3)
    model = NNsight(lstm)
    with model.trace(x):
        model.weight_ih_l0 = model.weight_ih_l0 * 0
        out = model.output[0].save()
    changed = copy.deepcopy(lstm)
    changed.weight_ih_l0.data.zero_()
    torch.testing.assert_close(out.value, changed(x)[0])


def test_with_skips_operations_edits_and_accelerate(net: nn.Sequential, model: NNsight) -> None:
    with model.edit() as edited:
        model[0].weight[0] = 0
    with edited.trace(X):
        inner = model[0].source.F_linear_0.output.save()
        out = edited.output.save()
    expected = by_hand(net, lambda changed: changed[0].weight[0].zero_())  # type: ignore[index]
    assert torch.equal(out, expected)
    assert torch.equal(inner[:, 0], net[0].bias[0].expand(3))
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(net[0], hooks.ModelHook())
    try:
        with edited.trace(X):
            hooked = edited.output.save()
        assert torch.equal(hooked, expected)
    finally:
        hooks.remove_hook_from_module(net[0])


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_families(family: str) -> None:
    module = tiny_model(family)
    model = LanguageModel(module)
    name = next(name for name, parameter in module.named_parameters() if parameter.dim() == 2 and name.count(".") > 3)
    kwargs = {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    if family == "t5":
        kwargs["decoder_input_ids"] = torch.tensor([[3, 4]])
    owner, _, last = name.rpartition(".")
    with torch.no_grad(), model.trace(**kwargs, validate=True):
        getattr(model.get(owner), last)[:, 0] = 0
        logits = model.output.logits.save()
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.get_parameter(name)[:, 0] = 0
        expected = changed(**kwargs).logits
    torch.testing.assert_close(logits.value, expected, rtol=0, atol=0)


def test_threads_with_parameters_of_their_own(net: nn.Sequential, model: NNsight) -> None:
    wrong: list[float] = []

    def run(scale: float) -> None:
        expected = functional.linear(net[:2](X), net[2].weight * scale, net[2].bias)
        for _ in range(30):
            with model.trace(X):
                model[2].weight = model[2].weight * scale
                out = model.output.save()
            if not torch.equal(out, expected):
                wrong.append(scale)

    threads = [threading.Thread(target=run, args=(scale,)) for scale in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_refusals(net: nn.Sequential, model: NNsight) -> None:
    with pytest.raises(NNsightError, match=r"0\.weight is torch\.float32 of \[4, 4\]; .* \[3, 4\]"):
        with model.trace(X):
            model[0].weight = torch.zeros(3, 4)
            model.output.save()
    with pytest.raises(RecordError, match=r"0\.weight is a tensor: a tuple cannot stand for it"):
        with model.trace(X):
            model[0].weight = (1, 2)
            model.output.save()
    with pytest.raises(RecordError, match="for a whole run only"):
        with model.trace() as tracer:
            with tracer.invoke(X):
                model[0].weight = torch.zeros(4, 4)
    with pytest.raises(RecordError, match="for a whole run only"):
        with model.trace(X) as tracer:
            with tracer.cond(model[0].output.sum() > 0):
                model[0].weight[0] = 0
    assert net[0].weight.all()


class Tied(nn.Module):
    """Uses a parameter of a submodule itself, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.scale, self.calls = nn.Embedding(5, 3), nn.Parameter(torch.ones(1)), 0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.embed(ids) @ self.embed.weight.T * self.scale


def test_whoever_uses_it_finds_it() -> None:
    net = Tied()
    model, ids = NNsight(net), torch.tensor([1, 2])
    for _ in range(2):
        with model.trace(ids):
            model.embed.weight[:] = 1
            model.scale[:] = 2
            out = model.output.save()
    assert torch.equal(out, torch.full((2, 5), 6.0))
    assert net.calls == 2
    assert type(net.embed._parameters) is dict
    assert torch.equal(net(ids), net.embed.weight[ids] @ net.embed.weight.T)


def test_a_module_called_in_the_trace_and_attention_of_torch(net: nn.Sequential, model: NNsight) -> None:
    with model.trace(X):
        model[2].weight[:] = 0
        called = model[2](model[1].output).save()
        own = model[2].output.save()
    assert torch.equal(called, own)
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True).eval(), torch.randn(1, 3, 4)
    around = NNsight(attention)
    with around.trace(x, x, x):
        around.out_proj.weight[:] = 0
        out = around.output[0].save()
    assert torch.equal(out, by_hand_output(attention, x))


def by_hand_output(attention: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    changed = copy.deepcopy(attention)
    with torch.no_grad():
        changed.out_proj.weight[:] = 0
    out: torch.Tensor = changed(x, x, x)[0]
    return out


@pytest.mark.parametrize("batch", [False, True])
def test_traces_of_a_session_have_their_own(net: nn.Sequential, model: NNsight, batch: bool) -> None:
    other = NNsight(copy.deepcopy(net))
    with model.session(batch=batch):
        with model.trace(X):
            model[0].weight[0] = 0
            first = model.output.save()
        with model.trace(X):
            model[0].weight[1] = 0
            second = model.output.save()
        with model.trace(X):
            plain = model.output.save()
        with other.trace(X):
            weight = (other[0].weight * 1).save()
    for value, row in ((first, 0), (second, 1)):
        torch.testing.assert_close(value.value, by_hand(net, lambda changed, row=row: changed[0].weight[row].zero_()))  # type: ignore[misc]
    torch.testing.assert_close(plain.value, net(X))
    assert torch.equal(weight, other._module[0].weight)


def test_edits_add_up_and_traces_see_them(net: nn.Sequential, model: NNsight) -> None:
    with model.edit() as one:
        model[0].weight[0] = 0
    with one.edit() as two:
        one[0].weight[1] = 0
    with two.trace(X):
        weight = two[0].weight.save()
        two[0].weight[2] = 0
        out = two.output.save()

    def change(changed: nn.Module) -> None:
        changed[0].weight[:3] = 0  # type: ignore[index]

    assert not weight[:2].any()
    assert torch.equal(out, by_hand(net, change))


def test_an_edit_of_a_parameter_in_a_generation() -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    with lm.edit() as edited:
        lm.transformer.h[2].mlp.c_fc.weight[:, :50] = 0
    with edited.generate(PROMPT, max_new_tokens=4) as tracer:
        ids = tracer.result.save()
    changed = copy.deepcopy(lm._module)
    with torch.no_grad():
        changed.transformer.h[2].mlp.c_fc.weight[:, :50] = 0
    expected = changed.generate(**lm.tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert ids.tolist() == expected.tolist()
