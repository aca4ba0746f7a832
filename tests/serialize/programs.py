"""Programs that are written to files: each is recorded on a model, with the inputs of its run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel

EIFFEL, COLOSSEUM = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
Recorded = tuple[Any, tuple[Any, ...], dict[str, Any]]
PROGRAMS: dict[str, Callable[[LanguageModel], Recorded]] = {}


def program(record: Callable[[LanguageModel], Recorded]) -> Callable[[LanguageModel], Recorded]:
    PROGRAMS[record.__name__] = record
    return record


@program
def steering(lm: LanguageModel) -> Recorded:
    vector = torch.linspace(-1, 1, 96)
    with lm.trace(EIFFEL) as tracer:
        lm.transformer.h[3].mlp.output[:, -1] += vector * 2
        lm.lm_head.output.save("logits")
        lm.transformer.h[1].mlp.output.save("inner")
    return tracer, (EIFFEL,), {}


@program
def constants(lm: LanguageModel) -> Recorded:
    matrix = torch.linspace(-1, 1, 96 * 96).reshape(96, 96)
    with lm.trace(EIFFEL) as tracer:
        hidden = lm.transformer.h[2].mlp.output
        mixed = hidden @ matrix.T + matrix[::2, 0].sum() + torch.tensor(2, dtype=torch.float16).float()
        named = {"large": mixed * 1e300 * float("inf"), "whole": hidden.long() + 2**62, "parts": [mixed, (hidden, None, True, "text")]}
        nnsight.save(named["whole"]).save("whole")
        mixed.sum(dim=-1, dtype=torch.float64).save("mixed")
        named["large"].isnan().any().save("large")
    return tracer, (EIFFEL,), {}


@program
def patching(lm: LanguageModel) -> Recorded:
    with lm.trace() as tracer:
        with tracer.invoke(EIFFEL):
            clean = lm.transformer.h[4].mlp.output[:, -1]
        with tracer.invoke(COLOSSEUM):
            lm.transformer.h[4].mlp.output[:, -1] = clean
            lm.lm_head.output[:, -1].save("patched")
        with tracer.invoke():
            lm.lm_head.output[:, -1].save("both")
    return tracer, (EIFFEL, COLOSSEUM), {}


@program
def steps(lm: LanguageModel) -> Recorded:
    with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
        tokens = nnsight.list().save("tokens")
        for _ in tracer.iter[:]:
            lm.transformer.h[2].mlp.output[:, -1] *= 0.5
            tokens.append(lm.lm_head.output[0, -1].argmax())
        tracer.result.save("ids")
    return tracer, (EIFFEL,), {"max_new_tokens": 3}


@program
def unrolled_steps(lm: LanguageModel) -> Recorded:
    with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
        tokens = nnsight.list().save("tokens")
        total = 0
        for _ in tracer.iter[0:3]:
            total = total + lm.transformer.h[2].mlp.output[:, -1].norm()
            tokens.append(lm.lm_head.output[0, -1].argmax())
        nnsight.save(total).save("total")
    return tracer, (EIFFEL,), {"max_new_tokens": 3}


@program
def control_flow(lm: LanguageModel) -> Recorded:
    with lm.trace(EIFFEL) as tracer:
        hidden = lm.transformer.h[3].mlp.output
        if hidden.sum() > 0:
            hidden[:, -1] = 0
        else:
            hidden[:, -1] *= 2
        total = 0
        for row in lm.transformer.h[0].mlp.output[0]:
            total = total + row.norm()
        while total > 1:
            total = total / 2
        with tracer.cond(total < 0):
            lm.lm_head.output[:] = 0
        nnsight.save(total).save("total")
        lm.lm_head.output.save("logits")
    return tracer, (EIFFEL,), {}


@program
def gradients(lm: LanguageModel) -> Recorded:
    with lm.trace(EIFFEL) as tracer:
        lm.transformer.h[5].mlp.output.grad[:, 0] = 0
        lm.transformer.h[3].mlp.output.grad.save("gradient")
        lm.lm_head.output[0, -1].logsumexp(0).backward()
    return tracer, (EIFFEL,), {}


@program
def skips_and_parameters(lm: LanguageModel) -> Recorded:
    with lm.trace(EIFFEL) as tracer:
        scale = tracer.parameter("scale", 0.5)
        lm.transformer.h[6].mlp.skip(lm.transformer.h[6].mlp.input * scale)
        lm.transformer.h[2].mlp.c_fc.weight[0] = 0
        lm.transformer.h[3].attn.source.attention_interface_0.output[0][:, :, 1] = 0
        lm.lm_head.output.save("logits")
    return tracer, (EIFFEL,), {}


@program
def stops(lm: LanguageModel) -> Recorded:
    with lm.trace(EIFFEL) as tracer:
        lm.transformer.h[1].mlp.output.save("inner")
        tracer.stop()
    return tracer, (EIFFEL,), {}
