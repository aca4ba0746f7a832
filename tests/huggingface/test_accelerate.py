"""Models whose weights accelerate keeps on the CPU or on disk, and on the meta device until a module's turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model

from nnsight_graph import LanguageModel, NNsight
from tests.huggingface.families import tiny_model, word_tokenizer

pytestmark = pytest.mark.slow

IDS = [[5, 6, 7, 8]]
CPU = torch.device("cpu")
HALVES = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.drop": "cpu", "transformer.h.0": "cpu"}
HALVES |= {"transformer.h.1": "disk", "transformer.ln_f": "disk", "lm_head": "cpu"}


def none(model: Any, _folder: Path) -> Any:
    return model


def on_cpu(model: Any, _folder: Path) -> Any:
    return cpu_offload(model, execution_device=CPU)


def on_disk(model: Any, folder: Path) -> Any:
    disk_offload(model, str(folder), execution_device=CPU)
    return model


def halves(model: Any, folder: Path) -> Any:
    return dispatch_model(model, HALVES, main_device="cpu", offload_dir=str(folder))


Way = Callable[[Any, Path], Any]
WAYS = [none, on_cpu, on_disk, halves]
every_way = pytest.mark.parametrize("way", WAYS)


def state(model: Any) -> list[Any]:
    """Where the weights are, and what accelerate put on the modules."""
    tensors = [(name, tensor.device.type) for name, tensor in [*model.named_parameters(), *model.named_buffers()]]
    modules = [
        (name, getattr(each, "_hf_hook", None), each.__dict__.get("forward"), [*each._forward_hooks], [*each._forward_pre_hooks])
        for name, each in model.named_modules()
    ]
    return [tensors, modules]


@pytest.fixture
def plain() -> Any:
    return tiny_model("gpt2").requires_grad_(False)


@pytest.fixture
def offloaded(way: Way, tmp_path: Path) -> Any:
    """A model that has run once: transformers puts hooks of its own on it then, which stay."""
    model = way(tiny_model("gpt2").requires_grad_(False), tmp_path)
    model(torch.tensor(IDS))
    return model


def first_tensor(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def by_hooks(model: Any, path: str, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The logits of the plain model when the output of a module is changed."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        changed = change(first_tensor(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = model.get_submodule(path).register_forward_hook(hook)
    try:
        return model(torch.tensor(IDS)).logits
    finally:
        handle.remove()


def equal(saved: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(getattr(saved, "value", saved), expected, rtol=0, atol=0)


@every_way
def test_values_are_read_where_weights_come_and_go(plain: Any, offloaded: Any) -> None:
    before, lm = state(offloaded), LanguageModel(offloaded, tokenizer=word_tokenizer())
    seen: dict[str, torch.Tensor] = {}
    paths = ["transformer.wte", "transformer.h.1.mlp.c_fc", "transformer.h.1.ln_1", "transformer.ln_f", "lm_head"]
    handles = [
        plain.get_submodule(path).register_forward_hook(lambda _m, _a, output, path=path: seen.__setitem__(path, output)) for path in paths
    ]
    plain(torch.tensor(IDS))
    for handle in handles:
        handle.remove()
    with lm.trace("w5 w6 w7 w8"):
        saved = {path: lm.get(path).output.save() for path in paths}
        entered = lm.transformer.h[1].mlp.c_fc.input.save()
    for path in paths:
        equal(saved[path], seen[path])
    assert entered.device == CPU
    assert state(offloaded) == before


@every_way
@pytest.mark.parametrize("path", ["transformer.wte", "transformer.h.1.mlp", "transformer.ln_f", "lm_head"])
def test_outputs_are_edited_and_replaced(plain: Any, offloaded: Any, path: str) -> None:
    before, lm = state(offloaded), LanguageModel(offloaded, tokenizer=word_tokenizer())
    with lm.trace(IDS) as tracer:
        lm.get(path).output[:, 1] = 0.5
        edited = tracer.result.logits.save()
    with lm.trace(IDS) as tracer:
        lm.get(path).output = lm.get(path).output * 2 + 1
        replaced = tracer.result.logits.save()

    def edit(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, 1] = 0.5
        return value

    equal(edited, by_hooks(plain, path, edit))
    equal(replaced, by_hooks(plain, path, lambda value: value * 2 + 1))
    with lm.trace(IDS) as tracer:
        untouched = tracer.result.logits.save()
    equal(untouched, plain(torch.tensor(IDS)).logits)
    assert state(offloaded) == before


@every_way
def test_inputs_are_replaced(plain: Any, offloaded: Any) -> None:
    lm = LanguageModel(offloaded, tokenizer=word_tokenizer())
    with lm.trace(IDS) as tracer:
        lm.transformer.h[1].input = lm.transformer.h[1].input + 1
        logits = tracer.result.logits.save()
    equal(logits, by_hooks(plain, "transformer.h.0", lambda value: value + 1))


@every_way
def test_an_offloaded_module_is_called_in_a_trace(plain: Any, offloaded: Any) -> None:
    before, lm = state(offloaded), LanguageModel(offloaded, tokenizer=word_tokenizer())
    with lm.trace(IDS) as tracer:
        early = lm.lm_head(lm.transformer.ln_f(lm.transformer.h[0].mlp.output)).save()
        tied = lm.lm_head(lm.transformer.wte.output).save()
        late = lm.lm_head(lm.transformer.ln_f.output).save()
        logits = tracer.result.logits.save()
    expected = plain(torch.tensor(IDS)).logits
    equal(late, expected)
    equal(logits, expected)
    embedded = plain.transformer.wte(torch.tensor(IDS))
    equal(tied, embedded @ plain.transformer.wte.weight.T)
    assert early.shape == expected.shape
    assert state(offloaded) == before


@every_way
def test_gradients_flow_through_offloaded_modules(plain: Any, offloaded: Any) -> None:
    lm = LanguageModel(offloaded, tokenizer=word_tokenizer())
    with lm.trace(IDS) as tracer:
        hidden = lm.transformer.wte.output.detach().clone().requires_grad_()
        lm.transformer.wte.output = hidden
        hidden.save()
        tracer.result.logits.square().sum().backward()
    embedded = plain.transformer.wte(torch.tensor(IDS)).requires_grad_()
    plain(inputs_embeds=embedded).logits.square().sum().backward()
    torch.testing.assert_close(hidden.value.grad, embedded.grad, rtol=1e-4, atol=1e-5)


@every_way
def test_invokes_of_different_lengths(plain: Any, offloaded: Any) -> None:
    before, lm = state(offloaded), LanguageModel(offloaded, tokenizer=word_tokenizer("left"))
    with lm.trace() as tracer:
        with tracer.invoke("w5 w6 w7 w8"):
            long = lm.lm_head.output.save()
        with tracer.invoke("w9"):
            lm.transformer.ln_f.output[:] = 0
            short = lm.lm_head.output.save()
    torch.testing.assert_close(long.value, plain(torch.tensor(IDS)).logits, rtol=1e-4, atol=1e-5)
    assert not short.any()
    assert state(offloaded) == before


@every_way
def test_an_error_in_a_trace_takes_the_hooks_away(offloaded: Any) -> None:
    before, lm = state(offloaded), LanguageModel(offloaded, tokenizer=word_tokenizer())
    with lm.trace(IDS):  # runs, whatever the next one does
        lm.lm_head.output.save()
    with pytest.raises(RuntimeError, match="shape"):
        with lm.trace(IDS):
            (lm.transformer.h[1].mlp.output @ torch.ones(3, 3)).save()
    with lm.trace(IDS):
        lm.lm_head.output.save()
    assert state(offloaded) == before


READS = WAYS


@pytest.mark.parametrize("way", READS)
def test_a_parameter_is_read_as_a_value(plain: Any, offloaded: Any) -> None:
    before, lm = state(offloaded), LanguageModel(offloaded, tokenizer=word_tokenizer())
    with lm.trace(IDS):
        weight = lm.transformer.h[1].mlp.c_fc.weight.save()
        bias = lm.transformer.ln_f.bias.sum().save()
        product = (lm.transformer.h[1].mlp.input @ lm.transformer.h[1].mlp.c_fc.weight).save()
        output = lm.transformer.h[1].mlp.c_fc.output.save()
    equal(weight, plain.transformer.h[1].mlp.c_fc.weight.detach())
    equal(bias, plain.transformer.ln_f.bias.sum())
    torch.testing.assert_close(product + plain.transformer.h[1].mlp.c_fc.bias, output.value, rtol=1e-4, atol=1e-5)
    assert state(offloaded) == before


class LowRank(torch.nn.Module):
    """An adapter around a layer, as adapter libraries make them: the layer becomes ``base_layer``."""

    def __init__(self, base: torch.nn.Module, size_in: int, size_out: int) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = torch.nn.Linear(size_in, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, size_out, bias=False)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.base_layer(x, *args, **kwargs) + self.lora_B(self.lora_A(x))


class Adapted(torch.nn.Module):
    """A model with adapters, in a wrapper whose forward takes anything."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = model
        self.config = model.config
        for block in model.transformer.h:
            block.mlp.c_fc = LowRank(block.mlp.c_fc, 16, 64)

    def get_base_model(self) -> Any:
        return self.base_model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)


def test_a_model_with_adapters_is_an_ordinary_model() -> None:
    torch.manual_seed(0)
    adapted = Adapted(tiny_model("gpt2")).requires_grad_(False).eval()
    lm = LanguageModel(adapted, tokenizer=word_tokenizer("left"))
    layer = lm.base_model.transformer.h[0].mlp.c_fc
    with lm.trace("w5 w6 w7 w8") as tracer:
        x, added, whole = layer.input.save(), layer.lora_B.output.save(), layer.output.save()
        base = layer.base_layer.output.save()
        logits = tracer.result.logits.save()
    torch.testing.assert_close(whole.value, base + added)
    equal(added, adapted.base_model.transformer.h[0].mlp.c_fc.lora_B(adapted.base_model.transformer.h[0].mlp.c_fc.lora_A(x.value)))
    equal(logits, adapted(torch.tensor(IDS)).logits)
    with lm.trace() as tracer:
        with tracer.invoke("w9"):
            layer.lora_B.output[:] = 0
            off = tracer.result.logits.save()
        with tracer.invoke("w5 w6 w7 w8"):
            on = tracer.result.logits.save()
    torch.testing.assert_close(on.value, logits.value, rtol=1e-4, atol=1e-5)
    for block in adapted.base_model.transformer.h[:1]:
        block.mlp.c_fc = block.mlp.c_fc.base_layer
    torch.testing.assert_close(off[:, -1:], adapted(torch.tensor([[9]])).logits, rtol=1e-4, atol=1e-5)


def test_a_wrapped_forward_stays_wrapped() -> None:
    model = tiny_model("gpt2").requires_grad_(False)
    calls = []
    original = model.transformer.h[0].forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(args))
        return original(*args, **kwargs)

    model.transformer.h[0].forward = forward
    lm = NNsight(model)
    with lm.trace(torch.tensor(IDS)):
        lm.transformer.h[0].mlp.output[:] = 0
        logits = lm.lm_head.output.save()
    assert len(calls) == 1
    assert model.transformer.h[0].__dict__["forward"] is forward
    equal(logits, by_hooks(model, "transformer.h.0.mlp", torch.zeros_like))
