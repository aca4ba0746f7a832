"""Random programs on own properties, traced and in plain PyTorch: reading one, and an edit in place, mean ``site = transform(value)``."""

from __future__ import annotations

import random

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import NNsight
from tests.model.test_own_properties import Own, X, network

COPIES, VIEWS = ("safe", "doubled"), ("heads",)


def draw(rng, kinds, depth=0):
    """Lines of a program: what is done, and with what."""
    lines = []
    for _ in range(rng.randrange(1, 10 if not depth else 4)):
        what = rng.choice(["get", "get", "edit", "edit", "edit", "site", "assign", "keep", "if"])
        if what == "get":
            lines.append((what, rng.choice(kinds)))
        elif what == "edit":
            lines.append((what, rng.randrange(9), rng.randrange(2), rng.choice([0.5, -1, 2, 3]), rng.randrange(3)))
        elif what == "site":
            lines.append((what, rng.randrange(3), rng.choice([2, -1.5])))
        elif what == "assign" and rng.random() < 0.4:
            lines.append((what, rng.choice([1, 0.5])))
        elif what == "keep" and not depth:
            lines.append((what,))
        elif what == "if" and not depth:
            lines.append((what, rng.random() < 0.6, draw(rng, kinds, 1)))
    return lines


def edit(value, row, amount, how):
    if how == 0:
        value[row] = amount
    elif how == 1:
        value[row].add_(amount)
    else:
        value.mul_(amount)


class Traced:
    """A program in a trace."""

    def __init__(self, model, tracer):
        self.model, self.tracer, self.names, self.kept = model, tracer, [], []

    def run(self, lines):
        layer = self.model[0]
        for what, *given in lines:
            if what == "get":
                self.names.append(getattr(layer, given[0]))
            elif what == "edit" and self.names:
                edit(self.names[given[0] % len(self.names)], *given[1:])
            elif what == "site":
                layer.output[:, given[0]].mul_(given[1])
            elif what == "assign":
                layer.output = layer.output + given[0]
                self.names.clear()
            elif what == "keep":
                self.kept.append(layer.output.clone().save())
            elif what == "if":
                self.branch(*given)

    def branch(self, taken, lines):
        count = len(self.names)
        with self.tracer.cond(self.model.input.sum() > (-1e9 if taken else 1e9)):
            self.run(lines)
        self.forget(count, lines)

    def forget(self, count, lines):
        del self.names[0 if any(line[0] == "assign" for line in lines) else count :]


class Plain(Traced):
    """The same on a tensor."""

    def __init__(self, passing):
        self.names, self.kept, self.passing = [], [], passing.clone()

    def run(self, lines):
        for what, *given in lines:
            if what == "get":
                prepare = getattr(Own, given[0])._preprocess
                self.names.append((given[0], self.passing if prepare is None else prepare(Own, self.passing)))
                self.put_back(*self.names[-1])
            elif what == "edit" and self.names:
                kind, value = self.names[given[0] % len(self.names)]
                edit(value, *given[1:])
                self.put_back(kind, value)
            elif what == "site":
                self.passing[:, given[0]] *= given[1]
            elif what == "assign":
                self.passing = self.passing + given[0]
                self.names.clear()
            elif what == "keep":
                self.kept.append(self.passing.clone())
            elif what == "if":
                self.branch(*given)

    def put_back(self, kind, value):
        if kind not in VIEWS:
            self.passing = getattr(Own, kind)._transform(value).clone()

    def branch(self, taken, lines):
        count = len(self.names)
        if taken:
            self.run(lines)
        self.forget(count, lines)


@pytest.mark.parametrize("kinds", [COPIES, VIEWS], ids=["copies", "views"])
@pytest.mark.parametrize("grad", [False, True], ids=["plain", "under autograd"])
def test_programs(kinds, grad):
    net = network()
    model = NNsight(net, envoys={"0": Own})
    compared = 0
    for seed in range(120):
        lines = draw(random.Random(seed), kinds)
        with torch.set_grad_enabled(grad):
            plain = Plain(net[0](X))
            plain.run(lines)
            try:
                with model.trace(X) as tracer:
                    traced = Traced(model, tracer)
                    traced.run(lines)
                    seen, out = model[0].output.clone().save(), model.output.save()
            except nnsight.RecordError as refusal:
                assert "may have been replaced in a branch above" in str(refusal), (seed, lines)  # noqa: PT017
                continue
            compared += 1
            for value, expected in zip([*traced.kept, seen], [*plain.kept, plain.passing], strict=True):
                assert torch.allclose(value, expected, atol=1e-5), (seed, lines)
            assert torch.allclose(out, net[2](net[1](plain.passing)), atol=1e-5), (seed, lines)
    assert compared > 90
