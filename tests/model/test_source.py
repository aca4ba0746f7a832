"""Operations inside forwards, against forwards that were changed by hand."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, MissedSiteError, NNsight, NNsightError, OperationEnvoy, RecordError, Source
from tests.huggingface.families import tiny_model
from tests.run.untouched import state

EIFFEL, COLOSSEUM = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def scaled(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
    return functional.relu(x) * by


def doubled(function: Any) -> Any:
    @functools.wraps(function)
    def around(self: Any, x: torch.Tensor) -> Any:
        return function(self, x) * 2

    return around


class Net(nn.Module):
    __hidden = 3.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, *, shift: float = 1.0) -> torch.Tensor:
        hidden = torch.tanh(self.one(x)) + shift
        left, right = hidden.split(2, dim=-1)
        mixed = scaled(torch.cat([right, left], dim=-1), by=self.__hidden)
        if shift > 5:
            mixed = torch.sigmoid(mixed)
        return self.two(mixed @ torch.eye(4))


class Looping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = torch.relu(x) + 1
        return x


class Decorated(nn.Module):
    @doubled
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def model(net: Net) -> NNsight:
    return NNsight(net)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


def test_the_source_names_its_operations(model: NNsight) -> None:
    names = ["self_one_0", "torch_tanh_0", "op_add_0", "hidden_split_0", "torch_cat_0", "scaled_0", "torch_sigmoid_0"]
    assert model.source.names == [*names, "torch_eye_0", "op_matmul_0", "self_two_0"]
    assert isinstance(model.source, Source)
    assert isinstance(model.source.scaled_0, OperationEnvoy)
    lines = repr(model.source).splitlines()
    line = Net.forward.__code__.co_firstlineno + 1
    assert next(text for text in lines if text.startswith("self_one_0")).split("->")[1].split() == [
        str(line), *"hidden = torch.tanh(self.one(x)) + shift".split(),
    ]  # fmt: skip
    assert "mixed = scaled(" in repr(model.source.scaled_0)
    assert model.source.scaled_0.source.names == ["functional_relu_0", "op_mul_0"]
    assert "return functional.relu(x) * by" in repr(model.source.scaled_0.source)
    assert "scaled_0" in dir(model.source)
    assert [operation.name for operation in model.source] == model.source.names
    assert len(NNsight(nn.ReLU()).source) == 1


def test_values_of_operations(net: Net, model: NNsight) -> None:
    before = state(net)
    with model.trace(X):
        added = model.source.op_add_0.output.save()
        parts = model.source.hidden_split_0.output.save()
        call = model.source.scaled_0.inputs.save()
        taken = model.source.scaled_0.input.save()
        inner = model.source.scaled_0.source.functional_relu_0.output.save()
        out = model.output.save()
    hidden = torch.tanh(net.one(X)) + 1
    assert torch.equal(added, hidden)
    assert [part.shape for part in parts] == [(3, 2), (3, 2)]
    mixed = torch.cat([hidden[:, 2:], hidden[:, :2]], -1)
    assert torch.equal(taken, mixed)
    assert call[1] == {"by": 3.0}
    assert torch.equal(inner, mixed.relu())
    assert torch.equal(out, net(X))
    assert state(net) == before
    assert "forward" not in net.__dict__


def test_edits_writes_and_skips_of_operations(net: Net, model: NNsight) -> None:
    hidden = torch.tanh(net.one(X)) + 1
    with model.trace(X):
        model.source.op_add_0.output[:, 0] = 5
        edited = model.output.save()
    changed = torch.cat([torch.full((3, 1), 5.0), hidden[:, 1:]], 1)
    assert torch.equal(edited, net.two(scaled(torch.cat([changed[:, 2:], changed[:, :2]], -1), 3.0) @ torch.eye(4)))
    mixed = torch.cat([hidden[:, 2:], hidden[:, :2]], -1)
    with model.trace(X):
        model.source.scaled_0.inputs = ((model.source.scaled_0.input,), {"by": 7.0})
        written = model.output.save()
    assert torch.equal(written, net.two(scaled(mixed, 7.0) @ torch.eye(4)))
    with model.trace(X):
        model.source.scaled_0.skip(model.source.scaled_0.input * 10)
        skipped = model.output.save()
    assert torch.equal(skipped, net.two(mixed * 10 @ torch.eye(4)))
    with model.trace(X):
        model.source.scaled_0.source.functional_relu_0.output = model.source.scaled_0.source.functional_relu_0.input
        linear = model.output.save()
    assert torch.equal(linear, net.two(mixed * 3 @ torch.eye(4)))


def test_gradients_of_operations(net: Net, model: NNsight) -> None:
    with model.trace(X):
        gradient = model.source.scaled_0.input.grad.save()
        model.output.sum().backward()
    hidden = torch.tanh(net.one(X)) + 1
    mixed = torch.cat([hidden[:, 2:], hidden[:, :2]], -1).detach().requires_grad_()
    net.two(scaled(mixed, 3.0)).sum().backward()
    torch.testing.assert_close(gradient.value, mixed.grad)


def test_calls_in_a_loop_and_decorated_forwards() -> None:
    looping = NNsight(Looping())
    with looping.trace(torch.zeros(2)):
        calls = [looping.source.torch_relu_0.call[i].output.save() for i in range(3)]
        looping.source.torch_relu_0.call[1].output[:] = 10
        out = looping.output.save()
    assert [value[0].item() for value in calls] == [0, 10, 11]
    assert out[0].item() == 12
    decorated = NNsight(Decorated())
    with decorated.trace(X):
        decorated.source.torch_relu_0.output[:] = 1
        out = decorated.output.save()
    assert torch.equal(out, torch.full((3, 4), 2.0))


def test_names_that_are_not_there(model: NNsight) -> None:
    with pytest.raises(AttributeError, match=r"no operation 'scale_0' in Net.forward.*Near: scaled_0"):
        _ = model.source.scale_0
    with pytest.raises(MissedSiteError, match="that line of the forward did not run"):
        with model.trace(X):
            model.source.torch_sigmoid_0.output.save()
    with pytest.raises(NNsightError, match="calls a module"):
        _ = model.source.self_one_0.source
    with pytest.raises(NNsightError, match="not written in Python"):
        _ = model.source.torch_tanh_0.source.names
    with pytest.raises(AttributeError, match=r"it has \.input, \.inputs"):
        _ = model.source.scaled_0.weight
    with pytest.raises(RecordError, match="cannot be assigned"):
        model.source.scaled_0.weight = 3
    with pytest.raises(RecordError, match="only inside a trace"):
        _ = model.source.scaled_0.output
    made = NNsight(type("Made", (nn.Module,), {"forward": eval("lambda self, x: x + 1")})())
    with pytest.raises(NNsightError, match=r"there is no source|not defined by a def"):
        _ = made.source


def test_inside_the_attention_function(lm: LanguageModel) -> None:
    attention = lm.transformer.h[3].attn
    with lm.trace(EIFFEL):
        attention.source.attention_interface_0.output[0][:, :, 2] = 0  # batch, tokens, heads, head dimension
        logits = lm.lm_head.output.save()
        inner = attention.source.attention_interface_0.source.torch_nn_functional_scaled_dot_product_attention_0.output.save()

    def hook(_module: nn.Module, args: Any) -> Any:
        return (torch.cat([args[0][..., :48], args[0][..., 48:72] * 0, args[0][..., 72:]], -1),)

    handle = attention._module.c_proj.register_forward_pre_hook(hook)
    expected = lm._module(**lm.tokenizer(EIFFEL, return_tensors="pt")).logits
    handle.remove()
    torch.testing.assert_close(logits.value, expected, rtol=0, atol=0)
    assert inner.shape == (1, 4, 11, 24)
    with pytest.raises((AttributeError, MissedSiteError), match="no operation 'softmax_9'"):
        with lm.trace(EIFFEL):
            attention.source.attention_interface_0.source.softmax_9.output.save()


def test_rows_and_steps(lm: LanguageModel) -> None:
    heads = lm.transformer.h[3].attn.source.attention_interface_0
    with lm.trace() as tracer:
        with tracer.invoke(EIFFEL):
            heads.output[0][:] = 0
            lm.lm_head.output.save()
        with tracer.invoke(COLOSSEUM):
            rows = heads.output[0].save()
            batched = lm.lm_head.output[:, -1].save()
    with lm.trace(COLOSSEUM):
        alone = lm.lm_head.output[:, -1].save()
    assert rows.shape[0] == 1
    torch.testing.assert_close(batched.value, alone.value, rtol=1e-4, atol=1e-4)
    with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
        lengths = nnsight.list().save()
        for _ in tracer.iter[:]:
            lengths.append(heads.output[0].shape[1])
    assert list(lengths) == [11, 1, 1]


def test_threads_with_and_without_instrumentation(net: Net, model: NNsight) -> None:
    plain, wrong = net(X), []

    def run(edit: bool) -> None:
        for _ in range(30):
            with model.trace(X):
                if edit:
                    model.source.op_add_0.output[:] = 0
                out = model.output.save()
            if torch.equal(out, plain) is edit:
                wrong.append(edit)

    threads = [threading.Thread(target=run, args=(edit,)) for edit in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert "forward" not in net.__dict__


def test_forwards_of_accelerate(net: Net, model: NNsight) -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(net, hooks.ModelHook())
    try:
        with model.trace(X):
            added = model.source.op_add_0.output.save()
        assert torch.equal(added, torch.tanh(net.one(X)) + 1)
    finally:
        hooks.remove_hook_from_module(net)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5", "bloom", "opt", "gpt_neox"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_weights(family: str, attention: str, padded: bool) -> None:
    if family == "bloom" and attention == "sdpa":
        pytest.skip("bloom has no sdpa")
    kwargs: dict[str, Any] = {"input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])}
    if padded:
        kwargs["attention_mask"] = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    if family == "t5":
        kwargs["decoder_input_ids"] = kwargs["input_ids"]
    elif family == "bert" or (padded and family in ("gpt2", "llama", "gpt_neox")):
        kwargs["position_ids"] = torch.tensor([[0, 0, 1, 2], [0, 1, 2, 3]])
    with torch.no_grad():
        eager = tiny_model(family, "eager")(**kwargs, output_attentions=True)
    try:
        module = tiny_model(family, attention)
    except ValueError:
        pytest.skip(f"{family} has no {attention} in this version of transformers")
    model = LanguageModel(module)
    ends = {"bert": ".self", "t5": "encoder.block.0.layer.0.SelfAttention", "bloom": ".self_attention"}
    path = next(path for path, _ in module.named_modules() if path.endswith(ends.get(family, (".attn", ".self_attn", ".attention"))))
    with torch.no_grad(), model.trace(**kwargs):
        weights = model.get(path).attention_weights.save()
        logits = model.output.logits.save()
    expected = (eager.encoder_attentions if family == "t5" else eager.attentions)[0]
    torch.testing.assert_close(weights.value, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(logits.value, module(**kwargs).logits, rtol=0, atol=0)


def test_attention_weights_are_changed(lm: LanguageModel) -> None:
    attention = lm.transformer.h[2].attn
    with lm.trace(EIFFEL):
        attention.attention_weights[:, 1] = 0  # a head that attends to nothing
        edited = lm.lm_head.output.save()
    with lm.trace(EIFFEL):
        attention.attention_weights = attention.attention_weights * torch.tensor([1.0, 0, 1, 1])[None, :, None, None]
        written = lm.lm_head.output.save()
    with lm.trace(EIFFEL):
        attention.c_proj.input[:, :, 24:48] = 0
        expected = lm.lm_head.output.save()
    torch.testing.assert_close(edited.value, expected.value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(written.value, expected.value, rtol=1e-4, atol=1e-4)
    with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
        shapes = nnsight.list().save()
        for _ in tracer.iter[:]:
            shapes.append(attention.attention_weights.shape)
    assert [tuple(shape) for shape in shapes] == [(1, 4, 11, 11), (1, 4, 1, 12), (1, 4, 1, 13)]


def test_modules_without_attention_weights(lm: LanguageModel) -> None:
    with pytest.raises(MissedSiteError, match=r"h\.2\.mlp has no attention weights: .* Near: transformer\.h\.2\.attn"):
        with lm.trace(EIFFEL):
            lm.transformer.h[2].mlp.attention_weights.save()
    with pytest.raises(MissedSiteError, match=r"h\.2 has no attention weights of its own: .* Ask transformer\.h\.2\.attn"):
        with lm.trace(EIFFEL):
            lm.transformer.h[2].attention_weights.save()


def test_a_function_that_closes_over_its_module_does_not_keep_it() -> None:
    class Closing(nn.Module):
        def __init__(self) -> None:
            super().__init__()

            def inner(x: torch.Tensor) -> torch.Tensor:
                return torch.relu(x) + len(self._modules)

            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

    module = Closing()
    model, gone = NNsight(module), weakref.ref(module)
    with model.trace(X):
        value = model.source.self_inner_0.source.torch_relu_0.output.save()
    assert torch.equal(value, X.relu())
    del module, model, value
    gc.collect()
    assert gone() is None
