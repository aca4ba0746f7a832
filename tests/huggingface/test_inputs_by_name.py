"""Models that are called by the names of their inputs, where these are no text."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers

from nnsight_graph import LanguageModel, RecordError
from tests.huggingface.families import tiny_model, word_tokenizer

_SIZES = {"vocab_size": 40, "d_model": 16, "decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1}
_ENDS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
_SOUND = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_QUIET = {"suppress_tokens": None, "begin_suppress_tokens": None}
START = torch.tensor([[1, 6, 7]])


@functools.cache
def whisper() -> Any:
    torch.manual_seed(0)
    return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**_SIZES, **_ENDS, **_SOUND, **_QUIET)).eval()


@functools.cache
def speech() -> Any:
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    conv = {"conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 4)}
    conv |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    return transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**layers, **conv, num_feat_extract_layers=2)).eval()


@functools.cache
def captions() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = transformers.ViTConfig(**sizes, image_size=8, patch_size=4)
    decoder = transformers.BertConfig(**sizes, vocab_size=40, is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    torch.manual_seed(0)
    return transformers.VisionEncoderDecoderModel(config).eval()


def named_inputs() -> list[tuple[Any, dict[str, Any]]]:
    torch.manual_seed(1)
    t5 = tiny_model("t5")
    with torch.no_grad():
        encoded = t5.encoder(input_ids=torch.tensor([[3, 4, 5], [6, 7, 8]]))
    twice = torch.cat([START, START + 1])
    return [
        (whisper(), {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": twice}),
        (speech(), {"input_values": torch.randn(2, 64)}),
        (captions(), {"pixel_values": torch.randn(2, 3, 8, 8), "decoder_input_ids": twice}),
        (t5, {"encoder_outputs": encoded, "decoder_input_ids": twice}),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_forward_is_called_by_name(number: int) -> None:
    module, inputs = named_inputs()[number]
    lm = LanguageModel(module)
    with torch.no_grad():
        right = module(**inputs).logits
        assert torch.equal(lm.trace(**inputs, trace=False).logits, right)
        with lm.trace(**inputs):
            traced = lm.output.logits.save()
        with lm.trace(inputs):
            mapped = lm.output.logits.save()
        with lm.trace() as tracer:
            with tracer.invoke(**inputs):
                invoked = lm.output.logits.save()
        with lm.session(), lm.trace(**inputs):
            of_session = lm.output.logits.save()
        with lm.trace(forward_kwargs=inputs):
            handed = lm.output.logits.save()
    for found in (traced, mapped, invoked, of_session, handed):
        assert torch.equal(found, right)
    with lm.scan(**inputs):
        assert lm.output.logits.shape == right.shape


@pytest.mark.parametrize("number", range(3))
def test_several_invokes_are_one_batch(number: int) -> None:
    module, inputs = named_inputs()[number]
    lm = LanguageModel(module)
    with torch.no_grad(), lm.trace() as tracer:
        with tracer.invoke(**{name: value[:1] for name, value in inputs.items()}):
            first = lm.output.logits.save()
        with tracer.invoke(**{name: value[1:] for name, value in inputs.items()}):
            second = lm.output.logits.save()
    with torch.no_grad():
        right = module(**inputs).logits
    assert torch.allclose(torch.cat([first, second]), right, atol=1e-5)


def test_what_an_encoder_made_has_one_maker() -> None:
    module, inputs = named_inputs()[3]
    with pytest.raises(RecordError, match="encoder_outputs belongs to rows that only its maker knows"):
        with LanguageModel(module).trace() as tracer:
            for _ in range(2):
                with tracer.invoke(**inputs):
                    pass


def test_generations_by_name() -> None:
    for module, inputs in (named_inputs()[0], named_inputs()[2], named_inputs()[3]):
        lm, options = LanguageModel(module), {"max_new_tokens": 3, "do_sample": False}
        own = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
        right = module.generate(**own, **options)
        with lm.generate(**own, **options) as tracer:
            result = tracer.result.save()
        assert torch.equal(result, right)
        assert torch.equal(lm.generate(**own, **options, trace=False), right)


def test_a_generation_calls_its_input_inputs() -> None:
    module, options = tiny_model("gpt2"), {"max_new_tokens": 3, "do_sample": False}
    lm, ids = LanguageModel(module), torch.tensor([[3, 4]])
    assert torch.equal(lm.generate(inputs=ids, trace=False, **options), module.generate(inputs=ids, **options))
    with pytest.raises(RecordError, match="inputs and input_ids are two names of one argument"):
        lm.generate(inputs=ids, input_ids=ids)
    with lm.generate(**options) as tracer:
        with tracer.invoke(inputs=ids):
            result = tracer.result.save()
    assert torch.equal(result, module.generate(inputs=ids, **options))


def test_the_first_token_of_a_decoder_is_given() -> None:
    module, inputs = named_inputs()[0]
    sound = inputs["input_features"]
    with torch.no_grad():
        right = module(input_features=sound, decoder_input_ids=torch.tensor([[1], [1]])).logits
        assert torch.allclose(LanguageModel(module).trace(input_features=sound, trace=False).logits, right, atol=1e-6)


def test_a_name_that_the_forward_alone_knows() -> None:
    """A trace without a prompt or an invoke is a call of its own, if tensors are given to it."""

    class Waves(torch.nn.Module):
        def forward(self, waves: torch.Tensor, scale: float = 1) -> torch.Tensor:
            return waves * scale

    lm, waves = LanguageModel(Waves()), torch.ones(2, 3)
    with lm.trace(waves=waves, scale=3):
        out = lm.output.save()
    assert torch.equal(out, waves * 3)
    assert torch.equal(lm.trace(waves=waves, scale=3, trace=False), waves * 3)
    with lm.session(), lm.trace(waves=waves, scale=3):
        of_session = lm.output.save()
    assert torch.equal(of_session, waves * 3)


def test_pictures_around_invokes_of_text_are_no_input() -> None:
    class Describes(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, **_kwargs: Any) -> torch.Tensor:
            return input_ids + (0 if pixel_values is None else pixel_values.sum())

    lm = LanguageModel(Describes(), tokenizer=word_tokenizer())
    with lm.trace(pixel_values=torch.ones(3, 1)) as tracer:
        with tracer.invoke("w3 w4"):
            out = lm.output.save()
    assert out.tolist() == [[6, 7]]


def test_nothing_is_no_input() -> None:
    lm = LanguageModel(tiny_model("gpt2"), tokenizer=word_tokenizer())
    with pytest.raises(RecordError, match="a batch of nothing"), lm.trace(use_cache=False):
        pass
    with pytest.raises(RecordError, match="needs a"):
        lm.trace(trace=False)
    with pytest.raises(RecordError, match="input_values has no rows"):
        LanguageModel(speech()).trace(input_values=torch.tensor(1.0))
