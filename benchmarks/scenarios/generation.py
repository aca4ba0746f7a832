"""GPT-2 of four layers generates: what steps cost beside the forwards they are."""

from __future__ import annotations

from typing import Any

import torch

import nnsight_graph as nnsight

from .. import models
from .registry import Variants, replay, scenario

NEW = 20


@scenario("small: generate 20 tokens, steer and argmax each step", target=1.02, replay_target=1.02)
def steer_and_pick() -> Variants:
    net, tokens = models.small(), models.tokens()
    net.generation_config.eos_token_id = None
    vector = torch.linspace(-1, 1, 256)
    model = nnsight.LanguageModel(net)
    options: dict[str, Any] = {"max_new_tokens": NEW, "pad_token_id": 0, "do_sample": False}
    mask = torch.ones_like(tokens)

    def hooks() -> Any:
        picked: list[torch.Tensor] = []

        def steer(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> None:
            output += vector

        def pick(_module: torch.nn.Module, _args: Any, logits: torch.Tensor) -> None:
            picked.append(logits[0, -1].argmax())

        handles = [net.transformer.h[2].mlp.register_forward_hook(steer), net.lm_head.register_forward_hook(pick)]
        try:
            ids = net.generate(input_ids=tokens, attention_mask=mask, **options)
        finally:
            for handle in handles:
                handle.remove()
        return [*picked, ids]

    def traced() -> Any:
        with model.generate(input_ids=tokens, attention_mask=mask, **options) as tracer:
            picked = nnsight.list().save()
            with tracer.iter[:]:
                model.transformer.h[2].mlp.output += vector
                picked.append(model.lm_head.output[0, -1].argmax())
            ids = tracer.result.save()
        return [*picked.value, ids.value]

    with model.generate(run=False) as tracer:
        picked = nnsight.list().save()
        with tracer.iter[:]:
            model.transformer.h[2].mlp.output += vector
            picked.append(model.lm_head.output[0, -1].argmax())
        tracer.result.save()
    again = replay(tracer, model, input_ids=tokens, attention_mask=mask, **options)

    def replayed() -> Any:
        steps, ids = again()
        return [*steps, ids]

    return Variants(hooks, traced, replayed)
