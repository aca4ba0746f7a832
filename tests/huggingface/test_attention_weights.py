"""Attention weights of families of transformers, against what they return themselves with eager attention, and edits by hand."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from nnsight_graph import NNsight, NNsightError
from tests.huggingface.every_family import result
from tests.huggingface.tiny_families import LeftOut, build, families

LONG = os.environ.get("NNSIGHT_GRAPH_LONG") == "1"
CHOSEN = """FalconForCausalLM GPTNeoForCausalLM BertForMaskedLM T5ForConditionalGeneration OPTForCausalLM BloomForCausalLM
    GptOssForCausalLM GraniteSWAForCausalLM BigBirdForMaskedLM ConvBertForMaskedLM XGLMForCausalLM MptForCausalLM""".split()
IDS = torch.tensor([[20, 21, 22, 23, 24, 25], [30, 31, 32, 33, 34, 35]])
# Its own are the scores; in pieces; with a prompt of the model's; of two modules in one; none of a softmax.
_OTHERS = """SqueezeBert ProphetNet Longformer LED PegasusX CpmAnt T5Gemma2 DiffLlama Reformer Mra Yoso Inkling2 Rwkv XLMProphetNet MiniMax
    Doge""".split()
_SHARED = ("Albert", "HrmText", "Zamba")  # run a layer several times: the edit is one of the first time


def inputs_of(model: nn.Module) -> dict[str, torch.Tensor]:
    given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "decoder_input_ids": torch.tensor([[3, 50, 51], [3, 52, 53]])}
    takes = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in given.items() if name in takes}


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    for item in value if isinstance(value, (tuple, list)) else ():
        yield from tensors_in(item)


def attending(model: nn.Module) -> list[str]:
    """The first and the last module of each class that has attention in its name."""
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        name = type(module).__name__.lower()
        if any(part in name for part in ("attention", "attn", "mla")) and not name.endswith(("norm", "output")):
            found.setdefault(name, []).append(path)
    return [path for paths in found.values() for path in dict.fromkeys((paths[0], paths[-1]))]


def without_a_head(model: nn.Module, path: str) -> torch.Tensor | None:
    """The result where the softmax of a module gives zeros for one head; nothing if it takes none."""
    inside: list[nn.Module] = []
    met = []
    torchs = F.softmax, torch.softmax, torch.Tensor.softmax

    def changing(softmax: Any) -> Any:
        def changed(*args: Any, **kwargs: Any) -> torch.Tensor:
            stack, inside[:] = inside.copy(), []
            made: torch.Tensor = softmax(*args, **kwargs)
            inside[:] = stack
            met.append(bool(stack))
            if stack and made.dim() == 3 and made.shape[0] == 8:
                made = made * torch.tensor([1.0, 0, 1, 1] * 2)[:, None, None]
            elif stack and made.dim() == 4:
                made = torch.cat([made[:, :1], torch.zeros_like(made[:, :1]), made[:, 2:]], 1)
            return made

        return changed

    module = model.get_submodule(path)
    handles = [
        module.register_forward_pre_hook(lambda module, _args: inside.append(module)),
        module.register_forward_hook(lambda *_given: inside.clear()),
    ]
    try:
        F.softmax, torch.softmax, torch.Tensor.softmax = map(changing, torchs)  # type: ignore[assignment,method-assign]
        out = result(model(**inputs_of(model)))
        return out if any(met) else None
    finally:
        F.softmax, torch.softmax, torch.Tensor.softmax = torchs  # type: ignore[assignment,method-assign]
        for handle in handles:
            handle.remove()


def edited(model: NNsight, path: str) -> torch.Tensor:
    with model.trace(**inputs_of(model._module)):
        model.get(path).attention_weights[:, 1] = 0
        out = model.output.save()
    return result(out)


@pytest.mark.parametrize("name", families() if LONG else CHOSEN)
@torch.no_grad()
def test_weights_of_a_family(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, about configs
        transformers.logging.set_verbosity_error()
        try:
            module = build(name)
        except LeftOut as error:
            pytest.skip(str(error))
        try:
            own = module(**inputs_of(module), output_attentions=True)
        except Exception as error:
            pytest.skip(f"it returns none of its own: {error}")
        expected = [each for key, value in own.items() if "attention" in key for each in tensors_in(value)]
        try:
            other = build(name, "sdpa")
        except LeftOut:
            other = None
        met = sum(compare(module, other, path, expected, name) for path in attending(module))
    assert met or not expected or name.startswith(tuple(_OTHERS)), "no module has the weights that the model returns"


def compare(eager: Any, sdpa: Any, path: str, expected: list[torch.Tensor], name: str) -> bool:
    """Whether a module has weights, and those of both kinds of attention are right."""
    models = [NNsight(each) for each in (eager, sdpa) if each is not None]
    read = []
    for model in models:
        try:
            with model.trace(**inputs_of(model._module)):
                weights = model.get(path).attention_weights.save()
        except NNsightError as error:
            assert any(text in str(error) for text in ("has no attention weights", "did not run", "several places"))  # noqa: PT017
        else:
            read.append(weights.value)
    if not read:
        return False
    assert len(read) == len(models)
    for weights in read:
        same = [each for each in expected if each.shape == weights.shape and torch.allclose(each, weights, rtol=1e-3, atol=1e-4)]
        assert same or name.startswith(tuple(_OTHERS)) or not expected, path
    if read[0].dim() == 4 and read[0].shape[1] == 4 and not name.startswith((*_SHARED, *_OTHERS)):
        by_hand = without_a_head(eager, path)
        for model in models if by_hand is not None else ():
            torch.testing.assert_close(edited(model, path), by_hand, rtol=1e-3, atol=1e-3)
    return True


def vision_block() -> tuple[Any, tuple[Any, ...]]:
    pytest.importorskip("transformers.models.qwen2_vl")
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention

    torch.manual_seed(0)
    config = Qwen2VLVisionConfig(depth=1, embed_dim=16, hidden_size=16, num_heads=2)
    return VisionAttention(config).eval(), (torch.randn(6, 16),)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_blocks_that_attend_piece_by_piece(attention: str) -> None:
    """Qwen's vision blocks: one picture after the other."""
    net, args = vision_block()
    net.config._attn_implementation = attention
    around = torch.ones(6, 8), torch.zeros(6, 8)
    told: dict[str, Any] = {"position_embeddings": around, "cu_seqlens": torch.tensor([0, 6])}
    q, k, _ = net.qkv(args[0]).reshape(6, 3, 2, 8).permute(1, 2, 0, 3)
    model = NNsight(net)
    with model.trace(*args, **told):
        read = model.attention_weights.save()
    torch.testing.assert_close(read.value[0], (q @ k.mT * 8**-0.5).softmax(-1))
    told["cu_seqlens"] = torch.tensor([0, 2, 6])
    with pytest.raises(NNsightError, match="piece by piece"):
        with model.trace(*args, **told):
            model.attention_weights.save()
    with model.trace(*args, **told):
        first, second = model.attention_weights.save(), model.call[1].attention_weights.save()
    torch.testing.assert_close(first.value[0], (q[:, :2] @ k[:, :2].mT * 8**-0.5).softmax(-1))
    torch.testing.assert_close(second.value[0], (q[:, 2:] @ k[:, 2:].mT * 8**-0.5).softmax(-1))


@torch.no_grad()
def test_wavlm_calls_torchs_function_in_a_method() -> None:
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,), conv_stride=(4,),
        conv_kernel=(4,), num_feat_extract_layers=1, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, do_stable_layer_norm=False,
    )  # fmt: skip
    net = transformers.WavLMModel(config).eval()
    sound = torch.randn(2, 64)
    own = net(sound, output_attentions=True).attentions[0]
    model = NNsight(net)
    with model.trace(sound):
        read = model.encoder.layers[0].attention.attention_weights.save()
    torch.testing.assert_close(read.value.mean(1), own[:, 0])  # it returns their mean
    with model.trace(sound):
        model.encoder.layers[0].attention.attention_weights *= 0
        attended = model.encoder.layers[0].attention.output[0].save()
    torch.testing.assert_close(attended.value, net.encoder.layers[0].attention.out_proj.bias.expand_as(attended.value))


@pytest.mark.parametrize("landmarks", [6, 3])
@torch.no_grad()
def test_nystromformer_attends_plainly_or_by_landmarks(landmarks: int) -> None:
    torch.manual_seed(0)
    net = transformers.NystromformerModel(
        transformers.NystromformerConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_landmarks=landmarks,
            segment_means_seq_len=6,
        )
    ).eval()  # fmt: skip
    model = NNsight(net)
    if landmarks == 6:
        own = net(IDS, output_attentions=True).attentions[0]
        with model.trace(IDS):
            read = model.encoder.layer[0].attention.self.attention_weights.save()
        torch.testing.assert_close(read.value, own)
        return
    with pytest.raises(NNsightError, match=r"attends at several places.*print\(encoder\.layer\.0\.attention\.self\.source\)"):
        with model.trace(IDS):
            model.encoder.layer[0].attention.self.attention_weights.save()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_in_training(attention: str) -> None:
    """The weights are those of one draw, from which the layer's result comes."""
    config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, attn_implementation=attention)
    torch.manual_seed(0)
    net = transformers.GPT2Model(config).train()
    model = NNsight(net)
    with model.trace(IDS):
        weights = model.h[0].attn.attention_weights.save()
        values = model.h[0].attn.c_attn.output.split(16, -1)[2]
        read = model.h[0].attn.c_proj.input.save()
        expected = (weights @ values.unflatten(-1, (2, 8)).transpose(1, 2)).transpose(1, 2).flatten(2).save()
    assert (weights.value.tril() == 0).sum() > 60  # above the diagonal of 2 times 2 heads, and what is left out
    torch.testing.assert_close(read.value, expected.value)


def custom_attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **_kwargs: Any) -> Any:
    made = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return made.transpose(1, 2).contiguous(), None


def strange_attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_kwargs: Any) -> Any:
    scores = (query @ key.mT * query.shape[-1] ** -0.5).tril().exp().tril()
    weights = scores / scores.sum(-1, keepdim=True)
    made = weights @ value
    return (made + 1 if module.layer_idx == 0 else made).transpose(1, 2).contiguous(), weights


def blind_attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_kwargs: Any) -> Any:
    return value.transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("function", [custom_attention, strange_attention, blind_attention])
@torch.no_grad()
def test_attention_functions_that_users_register(function: Any) -> None:
    registry = transformers.AttentionInterface
    registry.register("of_a_test", function)
    try:
        config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2)
        torch.manual_seed(0)
        net = transformers.GPT2Model(config).eval()
        net.config._attn_implementation = "eager"
        own = net(IDS, output_attentions=True).attentions
        net.config._attn_implementation = "of_a_test"
        model = NNsight(net)
        if function is blind_attention:
            with pytest.raises(NNsightError, match="the attention weights of blind_attention cannot be recomputed for GPT2Attention"):
                with model.trace(IDS):
                    model.h[0].attn.attention_weights.save()
            return
        with model.trace(IDS):
            read = model.h[0].attn.attention_weights.save()
        torch.testing.assert_close(read.value, own[0])
        with model.trace(IDS):
            model.h[1].attn.attention_weights[:] = 0
            out = model.h[1].attn.output[0].save()
        torch.testing.assert_close(out.value, net.h[1].attn.c_proj.bias.expand_as(out.value))
        if function is strange_attention:
            with pytest.raises(NNsightError, match="does more than multiply"):
                with model.trace(IDS):
                    model.h[0].attn.attention_weights[:] = 0
                    model.output.last_hidden_state.save()
    finally:
        registry._global_mapping.pop("of_a_test")


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_flash_attention(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is told is what counts: the kernel stays out of it."""
    from transformers.integrations import flash_attention

    def kernel(query: Any, key: Any, value: Any, attention_mask: Any, *_args: Any, **kwargs: Any) -> torch.Tensor:
        allowed = torch.ones(6, 6, dtype=torch.bool).tril()
        allowed = allowed if attention_mask is None else allowed & attention_mask[:, None, None].bool()
        q, k, v = (part.transpose(1, 2) for part in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, allowed, enable_gqa=True).transpose(1, 2)

    monkeypatch.setattr(flash_attention, "_flash_attention_forward", kernel)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2
    )  # fmt: skip
    torch.manual_seed(0)
    net = transformers.LlamaModel(config).eval()
    given = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])} if padded else {}
    net.config._attn_implementation = "eager"
    own = net(IDS, output_attentions=True, **given).attentions[0]
    net.config._attn_implementation = "flash_attention_2"
    model = NNsight(net)
    with model.trace(IDS, **given):
        read = model.layers[0].self_attn.attention_weights.save()
        kept = model.layers[0].self_attn.output[0].save()
    seen = slice(2, None) if padded else slice(None)
    torch.testing.assert_close(read.value[:, :, seen], own[:, :, seen])
    with model.trace(IDS, **given):
        model.layers[0].self_attn.attention_weights *= 1
        again = model.layers[0].self_attn.output[0].save()
    torch.testing.assert_close(again.value[:, seen], kept.value[:, seen])
    with model.trace(IDS, **given):
        model.layers[0].self_attn.attention_weights[:] = 0
        nothing = model.layers[0].self_attn.output[0].save()
    assert not nothing.value.any()
