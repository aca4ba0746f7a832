"""Attention weights of models of diffusers, timm and open_clip, where these are there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnsight_graph import MissedSiteError, NNsight

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def changed(model: NNsight, path: str, args: tuple[Any, ...], factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights, and the result when those of the second head are multiplied."""
    with torch.no_grad(), model.trace(*args):
        read = model.get(path).attention_weights.save()
    with torch.no_grad(), model.trace(*args):
        model.get(path).attention_weights[:, 1] *= factor
        result = model.output.save()
    return read.value, getattr(result.value, "sample", result.value)


def test_processors_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    processors = pytest.importorskip("diffusers.models.attention_processor")
    torch.manual_seed(0)
    net = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2,
    ).eval()  # fmt: skip
    args = torch.randn(2, 4, 8, 8), torch.tensor([1, 1]), torch.randn(2, 5, 16)
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    model = NNsight(net)
    plain = net(*args).sample
    for name, keys in (("attn1", 64), ("attn2", 5)):
        found = []
        for processor in (processors.AttnProcessor(), processors.AttnProcessor2_0()):
            net.set_attn_processor(processor)
            found += [changed(model, f"{block}.{name}", args, factor) for factor in (1.0, 0.0)]
        attention = net.get_submodule(f"{block}.{name}")
        assert found[0][0].shape == (2, attention.heads, 64, keys)
        for one, other in zip(found[:2], found[2:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found[0][1], plain, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found[1][1], plain, rtol=1e-3, atol=1e-4)
    with pytest.raises(MissedSiteError, match=rf"Ask {block}\.attn1, {block}\.attn2"):
        with torch.no_grad(), model.trace(*args):
            model.get(block).attention_weights.save()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "samvit_base_patch16_224"])
def test_vision_transformers_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, depth=2, img_size=64 if "vit_tiny" in name else None).eval()
    images = torch.randn(2, 3, *([64, 64] if "vit_tiny" in name else net.default_cfg["input_size"][1:]))
    model, found = NNsight(net), []
    for fused in (True, False):
        for block in net.blocks:
            block.attn.fused_attn = fused
        found += [changed(model, "blocks.0.attn", (images,), factor) for factor in (1.0, 0.0)]
    assert found[0][0].dim() == 4
    torch.testing.assert_close(found[0][0].sum(-1), torch.ones(found[0][0].shape[:-1]))
    for one, other in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[0][1], net(images), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found[1][1], found[0][1], rtol=1e-3, atol=1e-4)


def test_clip_of_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    net = open_clip.CLIP(
        embed_dim=16, vision_cfg={"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
        text_cfg={"context_length": 6, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2},
    ).eval()  # fmt: skip
    args = torch.randn(2, 3, 32, 32), torch.randint(1, 40, (2, 6))
    model = NNsight(net)
    with torch.no_grad(), model.trace(*args):
        seen = model.visual.transformer.resblocks[1].attn.attention_weights.save()
        text = model.transformer.resblocks[0].attn.attention_weights.save()
        given = model.transformer.resblocks[0].attn.input.save()
    torch.testing.assert_close(seen.value.sum(-1), torch.ones(2, 2, 5))
    attention = net.transformer.resblocks[0].attn
    own = attention(*[given.value] * 3, attn_mask=net.attn_mask, average_attn_weights=False)[1]
    torch.testing.assert_close(text.value, own)
