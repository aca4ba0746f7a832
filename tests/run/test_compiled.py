"""Modules compiled by torch.compile would ignore hooks: they are refused by name, before anything runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.run.lines import ends_on, users_line

X = torch.ones(2, 4)


def net():
    return nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))


WAYS = {
    "the module": (lambda m: m[1].compile(), lambda m: m[1].output.save(), r"1 \(Linear\) was compiled"),
    "a module above": (lambda m: m[0].compile(), lambda m: m[0][1].output.save(), r"0 \(Sequential\) was compiled.*0\.1"),
    "the model": (lambda m: m.compile(), lambda m: m[1].input.save(), r"the model itself \(Sequential\) was compiled"),
    "a wrapper inside": pytest.param(
        lambda m: m.__setitem__(1, torch.compile(m[1], backend="eager")),
        lambda m: m[1].output.save(),
        r"1 \(OptimizedModule\) was compiled",
    ),
}


@pytest.mark.parametrize(("compile_", "use", "match"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("late", [False, True])
def test_what_was_compiled_is_refused(compile_, use, match, late):
    module = net()
    if late and not match.startswith(r"1 \(Opt"):
        model = nnsight.NNsight(module)
        with model.trace(X):
            use(model)
    compile_(module)
    model = model if late and not match.startswith(r"1 \(Opt") else nnsight.NNsight(module)
    with pytest.raises(nnsight.NNsightError, match=match) as caught:
        with model.trace(X):
            use(model)
    assert users_line(caught.value)[0] == "test_compiled.py"


def test_the_refusal_stands_on_the_line():
    module = net()
    module[1].compile()
    model = nnsight.NNsight(module)
    with pytest.raises(nnsight.NNsightError) as caught:
        with model.trace(X):
            model[1].output.save()
    assert ends_on(caught.value) == ("test_compiled.py", "model[1].output.save()")


def test_a_compiled_model_is_refused():
    with pytest.raises(nnsight.NNsightError, match=r"was compiled by torch\.compile"):
        model = nnsight.NNsight(torch.compile(net()))
        with model.trace(X):
            model.output.save()


def test_what_is_inside_a_compiled_model_is_refused():
    with pytest.raises(nnsight.NNsightError, match=r"was compiled by torch\.compile"):
        model = nnsight.NNsight(torch.compile(net()))
        with model.trace(X):
            model[1].output.save()


def test_other_modules_of_such_a_model_can_be_traced():
    module = net()
    module[0].compile(backend="eager")
    model = nnsight.NNsight(module)
    torch.compiler.reset()
    with torch.compiler.set_stance("force_eager"), model.trace(X):
        got = model[1].output.save()
    assert torch.equal(got.value, module[1](module[0]._call_impl(X)))
