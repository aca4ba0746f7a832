"""Checks before a run, on models of many families: a right program passes, a wrong one does not, and the model stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel
from tests.huggingface.families import tiny_model
from tests.huggingface.test_scanning import CAUSAL, FIVE, IDS, mixtral, scaled
from tests.run.untouched import state

pytestmark = pytest.mark.slow

FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 8}
MODELS = {
    **{family: lambda family=family: tiny_model(family) for family in (*CAUSAL, "bert", "t5")},
    "dynamic rope": lambda: scaled("dynamic"),
    "long rope": lambda: scaled("longrope", **FACTORS),
    "mixtral": mixtral,
}
KINDS = ("Linear", "Conv1D")
every_model = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """A model, an MLP or feed-forward module of it, and arguments of its call."""
    module = MODELS[name]()
    model = LanguageModel(module)
    path = next(path for path, child in module.named_modules() if type(child).__name__ in KINDS and path.count(".") > 2)
    return model, model.get(path), {"input_ids": IDS, **({"decoder_input_ids": IDS[:, :2]} if name == "t5" else {})}


def logits(model: Any, site: Any, kwargs: dict[str, Any], **flags: Any) -> torch.Tensor:
    with model.trace(**kwargs, **flags):
        site.output[:, -1] = 0
        site.output = site.output * 2
        out = model.output.logits.save()
    return out.value


@every_model
def test_a_right_program_passes(name: str) -> None:
    model, site, kwargs = made(name)
    plain = logits(model, site, kwargs, validate=False)
    torch.testing.assert_close(logits(model, site, kwargs, validate=True), plain, rtol=0, atol=0)


@every_model
def test_a_wrong_program_does_not(name: str) -> None:
    model, site, kwargs = made(name)
    calls: list[int] = []
    before = state(model._module)
    handle = site._module.register_forward_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(IndexError, match="out of bounds"):
            with model.trace(**kwargs, validate=True):
                site.output[..., 1000] = 0
                model.output.logits.save()
        with pytest.raises((RuntimeError, ValueError)):
            with model.trace(**kwargs, validate=True):
                site.output = torch.zeros(2, 4, 3)
                model.output.logits.save()
    finally:
        handle.remove()
    blind = name == "mixtral" and not FIVE  # what the model makes of the second one cannot be known before it runs
    assert calls == ([1] if blind else [])
    assert state(model._module) == before


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "mixtral"])
def test_generations_pass(name: str) -> None:
    model, _, _ = made(name)
    values = []
    for validate in (True, False):
        with model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False, validate=validate) as tracer:
            kept = nnsight.list().save()
            for _ in tracer.iter[:]:
                kept.append(model.lm_head.output[:, -1].argmax(-1))
            ids = tracer.result.save()
        values.append((list(kept), ids.value))
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
