"""GPT-2 of four layers: what a trace costs beside a forward of some milliseconds."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch

import nnsight_graph as nnsight
from nnsight_graph.ops.nested import map_tensors

from .. import models
from .registry import Variants, replay, scenario


@scenario("small: save all block outputs", target="within noise", replay_target="within noise")
def save_all_blocks() -> Variants:
    net, tokens = models.small(), models.tokens()
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept: list[torch.Tensor] = []
        handles = [block.register_forward_hook(lambda _module, _args, output: kept.append(output)) for block in net.transformer.h]
        try:
            net(tokens)
        finally:
            for handle in handles:
                handle.remove()
        return kept

    def traced() -> Any:
        with model.trace(tokens):
            kept = [block.output.save() for block in model.transformer.h]
        return [output.value for output in kept]

    with model.trace(run=False) as tracer:
        for block in model.transformer.h:
            block.output.save()
    return Variants(hooks, traced, replay(tracer, model, tokens))


@scenario("small: cache every module", target=1.05, replay_target=1.03)
def cache_every_module() -> Variants:
    net, tokens = models.small(), models.tokens()
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept: dict[str, Any] = {}

        def keep(path: str) -> Any:
            def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
                kept[path] = map_tensors(output, lambda tensor: tensor.detach().to("cpu"))

            return hook

        handles = [module.register_forward_hook(keep(path)) for path, module in net.named_modules()]
        try:
            net(tokens)
        finally:
            for handle in handles:
                handle.remove()
        return [kept[f"transformer.h.{layer}.mlp"] for layer in range(4)]

    def traced() -> Any:
        with model.trace(tokens) as tracer:
            cache = tracer.cache()
        return [cache[f"model.transformer.h.{layer}.mlp"].output for layer in range(4)]

    return Variants(hooks, traced)


@scenario("small: backward, gradients of 4 blocks", target=1.02, replay_target="within noise")
def gradients_of_blocks() -> Variants:
    net, tokens = models.small(), models.tokens()
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Any:
            def hook(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> None:
                output.register_hook(lambda gradient: kept.__setitem__(layer, gradient))

            return hook

        handles = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(net.transformer.h)]
        try:
            with torch.enable_grad():
                net(tokens).logits.sum().backward()
        finally:
            for handle in handles:
                handle.remove()
        return [kept[layer] for layer in range(4)]

    def traced() -> Any:
        with torch.enable_grad(), model.trace(tokens):
            gradients = [block.output.grad.save() for block in model.transformer.h]
            model.output.logits.sum().backward()
        return [gradient.value for gradient in gradients]

    with torch.enable_grad(), model.trace(run=False) as tracer:
        for block in model.transformer.h:
            block.output.grad.save()
        model.output.logits.sum().backward()
    return Variants(hooks, traced, torch.enable_grad()(replay(tracer, model, tokens)))


def logits_without_mlp(net: Any, tokens: torch.Tensor, layer: int) -> torch.Tensor:
    """The logits with one MLP's output set to zero, by a hook."""

    def zero(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> None:
        output[:] = 0

    handle = net.transformer.h[layer].mlp.register_forward_hook(zero)
    try:
        logits: torch.Tensor = net(tokens).logits
    finally:
        handle.remove()
    return logits


@scenario("small: ablate one MLP, save logits", target="within noise", replay_target="within noise")
def ablate_one_mlp() -> Variants:
    net, tokens = models.small(), models.tokens()
    model = nnsight.NNsight(net)

    def traced() -> Any:
        with model.trace(tokens):
            model.transformer.h[1].mlp.output[:] = 0
            logits = model.output.logits.save()
        return logits.value

    with model.trace(run=False) as tracer:
        model.transformer.h[1].mlp.output[:] = 0
        model.output.logits.save()
    again = replay(tracer, model, tokens)
    return Variants(lambda: logits_without_mlp(net, tokens, 1), traced, lambda: again()[0])


@scenario("small: ablation over 100 inputs, per call", target="within noise", replay_target="within noise")
def ablate_over_inputs() -> Variants:
    net, rows = models.small(), list(models.tokens(100).split(1))
    model = nnsight.NNsight(net)
    by_hooks, by_traces, by_replays = cycle(rows), cycle(rows), cycle(rows)

    def traced() -> Any:
        with model.trace(next(by_traces)):
            model.transformer.h[2].mlp.output[:] = 0
            logits = model.output.logits.save()
        return logits.value

    with model.trace(run=False) as tracer:
        model.transformer.h[2].mlp.output[:] = 0
        model.output.logits.save("logits")
    graph = tracer.graph.detach()
    replayed = lambda: graph.run(model, next(by_replays))["logits"]  # noqa: E731
    return Variants(lambda: logits_without_mlp(net, next(by_hooks), 2), traced, replayed, calls=len(rows))


@scenario("small: 16 invokes, each patching a row", target=1.02, replay_target="within noise")
def patch_rows() -> Variants:
    net, prompts, patches = models.small(), list(models.tokens(16).split(1)), models.vectors(16, 256)
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        def patch(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> None:
            for row, value in enumerate(patches):
                output[row, row] = value

        handle = net.transformer.h[1].register_forward_hook(patch)
        try:
            logits = net(torch.cat(prompts)).logits
        finally:
            handle.remove()
        return [logits[row, -1] for row in range(len(prompts))]

    def traced() -> Any:
        kept = []
        with model.trace() as tracer:
            for row, (prompt, value) in enumerate(zip(prompts, patches, strict=True)):
                with tracer.invoke(prompt):
                    model.transformer.h[1].output[0, row] = value
                    kept.append(model.lm_head.output[0, -1].save())
        return [logits.value for logits in kept]

    with model.trace(run=False) as tracer:
        for row, (prompt, value) in enumerate(zip(prompts, patches, strict=True)):
            with tracer.invoke(prompt):
                model.transformer.h[1].output[0, row] = value
                model.lm_head.output[0, -1].save()
    return Variants(hooks, traced, replay(tracer, model, *prompts))


def two_hundred_ops(x: Any) -> Any:
    """Operators, methods, torch functions and an index, twenty times over; for tensors and traced values alike."""
    for _ in range(20):
        x = x * 1.01
        x = x + 0.5
        x = -x
        x = x / 1.02
        x = x.abs()
        x = x - 0.25
        x = torch.tanh(x)
        x = x.clamp(-3.0, 3.0)
        x = x[:, :]
        x = torch.add(x, x)
    return x


@scenario("small: 200 small ops on one activation", target=1.1, replay_target=1.02)
def ops_on_one_activation() -> Variants:
    net, tokens = models.small(), models.tokens()
    model = nnsight.NNsight(net)

    def hooks() -> Any:
        kept: list[torch.Tensor] = []
        handle = net.transformer.h[1].register_forward_hook(lambda _module, _args, output: kept.append(two_hundred_ops(output)))
        try:
            net(tokens)
        finally:
            handle.remove()
        return kept[0]

    def traced() -> Any:
        with model.trace(tokens):
            kept = two_hundred_ops(model.transformer.h[1].output).save()
        return kept.value

    with model.trace(run=False) as tracer:
        two_hundred_ops(model.transformer.h[1].output).save()
    again = replay(tracer, model, tokens)
    return Variants(hooks, traced, lambda: again()[0])
