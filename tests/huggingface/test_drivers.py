"""Models of transformers that generate by a module inside them, or by a loop of their own."""

from __future__ import annotations

import pytest
import torch
import transformers

import nnsight_graph as nnsight

IDS = torch.tensor([[49, 49, 2, 5, 6]])


def blip():
    size = {"hidden_size": 16, "num_attention_heads": 2}
    vision = transformers.Blip2VisionConfig(**size, intermediate_size=32, num_hidden_layers=1, image_size=8, patch_size=4)
    qformer = transformers.Blip2QFormerConfig(**size, intermediate_size=32, num_hidden_layers=1, encoder_hidden_size=16)
    text = transformers.OPTConfig(
        **size, vocab_size=50, ffn_dim=32, num_hidden_layers=2, word_embed_proj_dim=16, max_position_embeddings=64, pad_token_id=1,
        eos_token_id=None, bos_token_id=2,
    )  # fmt: skip
    parts = {"vision_config": vision.to_dict(), "qformer_config": qformer.to_dict(), "text_config": text.to_dict()}
    net = transformers.Blip2ForConditionalGeneration(transformers.Blip2Config(**parts, num_query_tokens=2, image_token_index=49)).eval()
    options = {"pixel_values": torch.ones(1, 3, 8, 8), "input_ids": IDS, "max_new_tokens": 4, "do_sample": False}
    return net, "generate", options, "language_model.model.decoder.layers.1", "vision_model"


def speech():
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    config = transformers.SpeechT5Config(
        **layers, vocab_size=50, hidden_size=16, encoder_attention_heads=2, decoder_attention_heads=2, speech_decoder_prenet_units=16,
        speech_decoder_postnet_units=16, speech_decoder_postnet_layers=2, num_mel_bins=8, speaker_embedding_dim=4,
        speech_decoder_prenet_dropout=0.0, max_speech_positions=100, max_text_positions=50, reduction_factor=2,
    )  # fmt: skip
    options = {"input_ids": IDS, "speaker_embeddings": torch.ones(1, 4), "threshold": 2.0, "maxlenratio": 2.0}
    path = "speecht5.decoder.wrapped_decoder.layers.1"
    return transformers.SpeechT5ForTextToSpeech(config).eval(), "generate_speech", options, path, "speecht5.encoder"


def by_hand(net, method, options, path, chosen=()):
    """``(norms of the block, step after step; result)``, with 2 added in the chosen steps."""
    norms = []

    def hook(_module, _args, output):
        first = output[0] if isinstance(output, tuple) else output
        if len(norms) in chosen:
            first += 2
        norms.append(first.norm())

    handle = net.get_submodule(path).register_forward_hook(hook)
    torch.manual_seed(0)
    with torch.no_grad():
        result = getattr(net, method)(**options)
    handle.remove()
    return norms, result


@pytest.mark.slow
@pytest.mark.parametrize("make", [blip, speech])
def test_every_step_of_a_model_that_generates_by_another(make):
    net, method, options, path, before = make()
    model = nnsight.NNsight(net)
    norms, plain = by_hand(net, method, options, path)
    _, steered = by_hand(net, method, options, path, [1])
    _, everywhere = by_hand(net, method, options, path, range(99))
    assert len(norms) > 2
    torch.manual_seed(0)
    with torch.no_grad(), model.trace(fn=method, **options) as tracer:
        found = nnsight.list().save()
        once = model.get(before).hidden_states.save()
        with tracer.iter[:]:
            found.append(model.get(path).hidden_states.norm())
        result = tracer.result.save()
    torch.testing.assert_close([*found, result.value], [*norms, plain])
    assert once.shape[-1] == 16
    torch.manual_seed(0)
    with torch.no_grad(), model.trace(fn=method, **options) as tracer:
        with tracer.iter[1]:
            model.get(path).hidden_states += 2
        result = tracer.result.save()
    torch.testing.assert_close(result.value, steered)
    with model.edit() as edited:
        edited.get(path).hidden_states += 2
    torch.manual_seed(0)
    with torch.no_grad(), edited.trace(fn=method, **options) as tracer:
        result = tracer.result.save()
    torch.testing.assert_close(result.value, everywhere)
