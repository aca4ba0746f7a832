"""Gradients of attention weights, whatever computes the attention, against eager attention by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nnsight_graph import LanguageModel, NNsight, NNsightError
from tests.huggingface.families import tiny_model
from tests.run.lines import ends_on

IDS = torch.tensor([[3, 4, 5, 6, 7]])


def loss_of(value: Any) -> Any:
    return value.pow(2).sum()


def attention_of(module: nn.Module) -> str:
    return next(path for path, _ in module.named_modules() if path.endswith((".attn", ".self_attn")))


def by_hand(family: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    module, kept = tiny_model(family, "eager"), []
    hook = lambda _m, _a, output: (output[1].retain_grad(), kept.append(output[1])) and None  # noqa: E731
    handle = module.get_submodule(attention_of(module)).register_forward_hook(hook)
    loss_of(module(IDS).logits).backward()
    handle.remove()
    return kept[0].grad, {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("how", ["plain", "slice", "changed", "retained", "frozen", "invokes"])
def test_the_gradient_of_attention_weights(family: str, attention: str, how: str) -> None:
    expected, parameters = by_hand(family)
    module = tiny_model(family, attention)
    model = LanguageModel(module)
    layer = model.get(attention_of(module))
    if how == "frozen":
        module.requires_grad_(False)
    if how == "invokes":
        with model.trace() as tracer:
            with tracer.invoke(IDS):
                got = layer.attention_weights.grad.save()
                loss = loss_of(model.output.logits)
            with tracer.invoke(IDS.flip(1)):
                layer.attention_weights.sum().save()
            loss.backward()
    else:
        with model.trace(input_ids=IDS):
            weights = layer.attention_weights
            if how == "frozen":
                weights.requires_grad_()
            if how == "retained":
                got = weights.save()
                weights.retain_grad()
            else:
                got = (weights[:, 0] if how == "slice" else weights).grad.clone().save()
            if how == "changed":
                weights.grad *= 0
            loss_of(model.output.logits).backward()
    value = got.grad if how == "retained" else got.value
    torch.testing.assert_close(value, expected[:, 0] if how == "slice" else expected, rtol=1e-3, atol=1e-5)
    for name, parameter in module.named_parameters() if how not in ("frozen", "changed") else ():
        torch.testing.assert_close(parameter.grad, parameters[name], rtol=1e-3, atol=1e-4)
    if how == "changed":  # nothing flows to the queries of that layer
        name = next(name for name, _ in module.named_parameters() if name.startswith(attention_of(module)) and name.endswith("weight"))
        queries = dict(module.named_parameters())[name].grad
        assert not (queries[:, : queries.shape[0]] if family == "gpt2" else queries).any()


def test_without_a_gradient_the_layers_own_result_stays() -> None:
    module = tiny_model("llama", "sdpa")
    expected = module(IDS).logits
    model = LanguageModel(module)
    with model.trace(input_ids=IDS):
        model.get(attention_of(module)).attention_weights.sum().save()
        logits = model.output.logits.save()
        loss_of(model.output.logits).backward()
    assert torch.equal(logits.value, expected)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).view(1, 3, 2, 2).transpose(1, 2) for part in (self.q, self.k, self.v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(1, 3, 4)


def test_of_torchs_own_attention_and_in_checkpoints() -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.block, x, use_reentrant=False)

    torch.manual_seed(0)
    net, x = Checkpointed(), torch.randn(1, 3, 4)
    block = net.block
    q, k, v = (part(x).view(1, 3, 2, 2).transpose(1, 2) for part in (block.q, block.k, block.v))
    scores = (q @ k.transpose(-1, -2) * 2**-0.5).masked_fill(~torch.ones(3, 3, dtype=torch.bool).tril(), -torch.inf)
    weights = scores.softmax(-1)
    weights.retain_grad()
    loss_of((weights @ v).transpose(1, 2).reshape(1, 3, 4)).backward()
    expected = block.q.weight.grad.clone()
    net.zero_grad()
    model = NNsight(block)
    with model.trace(x):
        got = model.attention_weights.grad.save()
        loss_of(model.output).backward()
    torch.testing.assert_close(got.value, weights.grad)
    torch.testing.assert_close(block.q.weight.grad, expected)
    net.zero_grad()
    inside = NNsight(net)
    with inside.trace(x):  # they are read there without a trace of it
        read = inside.block.attention_weights.pow(2).sum().save()
        loss_of(inside.output).backward()
    torch.testing.assert_close(read.value, weights.pow(2).sum())
    torch.testing.assert_close(block.q.weight.grad, expected)
    with pytest.raises(NNsightError, match="lie in an activation checkpoint") as caught:
        with inside.trace(x):
            inside.block.attention_weights.grad.save()
            loss_of(inside.output).backward()
    assert ends_on(caught.value)[1] == "inside.block.attention_weights.grad.save()"
