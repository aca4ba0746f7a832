"""Random programs give the same, however a block's stream is named: an output, its hidden states, an element of a tuple."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from nnsight_graph import NNsight, NNsightError
from nnsight_graph.model.tuples import TupleEnvoy

pytestmark = pytest.mark.slow

X = torch.linspace(-1, 1, 24).reshape(3, 2, 4)


class Block(nn.Module):
    def __init__(self, as_tuple: bool):
        super().__init__()
        self.inner, self.as_tuple = nn.Linear(4, 4), as_tuple

    def forward(self, x):
        result = torch.tanh(self.inner(x)) + x
        return (result, result.sum()) if self.as_tuple else result


class Net(nn.Module):
    def __init__(self, as_tuple: bool):
        super().__init__()
        torch.manual_seed(0)
        self.h = nn.ModuleList([Block(as_tuple) for _ in range(3)])

    def forward(self, x):
        for block in self.h:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return x * 2


class Way:
    """One way to name what blocks pass on."""

    def __init__(self, as_tuple: bool, name: str):
        self.model, self.name = NNsight(Net(as_tuple)), name
        self.held: dict[int, Any] = {}
        if not as_tuple and name not in ("plain", "hidden"):
            self.model._tree.shown = {f"h.{number}": TupleEnvoy for number in range(3)}

    def get(self, number: int) -> Any:
        block = self.model.h[number]
        if self.name in ("hidden", "both"):
            return block.hidden_states
        if self.name == "held":
            return self.held.setdefault(number, block.output)[0]
        return block.output if self.name == "plain" else block.output[0]

    def put(self, number: int, value: Any) -> None:
        block = self.model.h[number]
        if self.name == "hidden":
            block.hidden_states = value
        elif self.name == "plain":
            block.output = value
        elif self.name == "whole":
            block.output = (value,)
        elif self.name == "held":
            self.held.setdefault(number, block.output)[0] = value
        else:
            block.output[0] = value


WAYS = [(as_tuple, name) for as_tuple in (False, True) for name in ("hidden", "element", "both", "held")] + [(False, "whole")]


def program(seed: int, way: Way) -> list[Any]:
    """Runs a program's lines; what it saves."""
    draw, names, kept = random.Random(seed), [], []
    way.held.clear()

    def some() -> Any:
        return names[draw.randrange(len(names))] if names and draw.random() < 0.6 else way.get(draw.randrange(3))

    for _ in range(draw.randint(3, 9)):
        kind = draw.choice(("read", "make", "view", "edit", "edit", "put", "put", "keep", "mix"))
        if kind == "read":
            names.append(way.get(draw.randrange(3)))
        elif kind == "make":
            names.append(some() * 0.5)
        elif kind == "mix":
            names.append(some() + some())
        elif kind == "view":
            names.append(some()[:, :].transpose(0, 1).transpose(0, 1))
        elif kind == "edit":
            value = some()
            [lambda v: v.mul_(0.5), lambda v: v[:, 0].add_(1), lambda v: v.__setitem__((slice(None), -1), 0.25)][draw.randrange(3)](value)
        elif kind == "put":
            way.put(draw.randrange(3), some())
        else:
            kept.append(some().clone().save())
    kept.append(way.model.output.clone().save())
    return kept


def outcome(seed: int, way: Way, invokes: bool, grad: bool) -> Any:
    try:
        with torch.set_grad_enabled(grad):
            if invokes:
                with way.model.trace() as tracer:
                    with tracer.invoke(X * 2):
                        first = way.model.output.clone().save()
                    with tracer.invoke(X):
                        kept = [first, *program(seed, way)]
            else:
                with way.model.trace(X):
                    kept = program(seed, way)
    except NNsightError as error:
        return type(error).__name__
    return [each.value.detach() for each in kept]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("invokes", [False, True])
def test_every_way_gives_the_same(invokes, grad):
    plain, ways = Way(False, "plain"), [Way(*each) for each in WAYS]
    for seed in range(60):
        expected = outcome(seed, plain, invokes, grad)
        for way, each in zip(ways, WAYS, strict=True):
            found = outcome(seed, way, invokes, grad)
            if isinstance(expected, str) or isinstance(found, str):
                assert found == expected, (seed, each)
            else:
                torch.testing.assert_close(found, expected, msg=lambda text, seed=seed, each=each: f"{seed} {each}: {text}")


@pytest.mark.parametrize("way", [(False, "plain"), *WAYS])
def test_an_edit_of_what_was_replaced_does_not_bring_it_back(way):
    made = Way(*way)
    with torch.no_grad(), made.model.trace(X):
        old = made.get(1)
        made.put(1, old * 0)
        old[:, -1] = 0.25
        hidden = made.get(1).save()
    assert (hidden == 0).all()
