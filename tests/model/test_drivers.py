"""Runs in which another module than the root is run again and again: its forwards are the steps. What is right, hooks by hand say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3], [-2, 0, 5]])
STEPS = 4


class Speaker(nn.Module):
    """Has a ``generate`` that runs it several times."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return torch.tanh(self.second(self.first(x)))

    def generate(self, x, times=STEPS):
        for _ in range(times):
            x = x + self(x)
        return x


class Around(nn.Module):
    """Hands on to the module inside, after parts of it were called by themselves."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tower, self.lm = nn.Linear(3, 3), Speaker()
        self.requires_grad_(False)

    def forward(self, x):
        return self.lm(self.tower(x))

    def generate(self, x, times=STEPS):
        return self.lm.generate(self.lm.first(self.lm.first(self.tower(x))), times)

    def twice(self, x):
        return self.lm.generate(self.lm.generate(x, 2), 2)

    def mixed(self, x):
        for _ in range(2):
            x = self(self.lm.generate(x, 1))
        return x

    def within(self, x):
        return self.agent(x)

    def once(self, x):
        return self(x)


class Agent(nn.Module):
    def __init__(self, lm):
        super().__init__()
        self.lm = lm

    def forward(self, x):
        return self.lm.generate(x) * 2


class Pipe(nn.Module):
    """Runs none of them by ``generate``, and never itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.text, self.net, self.out = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 3)
        self.requires_grad_(False)

    def forward(self, x):
        return self.out(x)

    def denoise(self, x):
        seen = self.text(x) + self.text(-x)
        for _ in range(3):
            x = x - self.net(x + seen)
        return self.out(x)

    def single(self, x):
        return self(self.text(self.text(x)))

    def picky(self, x):
        x = self.text(self.text(x))
        return self(self(x))


def by_hand(net, module, method, edit=None):
    """``(outputs of the module, call after call; result)``, where ``edit(number, output)`` may change one."""
    seen = []

    def hook(_module, _args, output):
        output = output if edit is None else edit(len(seen), output)
        seen.append(output.clone())
        return output

    handle = module.register_forward_hook(hook)
    result = getattr(net, method)(X.clone())
    handle.remove()
    return seen, result


def same(got, expected):
    torch.testing.assert_close([torch.as_tensor(value) for value in got], list(expected), rtol=0, atol=0)


CASES = [(Around, "generate", lambda m: m.lm.second), (Around, "twice", lambda m: m.lm.second), (Pipe, "denoise", lambda m: m.net[0])]


@pytest.mark.parametrize(("kind", "method", "pick"), CASES)
def test_every_step_is_seen(kind, method, pick):
    net = kind()
    seen, result = by_hand(net, pick(net), method)
    model = nnsight.NNsight(net)
    with model.trace(X, fn=method) as tracer:
        found, steps = nnsight.list().save(), nnsight.list().save()
        with tracer.iter[:] as step:
            found.append(pick(model).output)
            steps.append(step)
        last = pick(model).output.save()
        out = tracer.result.save()
    same([*found, last, out], [*seen, seen[-1], result])
    assert list(steps) == list(range(len(seen)))


@pytest.mark.parametrize(("kind", "method", "pick"), CASES)
@pytest.mark.parametrize("form", ["with", "for", "own", "next"])
def test_one_step_is_edited(kind, method, pick, form):
    net = kind()
    _, result = by_hand(net, pick(net), method, lambda number, output: output + 5 if number == 1 else output)
    model = nnsight.NNsight(net)
    with model.trace(X, fn=method) as tracer:
        if form == "with":
            with tracer.iter[1]:
                pick(model).output += 5
        elif form == "for":
            for _ in tracer.iter[1:2]:
                pick(model).output = pick(model).output + 5
        elif form == "own":
            pick(model).iter[1].output += 5
        else:
            pick(model).next().output += 5
        out = tracer.result.save()
    same([out], [result])


@pytest.mark.parametrize(("kind", "method", "pick"), CASES)
def test_edits_and_caches_see_every_step(kind, method, pick):
    net = kind()
    seen, result = by_hand(net, pick(net), method, lambda _, output: output * 0.5)
    model = nnsight.NNsight(net)
    with model.edit() as edited:
        pick(edited).output *= 0.5
    with edited.trace(X, fn=method) as tracer:
        cache = tracer.cache(modules=[pick(edited)])
        out = tracer.result.save()
    same([*cache[pick(edited).path].output, out], [*seen, result])


def test_what_runs_before_belongs_to_the_first_step():
    net = Around()
    seen, _ = by_hand(net, net.lm.first, "generate")
    tower, _ = by_hand(net, net.tower, "generate")
    model = nnsight.NNsight(net)
    with model.trace(X, fn="generate") as tracer:
        before = model.tower.output.save()
        three = [model.lm.first.output.save(), model.lm.first.call[1].output.save(), model.lm.first.call[2].output.save()]
        with tracer.iter[2]:
            later = model.lm.first.output.save()
    same([before, *three, later], [*tower, *seen[:3], seen[4]])


def test_the_root_counts_where_it_runs():
    net = Around()
    seen, _ = by_hand(net, net.lm.second, "mixed")
    model = nnsight.NNsight(net)
    with model.trace(X, fn="mixed") as tracer:
        found = [model.lm.second.output.save()]
        for _ in tracer.iter[1:4]:
            found.append(model.lm.second.output.save())
    same(found, seen)


def test_a_generate_inside_a_module_that_is_called_once():
    net = Around()
    net.agent = Agent(Speaker().requires_grad_(False))
    _, result = by_hand(net, net.agent.lm.second, "within", lambda number, output: output - 3 if number else output)
    model = nnsight.NNsight(net)
    with model.trace(X, fn="within") as tracer:
        with tracer.iter[1:]:
            model.agent.lm.second.output -= 3
        out = tracer.result.save()
    same([out], [result])


def test_modules_of_a_pipeline_have_turns_of_their_own():
    net = Pipe()
    model = nnsight.NNsight(net)
    text, _ = by_hand(net, net.text, "denoise")
    inner, _ = by_hand(net, net.net[1], "denoise")
    with model.trace(X, fn="denoise") as tracer:
        texts, inners, turns = nnsight.list().save(), nnsight.list().save(), nnsight.list().save()
        with tracer.iter[:] as step:
            texts.append(model.text.output)
            inners.append(model.net[1].output)
            turns.append(step)
    same([*texts, *inners], [*text, *inner])
    assert list(turns) == [0, 1, 2]


def test_a_step_that_a_pipeline_does_not_have():
    model = nnsight.NNsight(Pipe())
    with pytest.raises(nnsight.MissedSiteError, match="not called so often"):
        with model.trace(X, fn="denoise") as tracer:
            with tracer.iter[3]:
                model.net[0].output[:] = 0
            tracer.result.save()


def test_a_call_taken_for_a_step_before_the_driver_was_known():
    model = nnsight.NNsight(Pipe())
    with pytest.raises(nnsight.NNsightError, match=r"Say which call you mean: \.call\[1\]"):
        with model.trace(X, fn="picky") as tracer:
            with tracer.iter[1]:
                model.text.output[:] = 0
            tracer.result.save()
    with model.trace(X, fn="picky"):
        second = model.text.call[1].output.save()
    same([second], [model._module.text(model._module.text(X))])


def test_an_edit_of_a_call_that_was_written_as_a_step():
    class Thrice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(self.fc(self.fc(x)))

        def once(self, x):
            return self(x)

    model = nnsight.NNsight(Thrice())
    with pytest.raises(nnsight.MissedSiteError, match=r"one step, in which .* \.call\[2\]"):
        with model.trace(X, fn="once") as tracer:
            with tracer.iter[2]:
                model.fc.output[:] = 0
            tracer.result.save()


def test_a_module_that_raises_is_left():
    class Careful(Speaker):
        def forward(self, x):
            if x.shape[-1] != 3:
                raise RuntimeError
            return super().forward(x)

        def generate(self, x):
            for _ in range(3):
                try:
                    self(x[:, :2])
                except RuntimeError:
                    x = self(x)
            return x

    net = Around()
    net.lm = Careful().requires_grad_(False)
    net.generate = net.lm.generate
    seen, _ = by_hand(net, net.lm.second, "generate")
    model = nnsight.NNsight(net)
    with model.trace(X, fn="generate") as tracer:
        found = [model.lm.iter[step].second.output.save() for step in (1, 3, 5)]
        tracer.result.save()
    same(found, seen)


def test_a_bar_ticks_with_the_driver(capsys):
    model = nnsight.NNsight(Around())
    with model.trace(X, fn="generate", progress=True) as tracer:
        tracer.result.save()
    assert f"{STEPS}step" in capsys.readouterr().err


def test_nothing_stays_on_the_modules():
    net = Around()
    model = nnsight.NNsight(net)
    with model.trace(X, fn="generate") as tracer:
        with tracer.iter[:]:
            model.lm.output.save()
    tables = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    assert not any(getattr(module, table) for module in net.modules() for table in tables)


def test_lines_that_ran_for_a_step_that_never_came():
    model = nnsight.NNsight(Pipe())
    with pytest.raises(nnsight.MissedSiteError, match="before the steps began, were taken"):
        with model.trace(X, fn="single") as tracer:
            turns = nnsight.list().save()
            with tracer.iter[:] as step:
                turns.append(step)
