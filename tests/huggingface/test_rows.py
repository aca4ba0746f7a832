"""Rows of invokes in models of transformers whose values are not all batch first; each against the prompt alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from nnsight_graph import LanguageModel, NNsightError

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 40, "d_model": 16}
T5 = {**SIZES, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
FSMT = {
    "langs": ["en", "de"], "src_vocab_size": 40, "tgt_vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 40,
}  # fmt: skip
ENCODER = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MIXTURE = {**ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MAKERS: dict[str, Callable[[], Any]] = {
    "xlnet": lambda: transformers.XLNetLMHeadModel(transformers.XLNetConfig(**SIZES, n_layer=2, n_head=2, d_inner=32)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
    "fsmt": lambda: transformers.FSMTForConditionalGeneration(transformers.FSMTConfig(**FSMT)),
    "mpnet": lambda: transformers.MPNetForMaskedLM(transformers.MPNetConfig(**ENCODER)),
    "mixtral": lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**MIXTURE, num_local_experts=4)),
    "olmoe": lambda: transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**MIXTURE, num_experts=4, num_experts_per_tok=2)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
}


def make(name: str) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(MAKERS[name]().eval())


def prompts(length: int, count: int = 2) -> list[list[int]]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, 40, (count, length), generator=generator).tolist()


def alone(lm: LanguageModel, prompt: list[int], line: Callable[[], Any]) -> torch.Tensor:
    with torch.no_grad(), lm.trace(prompt):
        value = line().clone().save()
    return value.value


BLOCKS = {"xlnet": "transformer.layer.1", "t5": "encoder.block.1", "fsmt": "model.decoder.layers.1", "gpt2": "transformer.h.1"}


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str, length: int) -> None:
    lm, (one, two, three) = make(name), prompts(length, 3)
    block = lm.get(BLOCKS[name])
    with torch.no_grad(), lm.trace() as tracer:
        with tracer.invoke(one):
            read = block.hidden_states.clone().save()
            block.hidden_states[:] = 0
        with tracer.invoke(two):
            block.hidden_states = block.hidden_states * 2
            doubled = lm.output.logits.save()
        with tracer.invoke(three):
            result = lm.output.logits.save()
    torch.testing.assert_close(read.value, alone(lm, one, lambda: block.hidden_states))
    torch.testing.assert_close(result.value, alone(lm, three, lambda: lm.output.logits))
    with torch.no_grad(), lm.trace(two):
        block.hidden_states = block.hidden_states * 2
        right = lm.output.logits.save()
    torch.testing.assert_close(doubled.value, right.value)


TABLES = {"t5": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", "mpnet": "mpnet.encoder.relative_attention_bias"}


@pytest.mark.parametrize("name", TABLES)
def test_relative_bias_is_the_same_for_all(name: str) -> None:
    lm, (one, two) = make(name), prompts(2)
    table = lm.get(TABLES[name])
    with torch.no_grad(), lm.trace() as tracer:
        with tracer.invoke(one):
            read = table.output.save()
        with tracer.invoke(two):
            result = lm.output.logits.save()
    torch.testing.assert_close(read.value, alone(lm, one, lambda: table.output))
    torch.testing.assert_close(result.value, alone(lm, two, lambda: lm.output.logits))
    for change in (lambda: table.output.mul_(0), lambda: setattr(table, "output", torch.zeros(2, 2, 2))):
        with pytest.raises(NNsightError, match=r"relative_attention_bias.output"), torch.no_grad(), lm.trace() as tracer:
            with tracer.invoke(one):
                change()
            with tracer.invoke(two):
                pass


@pytest.mark.parametrize("lengths", [(3, 3), (2, 4)])
def test_a_bias_with_and_without_a_mask(lengths: tuple[int, int]) -> None:
    lm = make("t5")
    ids = [torch.tensor(prompts(length, 1)) for length in lengths]
    bias = lm.encoder.block[0]
    with torch.no_grad(), lm.trace() as tracer:
        for number, one in enumerate(ids):
            with tracer.invoke(input_ids=one, attention_mask=torch.ones_like(one)):
                if not number:
                    hidden, second = bias.output[0].save(), bias.output[1].save()
    width = max(lengths)
    assert second.shape == (1, 2, width, width)
    with torch.no_grad(), lm.trace(input_ids=ids[0]):
        right = bias.output[0].save()
    torch.testing.assert_close(hidden[:, : lengths[0]], right.value)


FIVE = int(transformers.__version__.split(".")[0]) >= 5


@pytest.mark.skipif(not FIVE, reason="modules of mixtures have other names, and return tuples, in transformers 4")
@pytest.mark.parametrize(("name", "path"), [("mixtral", "mlp.gate"), ("mixtral", "mlp.experts"), ("olmoe", "mlp.gate")])
def test_routers_and_experts_hold_the_tokens_of_all_prompts(name: str, path: str) -> None:
    lm, (one, two) = make(name), prompts(3)
    layer = lm.model.layers[1]
    module = layer.get(path)

    def read(number: int) -> tuple[Any, Any]:
        with torch.no_grad(), lm.trace() as tracer:
            with tracer.invoke(one):
                first = (module.output[0] if path.endswith("gate") else module.output).clone().save()
            with tracer.invoke(two):
                second = layer.mlp.output.save()
        return first, second

    with pytest.raises(NNsightError, match=rf"model.layers\[1\].{path}.rows = \(0, 'tokens'\)"):
        read(0)
    module.rows = (0, "tokens")
    first, second = read(0)
    right = alone(lm, one, lambda: module.output[0] if path.endswith("gate") else module.output)
    torch.testing.assert_close(first.value, right)
    torch.testing.assert_close(second.value, alone(lm, two, lambda: layer.mlp.output))


def test_positions_of_gpt2() -> None:
    lm, (one, two) = make("gpt2"), prompts(3)
    with pytest.raises(NNsightError, match=r"transformer\.wpe\.output is the same for all inputs"), lm.trace() as tracer:
        with tracer.invoke(one):
            lm.transformer.wpe.output[:] = 0
        with tracer.invoke(two):
            pass
    with torch.no_grad(), lm.trace() as tracer:
        with tracer.invoke(one):
            pass
        with tracer.invoke(two):
            read = lm.transformer.wpe.output.save()
    torch.testing.assert_close(read.value, alone(lm, two, lambda: lm.transformer.wpe.output))


@pytest.mark.parametrize("name", ["gpt2", "t5", *(["fsmt"] if FIVE else [])])
@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 2}, {"num_beams": 1, "num_return_sequences": 2, "do_sample": True}])
def test_steps_of_a_generation(name: str, options: dict[str, Any]) -> None:
    lm, (one, two) = make(name), prompts(3)
    block = {"gpt2": "transformer.h.1", "t5": "decoder.block.1", "fsmt": "model.decoder.layers.1"}[name]
    many = max(options.values())
    with torch.no_grad(), lm.generate(**options, max_new_tokens=3, min_new_tokens=3) as tracer:
        with tracer.invoke(one):
            first = lm.get(block).hidden_states.save()
            ids = tracer.result.save()
        with tracer.invoke(two):
            states = []
            for _ in tracer.iter[0:3]:
                states.append(lm.get(block).hidden_states.save())
    rows_first = name != "fsmt"
    for state in (first, *states):
        assert state.shape[0 if rows_first else 1] == many
    assert ids.shape[0] == (options.get("num_return_sequences", 1))
    if many > 1:
        return
    with torch.no_grad(), lm.generate(two, num_beams=1, max_new_tokens=3, min_new_tokens=3) as tracer:
        right = []
        for _ in tracer.iter[0:3]:
            right.append(lm.get(block).hidden_states.save())
    for state, found in zip(right, states, strict=True):
        torch.testing.assert_close(found.value, state.value)


def test_before_the_weights_are_there() -> None:
    lm = LanguageModel("nnsight-graph/capitals")
    with pytest.raises(NNsightError, match=r"transformer\.wpe\.output is the same"), lm.trace(validate=True) as tracer:
        with tracer.invoke([5, 6, 7]):
            lm.transformer.wpe.output[:] = 0
        with tracer.invoke([8, 9, 10]):
            pass
