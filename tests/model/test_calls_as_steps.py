"""Where the model runs once, steps are the calls of the module that a line names. What is right, hooks by hand say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph.model import invoker

X = torch.tensor([[1.0, 2, -3], [-2, 0, 5]])


class Net(nn.Module):
    """``three`` runs three times, ``two`` twice, ``one`` once."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.three, self.two, self.one = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 3)
        self.requires_grad_(False)

    def forward(self, x):
        x = self.three(self.three(x))
        return self.one(self.two(self.three(self.two(x))))


def by_hand(edit=None, path="three"):
    """``(outputs by path, result)``, where ``edit(number, output)`` may change those of one module."""
    net, seen = Net(), {}

    def watch(name):
        def hook(_module, _args, output):
            found = seen.setdefault(name, [])
            output = edit(len(found), output) if edit and name == path else output
            found.append(output.clone())
            return output

        return hook

    for name, module in net.named_modules():
        module.register_forward_hook(watch(name))
    return seen, net(X.clone())


def same(got, expected):
    torch.testing.assert_close([plain(value) for value in got], list(expected), rtol=0, atol=0)


def plain(value):
    return value.value if issubclass(type(value), nnsight.Proxy) else value


@pytest.fixture
def model():
    return nnsight.NNsight(Net())


CHOICES = [
    (lambda steps: steps[:], [0, 1, 2]), (lambda steps: steps[:2], [0, 1]), (lambda steps: steps[1:], [1, 2]),
    (lambda steps: steps[::2], [0, 2]), (lambda steps: steps[[0, 2]], [0, 2]), (lambda steps: steps[2:3], [2]),
]  # fmt: skip


@pytest.mark.parametrize(("choose", "calls"), CHOICES)
@pytest.mark.parametrize("form", ["with", "for", "own"])
def test_a_choice_of_calls(model, choose, calls, form):
    seen, result = by_hand()
    with model.trace(X) as tracer:
        found, numbers = nnsight.list().save(), nnsight.list().save()
        if form == "with":
            with choose(tracer.iter) as step:
                found.append(model.three.output)
                numbers.append(step)
        elif form == "for":
            for step in choose(tracer.iter):
                found.append(model.three.output)
                numbers.append(step)
        else:
            with choose(model.three.iter) as step:
                found.append(model.three.output)
                numbers.append(step)
        out = tracer.result.save()
    same([*found, out], [*(seen["three"][call] for call in calls), result])
    assert list(numbers) == calls


@pytest.mark.parametrize(("choose", "calls"), CHOICES)
def test_an_edit_of_calls(model, choose, calls):
    _, result = by_hand(lambda number, output: output * 3 if number in calls else output)
    with model.trace(X) as tracer:
        with choose(tracer.iter):
            model.three.output *= 3
        out = tracer.result.save()
    same([out], [result])


def test_each_line_counts_the_calls_of_its_module(model):
    seen, _ = by_hand()
    with model.trace(X) as tracer:
        threes, twos, ones, turns, inner = (nnsight.list().save() for _ in range(5))
        with tracer.iter[:] as step:
            turns.append(step)
            ones.append(model.one.output)
            twos.append(model.two.output)
            inner.append(model.two[0].output)
            threes.append(model.three.output)
    same([*threes, *twos, *ones, *inner], [*seen["three"], *seen["two"], *seen["one"], *seen["two.0"]])
    assert list(turns) == [0, 1, 2]


def test_what_is_edited_in_a_turn_that_a_module_does_not_have(model):
    _, result = by_hand(lambda _number, output: output + 1, "two")
    with model.trace(X) as tracer:
        with tracer.iter[:]:
            model.two.output += 1
            model.three.output.sum()
        out = tracer.result.save()
    same([out], [result])


def test_all_means_all_calls(model):
    seen, result = by_hand(lambda _number, output: output - 2)
    with model.trace(X) as tracer:
        model.three.all()
        model.three.output -= 2
        found = nnsight.list().save()
        found.append(model.three.output)
        out = tracer.result.save()
    same([*found, out], [*seen["three"], result])


def test_below_loops(model):
    seen, result = by_hand()
    with model.trace(X) as tracer:
        for _ in tracer.iter[:2]:
            model.three.output.sum()
        first, out = model.three.output.save(), model.output.save()
        with tracer.iter[1]:
            model.two.output.sum()
        two = model.two.output.save()
        with tracer.iter[:]:
            model.two.output.sum()
        last, ones = model.three.output.save(), model.one.output.save()
    same([first, out, two, last, ones], [seen["three"][0], result, seen["two"][0], seen["three"][2], seen["one"][0]])


def test_a_value_carried_from_call_to_call(model):
    seen, _ = by_hand()
    with model.trace(X) as tracer:
        total = 0
        with tracer.iter[:]:
            total = total + model.three.output
        nnsight.save(total)
    same([total], [seen["three"][0] + seen["three"][1] + seen["three"][2]])


def test_a_module_in_one_call(model):
    seen, result = by_hand(lambda number, output: torch.ones_like(output) if number == 2 else output * 2 if number == 1 else output)
    with model.trace(X) as tracer:
        model.three.iter[2].output = torch.ones(2, 3)
        model.three.iter[1].output *= 2
        before = model.three.iter[2].input.save()
        inner = model.two.iter[1][0].output.save()
        also = model.iter[0].two[1].output.save()
        out = tracer.result.save()
    same([out, inner, also, before], [result, seen["two.0"][1], seen["two.1"][0], seen["two"][0]])


def test_a_module_in_a_step_of_a_loop(model):
    seen, _ = by_hand()
    with model.trace(X) as tracer:
        found = nnsight.list().save()
        with tracer.iter[:]:
            found.append(model.three.output - model.three.iter[0].output)
            found.append(model.three.output)
    same(found, [part for one in seen["three"] for part in (one - seen["three"][0], one)])


def test_what_a_module_in_a_step_has_not(model):
    with pytest.raises(nnsight.RecordError, match="one step has an output"), model.trace(X):
        model.three.iter[:2].output
    with pytest.raises(AttributeError, match=r"with tracer.iter\[1\]"), model.trace(X):
        model.three.iter[1].next()


@pytest.mark.parametrize("form", ["read", "edit", "for", "own", "with"])
def test_a_call_that_never_came(model, form):
    with pytest.raises(nnsight.MissedSiteError, match="not called so often"):
        with model.trace(X) as tracer:
            if form == "read":
                with tracer.iter[3]:
                    model.three.output.save()
            elif form == "edit":
                with tracer.iter[3]:
                    model.three.output[:] = 0
            elif form == "for":
                for _ in tracer.iter[:3]:
                    model.two.output.save()
            elif form == "own":
                model.one.iter[1].output.save()
            else:
                with tracer.iter[:3]:
                    model.two.output.save()


def test_a_module_that_is_never_called_in_a_loop(model):
    model._module.idle = nn.Linear(3, 3)
    model = nnsight.NNsight(model._module)
    with pytest.raises(nnsight.MissedSiteError, match="idle"), model.trace(X) as tracer:
        with tracer.iter[:]:
            model.idle.output.save()


def test_more_calls_than_a_loop_was_made_for(model, monkeypatch):
    monkeypatch.setattr(invoker, "UNKNOWN", 2)
    with pytest.raises(nnsight.NNsightError, match="was made for 2, and the model makes more"), model.trace(X) as tracer:
        with tracer.iter[:]:
            model.three.output.sum()
    with model.trace(X) as tracer:
        with tracer.iter[:]:
            found = model.two.output.save()
    same([found], [by_hand()[0]["two"][1]])


def test_an_edit_in_a_turn_that_begins_too_late(model):
    with pytest.raises(nnsight.OutOfOrderError):
        with model.trace(X) as tracer:
            first = model.three.output
            with tracer.iter[1:]:
                first[:] = 0
                model.two.output.sum()


def test_invokes_have_their_rows_of_each_call(model):
    seen, result = by_hand(lambda number, output: torch.cat([output[:1] + number, output[1:]]))
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            with tracer.iter[:] as step:
                model.three.output += step
        with tracer.invoke(X[1:]):
            found = nnsight.list().save()
            with tracer.iter[:]:
                found.append(model.three.output)
        with tracer.invoke():
            out = tracer.result.save()
    same([*found, out], [*(one[1:] for one in seen["three"]), result])


def test_an_edit_that_names_calls(model):
    _, result = by_hand(lambda number, output: output * 0 if number == 1 else output)
    with model.edit() as edited:
        with model.three.iter[1:2]:
            model.three.output *= 0
    with edited.trace(X) as tracer:
        out = tracer.result.save()
    same([out], [result])


def test_a_saved_program_counts_calls_too(model, tmp_path):
    seen, _ = by_hand()
    with model.trace(X) as tracer:
        for step in tracer.iter[:3]:
            model.three.output.save(f"call{step}")
    tracer.graph.save(tmp_path / "graph.nnsg")
    found = nnsight.load(tmp_path / "graph.nnsg").run(model, X)
    same([found["call0"], found["call1"], found["call2"]], seen["three"])


def test_a_forward_that_generates():
    class Lm(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x)

        def generate(self, x):
            for _ in range(4):
                x = torch.tanh(self(x))
            return x

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.lm = Lm().requires_grad_(False)

        def forward(self, x):
            return self.lm.generate(x)

    net, x = Around(), X
    for _ in range(4):
        x = torch.tanh(net.lm.fc(x) + 1)
    model = nnsight.NNsight(net)
    with model.trace(X) as tracer:
        with tracer.iter[:]:
            model.lm.fc.output += 1
        out = tracer.result.save()
    same([out], [x])


@pytest.mark.parametrize("wrong", ["tracer.iter", "model.relu.iter", "model.relu.call"])
def test_what_has_no_end_is_no_loop(wrong):
    """Without a method for it, Python would ask for item after item, for ever."""
    model = nnsight.NNsight(torch.nn.ModuleDict({"relu": torch.nn.ReLU()}))
    model._module.forward = model._module["relu"].forward
    with pytest.raises(TypeError, match=r"no loop by itself|name the calls") as caught, model.trace(torch.ones(2)) as tracer:
        for _ in eval(wrong, {"tracer": tracer, "model": model}):
            pass
    assert isinstance(caught.value, nnsight.NNsightError)
