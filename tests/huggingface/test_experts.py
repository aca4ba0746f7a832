"""The operations of experts: those of the kernel that runs, or of the loop over experts where that is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import nnsight_graph as nnsight

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="experts are chosen since transformers 5"),
]

IDS = torch.tensor([[3, 4, 5, 6]])
SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
KINDS = {
    "mixtral": (transformers.MixtralForCausalLM, transformers.MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": (transformers.OlmoeForCausalLM, transformers.OlmoeConfig, {"num_experts": 4, "num_experts_per_tok": 2}),
}


def made(kind: str) -> Any:
    model, config, more = KINDS[kind]
    torch.manual_seed(0)
    return model(config(**SIZES, num_key_value_heads=2, **more)).eval()


@torch.no_grad()
def outputs(net: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the experts, and the model, return, by a hook."""
    seen = []
    handle = net.model.layers[0].mlp.experts.register_forward_hook(lambda _module, _args, output: seen.append(output))
    logits = net(IDS).logits
    handle.remove()
    return seen[0], logits


@pytest.mark.parametrize(("implementation", "last"), [("grouped_mm", "final_hidden_states_to_0"), ("batched_mm", "sum_0")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_operations_are_those_that_run(kind: str, implementation: str, last: str) -> None:
    net = made(kind)
    net.set_experts_implementation(implementation)
    right, logits = outputs(net)
    model = nnsight.LanguageModel(net)
    experts = model.model.layers[0].mlp.experts
    with torch.no_grad(), model.trace(IDS):
        value, out = experts.source[last].output.clone().save(), model.output.logits.save()
    torch.testing.assert_close(value.value.to(right.dtype), right)
    assert torch.equal(out, logits)
    with torch.no_grad(), model.trace(IDS):
        experts.source[last].output = experts.source[last].output * 0
        after = experts.output.save()
    assert not after.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_over_experts_where_it_is_chosen(kind: str) -> None:
    net = made(kind)
    net.set_experts_implementation("eager")
    right, _ = outputs(net)
    model = nnsight.LanguageModel(net)
    experts = model.model.layers[0].mlp.experts
    with torch.no_grad(), model.trace(IDS):
        experts.source.nn_functional_linear_0.call[0].output *= 1
        chosen = experts.source.nonzero_0.output.save()
        got = experts.output.save()
    assert torch.equal(got, right)
    assert chosen.shape[1] == 1
    assert len(chosen) <= 4


def test_a_gate_is_edited_where_it_is_computed() -> None:
    net = made("mixtral")
    model = nnsight.LanguageModel(net)
    experts = model.model.layers[0].mlp.experts
    with torch.no_grad(), model.trace(IDS):
        experts.source.self__apply_gate_0.output *= 2
        got = experts.output.save()
    right, _ = outputs(net)
    torch.testing.assert_close(got.value, 2 * right)  # the down projection is linear


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_scan_goes_through_the_grouped_kernel(kind: str) -> None:
    """On fakes that kernel takes fewer dtypes than on tensors."""
    net = made(kind)
    right, logits = outputs(net)
    model = nnsight.NNsight(net)
    with model.scan(input_ids=IDS):
        shapes = model.model.layers[0].mlp.experts.output.shape, model.lm_head.output.shape
    assert shapes == (right.shape, logits.shape)
