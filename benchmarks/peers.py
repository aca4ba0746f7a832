"""Other libraries that do the same work: each is imported when it is asked for, and left out where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from . import models
from .measure import Call
from .scenarios import Variants
from .scenarios.small import two_hundred_ops

Adapter = Callable[[Variants], Variants]
"""Takes a scenario's variants; gives those to compare: ``traced`` is the peer's, ``hooks`` is on the model that it runs."""


@dataclass(frozen=True)
class Peer:
    """A library with its adapters, by the name of the scenario."""

    module: str
    package: str
    scenarios: dict[str, Adapter] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.package} {version(self.package)}"

    def adapter(self, name: str) -> Callable[[Adapter], Adapter]:
        """Add the adapter for a scenario."""

        def add(build: Adapter) -> Adapter:
            self.scenarios[name] = build
            return build

        return add


NNSIGHT = Peer("nnsight", "nnsight")
TRANSFORMER_LENS = Peer("transformer_lens", "transformer-lens")
PYVENE = Peer("pyvene", "pyvene")


def installed_peers() -> list[Peer]:
    """The peers that are installed, none of them imported yet; a line on stderr for each that is not."""
    found = []
    for peer in (NNSIGHT, TRANSFORMER_LENS, PYVENE):
        try:
            version(peer.package)
            found.append(peer)
        except PackageNotFoundError:
            print(f"{peer.package} is not installed: left out", file=sys.stderr)
    return found


def plain(value: Any) -> Any:
    """What a library gave, as a tensor."""
    return value if isinstance(value, torch.Tensor) else value.value


# ---------------------------------------------------------------------- nnsight


@NNSIGHT.adapter("tiny: save one output")
def _(given: Variants) -> Variants:
    import nnsight

    model, x = nnsight.NNsight(models.tiny()), models.vectors(1, 5)

    def traced() -> Any:
        with model.trace(x):
            kept = model[0].output.save()
        return plain(kept)

    return replace(given, traced=traced, replayed=None)


@NNSIGHT.adapter("tiny: save a clone, zero a slice, save")
def _(given: Variants) -> Variants:
    import nnsight

    model, x = nnsight.NNsight(models.tiny()), models.vectors(1, 5)

    def traced() -> Any:
        with model.trace(x):
            before = model[0].output.clone().save()
            model[0].output[:, 0] = 0
            after = model[0].output.save()
        return [plain(before), plain(after)]

    return replace(given, traced=traced, replayed=None)


@NNSIGHT.adapter("small: save all block outputs")
def _(given: Variants) -> Variants:
    import nnsight

    model, tokens = nnsight.NNsight(models.small()), models.tokens()

    def traced() -> Any:
        with model.trace(tokens):
            one = model.transformer.h[0].output.save()
            two = model.transformer.h[1].output.save()
            three = model.transformer.h[2].output.save()
            four = model.transformer.h[3].output.save()
        return [plain(one), plain(two), plain(three), plain(four)]

    return replace(given, traced=traced, replayed=None)


@NNSIGHT.adapter("small: ablate one MLP, save logits")
def _(given: Variants) -> Variants:
    import nnsight

    model, tokens = nnsight.NNsight(models.small()), models.tokens()

    def traced() -> Any:
        with model.trace(tokens):
            model.transformer.h[1].mlp.output[:] = 0
            logits = model.output.logits.save()
        return plain(logits)

    return replace(given, traced=traced, replayed=None)


@NNSIGHT.adapter("small: 200 small ops on one activation")
def _(given: Variants) -> Variants:
    import nnsight

    model, tokens = nnsight.NNsight(models.small()), models.tokens()

    def traced() -> Any:
        with model.trace(tokens):
            kept = two_hundred_ops(model.transformer.h[1].output).save()
        return plain(kept)

    return replace(given, traced=traced, replayed=None)


# ---------------------------------------------------------------------- TransformerLens


def _hooked_tiny() -> Any:
    import transformer_lens as lens

    class Hooked(lens.HookedRootModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = models.tiny()
            self.between = lens.hook_points.HookPoint()
            self.setup()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.between(self.first(x)))  # type: ignore[no-any-return]

    return Hooked().eval()


@TRANSFORMER_LENS.adapter("tiny: save one output")
def _(given: Variants) -> Variants:
    model, x = _hooked_tiny(), models.vectors(1, 5)

    def traced() -> Any:
        kept = []
        model.run_with_hooks(x, fwd_hooks=[("between", lambda value, hook: kept.append(value))])
        return kept[0]

    return replace(given, traced=traced, replayed=None)


@TRANSFORMER_LENS.adapter("tiny: save a clone, zero a slice, save")
def _(given: Variants) -> Variants:
    model, x = _hooked_tiny(), models.vectors(1, 5)

    def traced() -> Any:
        kept = []

        def zero(value: torch.Tensor, hook: Any) -> torch.Tensor:
            kept.append(value.clone())
            value[:, 0] = 0
            kept.append(value)
            return value

        model.run_with_hooks(x, fwd_hooks=[("between", zero)])
        return kept

    return replace(given, traced=traced, replayed=None)


# ---------------------------------------------------------------------- pyvene


def _frozen(given: Variants, traced: Call) -> Variants:
    """Both without autograd: the library makes the model's parameters ask for no gradients, so it would win by that alone."""
    return Variants(torch.no_grad()(given.hooks), torch.no_grad()(traced))


@PYVENE.adapter("small: ablate one MLP, save logits")
def _(given: Variants) -> Variants:
    import pyvene

    component = {"component": "transformer.h[1].mlp.output", "intervention": lambda base, _source: torch.zeros_like(base)}
    model, inputs = pyvene.IntervenableModel([component], model=models.small()), {"input_ids": models.tokens()}

    def traced() -> Any:
        _, changed = model(inputs)
        return changed.logits

    return _frozen(given, traced)


@PYVENE.adapter("small: save all block outputs")
def _(given: Variants) -> Variants:
    import pyvene

    kept: list[torch.Tensor] = []

    def keep(base: torch.Tensor, _source: Any) -> torch.Tensor:
        kept.append(base)
        return base

    components = [{"component": f"transformer.h[{layer}].output", "intervention": keep} for layer in range(4)]
    model, inputs = pyvene.IntervenableModel(components, model=models.small()), {"input_ids": models.tokens()}

    def traced() -> Any:
        kept.clear()
        model(inputs)
        return list(kept)

    return _frozen(given, traced)
