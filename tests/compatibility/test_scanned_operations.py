"""Shapes of operations inside forwards, and inside what these call, are known to a scan, and while a trace is written."""

from __future__ import annotations

import pytest
import torch

import nnsight_graph as nnsight
from tests.huggingface.families import tiny_model

pytestmark = pytest.mark.slow

IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
SOFTMAX = "nn_functional_softmax_0"


@pytest.fixture
def model():
    return nnsight.LanguageModel(tiny_model("gpt2", "eager"))


def weights(model, layer):
    return model.transformer.h[layer].attn.source.attention_interface_0.source[SOFTMAX]


def test_a_scan_knows_them(model):
    with model.scan(IDS):
        act = model.transformer.h[0].mlp.source.self_act_0.output.shape
        inner = weights(model, 1).output.shape
        halved = weights(model, 1).output[..., ::2].shape
    with torch.no_grad(), model.trace(IDS):
        act_value = model.transformer.h[0].mlp.source.self_act_0.output.save()
        inner_value = weights(model, 1).output.save()
    assert act == act_value.shape
    assert inner == inner_value.shape
    assert halved == inner_value[..., ::2].shape


def test_python_asks_for_them_in_a_trace(model):
    with torch.no_grad(), model.trace(IDS):
        pattern = weights(model, 0).output
        if pattern.device != torch.device("cpu"):
            raise ValueError("elsewhere")
        parts = [pattern[:, head].save() for head in range(pattern.shape[1])]
        whole = pattern.save()
    assert len(parts) == whole.shape[1]
    for head, part in enumerate(parts):
        assert torch.equal(part, whole[:, head])


def test_a_check_finds_a_line_that_would_fail_there(model):
    with pytest.raises(RuntimeError, match="found on fake tensors"), model.trace(IDS, validate=True, scan=True):
        weights(model, 0).output @ torch.ones(7, 7)
    with torch.no_grad(), model.trace(IDS, validate=True, scan=True):
        weights(model, 0).output[:, 0] = 0
        logits = model.output.logits.save()
    assert torch.isfinite(logits).all()


def test_one_on_a_line_that_does_not_run_is_not_known(model):
    with model.scan(IDS):
        shape = model.transformer.h[0].attn.source.split_0.output[0].shape  # of cross attention
    with pytest.raises(nnsight.UnsetValueError, match="does not reach"):
        tuple(shape)
