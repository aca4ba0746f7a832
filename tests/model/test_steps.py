"""Models that a method runs several times: each forward is a step. What is right is found with hooks that count."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])
STEPS = 4


class Net(nn.Module):
    """``second(tanh(second(first(x))))``, and methods that do it again and again."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second, self.tanh = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
        self.requires_grad_(False)

    def forward(self, x):
        return self.second(self.tanh(self.second(self.first(x))))

    def many(self, x, times=STEPS):
        for _ in range(times):
            x = self(x)
        return x

    def until(self, x, limit):
        """It ends by what it computes."""
        for _ in range(10):
            x = self(x)
            if x.abs().max() < limit:
                break
        return x

    def inner(self, x):
        """It never runs the model itself."""
        for _ in range(3):
            x = self.first(x)
        return x


def by_hand(edits=None, times=STEPS, method="many"):
    """``(seen, result)``: the outputs by path, step and call, where ``edits[path, step, call](output, seen)`` may change one."""
    net, seen, counts = Net(), {}, {}
    now = {"step": -1}

    def begin(_module, _args):
        now["step"] += 1
        counts.clear()

    def watch(path):
        def hook(_module, _args, output):
            key = path, now["step"], counts.get(path, 0)
            counts[path] = key[2] + 1
            if edits and key in edits:
                output = edits[key](output, seen)
            seen[key] = output.clone()
            return output

        return hook

    net.register_forward_pre_hook(begin)
    for path, module in net.named_modules():
        module.register_forward_hook(watch(path))
    return seen, getattr(net, method)(X.clone(), times)


def outputs(seen, path, steps=range(STEPS), call=0):
    return [seen[path, step, call] for step in steps]


def same(got, expected):
    values = [value.value if issubclass(type(value), nnsight.Proxy) else value for value in got]
    torch.testing.assert_close(values, list(expected), rtol=0, atol=0)


@pytest.fixture
def model():
    return nnsight.NNsight(Net())


# ------------------------------------------------------------------ which steps

CHOICES = [
    (lambda tracer: tracer.iter[2:3], [2]),
    (lambda tracer: tracer.iter[1:3], [1, 2]),
    (lambda tracer: tracer.iter[2:], [2, 3]),
    (lambda tracer: tracer.iter[:2], [0, 1]),
    (lambda tracer: tracer.iter[:], [0, 1, 2, 3]),
    (lambda tracer: tracer.iter[::2], [0, 2]),
    (lambda tracer: tracer.iter[1::2], [1, 3]),
    (lambda tracer: tracer.iter[[0, 3]], [0, 3]),
    (lambda tracer: tracer.iter[[3]], [3]),
    (lambda tracer: tracer.iter[[]], []),
    (lambda tracer: tracer.iter.generated, [1, 2, 3]),
    (lambda tracer: tracer.all(), [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("choose", "steps"), CHOICES)
@pytest.mark.parametrize("form", ["with", "for"])
def test_a_choice_of_steps(model, choose, steps, form):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        found, numbers = nnsight.list().save(), nnsight.list().save()
        if form == "with":
            with choose(tracer) as step:
                found.append(model.first.output)
                numbers.append(step)
        else:
            for step in choose(tracer):
                found.append(model.first.output)
                numbers.append(step)
    same(found, outputs(seen, "first", steps))
    assert numbers == steps


@pytest.mark.parametrize("form", ["with", "for"])
def test_one_step(model, form):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        if form == "with":
            with tracer.iter[2] as step:
                hidden = model.first.output.save()
        else:
            for step in tracer.iter[2]:
                hidden = model.first.output.save()
        following = model.first.output.save()
    assert step == 2
    same([hidden, following], outputs(seen, "first", [2, 3]))


def test_the_prompt_and_the_rest_by_name(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        with tracer.iter.prompt:
            prompt = model.output.save()
        rest = nnsight.list().save()
        with tracer.iter.generated:
            rest.append(model.output)
    same([prompt, *rest], outputs(seen, ""))


def test_python_runs_in_a_bounded_loop(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        plain, kept = [], {}
        for step in tracer.iter[0:10]:
            if step == 3:
                break
            plain.append(step)
            kept[step] = model.output.save()
    assert plain == [0, 1, 2]
    same(kept.values(), outputs(seen, "", range(3)))


@pytest.mark.parametrize("order", [1, -1])
def test_lines_stand_in_any_order(model, order):
    seen, _ = by_hand()
    found = {}
    with model.trace(X, fn="many") as tracer:
        for step in [0, 3, 1, 2][::order]:
            with tracer.iter[step]:
                for path in ("second", "first")[::order]:
                    found[path, step] = model.get(path).output.save()
    for (path, step), value in found.items():
        same([value], [seen[path, step, 0]])


def test_without_a_loop_lines_stand_in_the_first_step(model):
    seen, result = by_hand()
    with model.trace(X, fn="many") as tracer:
        first, last = model.output.save(), tracer.result.save()
    same([first, last], [seen["", 0, 0], result])


def test_after_a_bounded_loop_the_steps_go_on(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        with tracer.iter[0:2]:
            model.first.output.clone()
        two = model.first.output.save()
        for _ in tracer.iter[2:3]:
            pass
        three = model.first.output.save()
    same([two, three], outputs(seen, "first", [2, 3]))


def test_after_an_open_loop_a_site_means_the_last_step(model):
    seen, result = by_hand()
    with model.trace(X, fn="many") as tracer:
        early = model.first.output.save()
        with tracer.iter[1:]:
            pass
        last = model.first.output.save()
        second = model.second.call[1].output.save()
        arguments = model.first.inputs.save()
        sum_ = (model.output + early).save()
        with tracer.iter[1]:
            one = model.first.output.save()
        whole = tracer.result.save()
    same([early, last, one], outputs(seen, "first", [0, 3, 1]))
    same([second, sum_, whole], [seen["second", 3, 1], seen["", 3, 0] + seen["first", 0, 0], result])
    same([arguments[0][0]], [seen["", 2, 0]])


def test_loops_in_loops(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        pairs = nnsight.list().save()
        with tracer.iter[1:3]:
            own = model.first.output
            with tracer.iter[0]:
                start = model.first.output
            again = model.first.output
            for _ in tracer.iter[2:4]:
                pairs.append(own + model.second.output)
            pairs.append(start + again + model.output)
        after = model.first.output.save()
    expected = []
    for step in (1, 2):
        expected += [seen["first", step, 0] + seen["second", inner, 0] for inner in (2, 3)]
        expected.append(seen["first", 0, 0] + seen["first", step, 0] + seen["", step, 0])
    same(pairs, expected)
    same([after], [seen["first", 3, 0]])


# ------------------------------------------------------------------ calls


def test_calls_within_a_step(model):
    seen, _ = by_hand()
    with model.trace(X) as tracer:
        first, second = model.second.output.save(), model.second.call[1].output.save()
        given = model.second.call[1].input.save()
    same([first, second], [seen["second", 0, 0], seen["second", 0, 1]])
    same([given], [seen["tanh", 0, 0]])
    with model.trace(X, fn="many") as tracer, tracer.iter[2]:
        later = model.second.call[1].output.save()
    same([later], [seen["second", 2, 1]])


@pytest.mark.parametrize("call", [0, 1])
def test_a_write_at_one_call(model, call):
    _, result = by_hand({("second", 1, call): lambda output, _: output * 2 + 1})
    with model.trace(X, fn="many") as tracer:
        with tracer.iter[1]:
            model.second.call[call].output = model.second.call[call].output * 2 + 1
        got = tracer.result.save()
    same([got], [result])


def test_next_is_the_next_call_of_a_trace_and_the_next_step_of_a_method(model):
    seen, _ = by_hand()
    with model.trace(X):
        first = model.second.output.save()
        second = model.second.next().output.save()
    same([first, second], [seen["second", 0, 0], seen["second", 0, 1]])
    with model.trace(X, fn="many"):
        found = [model.first.output.save(), *(model.first.next().output.save() for _ in range(3))]
        other = model.tanh.output.save()
    same(found, outputs(seen, "first"))
    same([other], [seen["tanh", 0, 0]])


def test_next_of_the_tracer_moves_all(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        zero = model.first.output.save()
        one = tracer.next() and model.first.output.save()
        tracer.next(2)
        three = model.tanh.output.save()
    same([zero, one, three], [seen["first", 0, 0], seen["first", 1, 0], seen["tanh", 3, 0]])


def test_a_method_that_runs_only_parts(model):
    net, expected, x = Net(), [], X
    for _ in range(3):
        x = net.first(x)
        expected.append(x)
    with model.trace(X, fn="inner") as tracer:
        found = [model.first.call[number].output.save() for number in range(3)]
        result = tracer.result.save()
    same([*found, result], [*expected, x])


# ------------------------------------------------------------------ every step


def test_all_as_a_statement(model):
    seen, result = by_hand({("first", step, 0): lambda output, _: output + 1 for step in range(STEPS)})
    with model.trace(X, fn="many") as tracer:
        found = nnsight.list().save()
        model.first.all()
        model.first.output += 1
        found.append(model.first.output)
        last = model.first.output.save()
        start = model.tanh.output.save()
        got = tracer.result.save()
    same(found, outputs(seen, "first"))
    same([last, start, got], [seen["first", 3, 0], seen["tanh", 0, 0], result])


def test_what_uses_the_steps_runs_when_they_are_over(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many"):
        found, total = nnsight.list().save(), torch.zeros_like(X)
        model.all()
        found.append(model.first.output)
        second = (found[1] * 2).save()
        model.tanh.output.clone()
        total.add_(model.second.output)
        double = (total * 2).save()
        model.output.clone()
    same([second, double], [seen["first", 1, 0] * 2, 2 * sum(outputs(seen, "second"))])
    same(found, outputs(seen, "first"))


def test_a_line_about_every_step_may_not_use_what_all_of_them_make(model):
    with pytest.raises(nnsight.RecordError, match="when all steps are over"), model.trace(X, fn="many"):
        found = nnsight.list()
        model.all()
        found.append(model.first.output)
        model.tanh.output = found[0] * 2


@pytest.mark.parametrize("form", ["with", "for"])
def test_all_in_a_block_ends_with_it(model, form):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        found = nnsight.list().save()
        if form == "with":
            with model.first.all():
                found.append(model.first.output)
        else:
            for _ in model.first.all():
                found.append(model.first.output)
        with tracer.iter[1]:
            one = model.first.output.save()
    same([*found, one], [*outputs(seen, "first"), seen["first", 1, 0]])


def test_a_named_step_wins_over_every(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        model.all()
        with tracer.iter[1]:
            one = model.first.output.save()
        last = model.first.output.save()
    same([one, last], outputs(seen, "first", [1, 3]))


def test_steps_of_a_module(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many"):
        found = nnsight.list().save()
        with model.first.iter[1:3]:
            found.append(model.first.output)
    same(found, outputs(seen, "first", [1, 2]))


# ------------------------------------------------------------------ values from step to step


@pytest.mark.parametrize("form", ["with", "for"])
@pytest.mark.parametrize("stop", [None, STEPS])
def test_a_value_of_one_step_in_later_ones(model, form, stop):
    def steer(output, seen):
        return output + seen["first", 0, 0] * 0.1

    _, result = by_hand({("first", step, 0): steer for step in range(1, STEPS)})
    with model.trace(X, fn="many") as tracer:
        with tracer.iter[0]:
            vector = model.first.output * 0.1
        if form == "with":
            with tracer.iter[1:stop]:
                model.first.output += vector
        else:
            for _ in tracer.iter[1:stop]:
                model.first.output += vector
        got = tracer.result.save()
    same([got], [result])


def test_a_value_is_carried_in_a_list(model):
    _, result = by_hand({("first", step, 0): lambda output, s, at=step: output + s["second", at - 1, 0] for step in range(1, STEPS)})
    with model.trace(X, fn="many") as tracer:
        before = nnsight.list()
        with tracer.iter[0]:
            before.append(model.second.output.clone())
        with tracer.iter[1:]:
            model.first.output += before[-1]
            before.append(model.second.output.clone())
        got = tracer.result.save()
    same([got], [result])


def test_a_sum_over_the_steps(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        kept = (model.input * 0).save()
        with tracer.iter[:]:
            kept.add_(model.first.output, alpha=2)
        mean = (kept / 4).save()
    expected = torch.zeros(2, 4)
    for step in range(STEPS):
        expected = expected.add(seen["first", step, 0], alpha=2)
    same([kept, mean], [expected, expected / 4])


def test_of_a_saved_value_the_last_turn_stays(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        with tracer.iter[1:3]:
            bounded = model.first.output.save()
        with tracer.iter[:]:
            all_ = (model.tanh.output * 2).save()
    same([bounded, all_], [seen["first", 2, 0], seen["tanh", 3, 0] * 2])


@pytest.mark.parametrize("edit", ["in place", "written"])
def test_a_write_at_every_step(model, edit):
    seen, result = by_hand({("tanh", step, 0): lambda output, s, at=step: output * 0 + at for step in range(STEPS)})
    with model.trace(X, fn="many") as tracer:
        found = nnsight.list().save()
        with tracer.iter[:] as step:
            if edit == "in place":
                model.tanh.output[:] = step
            else:
                model.tanh.output = torch.ones_like(model.tanh.output) * step
            found.append(model.second.call[1].output)
        got = tracer.result.save()
    same([*found, got], [*outputs(seen, "second", call=1), result])


def test_a_branch_in_a_loop(model):
    seen, result = by_hand({("first", step, 0): lambda output, _: output * (2 if output.sum() > 0 else 1) for step in range(STEPS)})
    with model.trace(X, fn="many") as tracer:
        taken = nnsight.list().save()
        with tracer.iter[:] as step, tracer.cond(model.first.output.sum() > 0):
            taken.append(step)
            model.first.output = model.first.output * 2
        got = tracer.result.save()
    same([got], [result])
    plain = [seen["first", step, 0] for step in range(STEPS)]
    assert taken == [step for step in range(STEPS) if plain[step].sum() > 0]


def test_a_list_holds_what_passed_whatever_is_edited_later(model):
    """The output of the model in one step and its input in the next are one tensor."""
    seen, _ = by_hand({("first", step, 0): lambda output, _: output for step in range(STEPS)})
    with model.trace(X, fn="many") as tracer:
        found = nnsight.list().save()
        with tracer.iter[0:2]:
            found.append(model.output)
        with tracer.iter[1]:
            model.input[:] = 0
        result = tracer.result.save()
    same(found[:1], [seen["", 0, 0]])
    net, x = Net(), torch.zeros_like(X)
    for _ in range(3):
        x = net(x)
    same([result], [x])


def test_a_list_shows_edits_of_what_it_holds(model):
    with model.trace(X, fn="many") as tracer:
        found = nnsight.list().save()
        with tracer.iter[:]:
            hidden = model.first.output
            found.append(hidden)
            hidden[:, 0] = 7
    assert all(bool((value[:, 0] == 7).all()) for value in found)
    assert not any(bool((value[:, 1] == 7).any()) for value in found)


@pytest.mark.parametrize("where", ["list", "last step"])
def test_what_the_model_overwrites_is_noticed(where):
    net = Net()
    net.tanh = nn.ReLU(inplace=True)
    model = nnsight.NNsight(net)
    with pytest.raises(nnsight.NNsightError, match="overwritten in place by the model"), model.trace(X, fn="many") as tracer:
        found = nnsight.list().save()
        with tracer.iter[:]:
            if where == "list":
                found.append(model.second.output)
        if where != "list":
            model.second.output.save()


# ------------------------------------------------------------------ steps that never come


@pytest.mark.parametrize("stop", [9, None])
def test_lines_of_steps_that_never_come_do_not_run(model, stop):
    seen, result = by_hand({("first", 3, 0): lambda output, _: output + 1})
    with model.trace(X, fn="many") as tracer:
        found, numbers = nnsight.list().save(), nnsight.list().save()
        with tracer.iter[3:stop] as step:
            model.first.output += 1
            found.append(model.first.output)
            hidden = model.second.output.save()
            numbers.append(step if stop is None else model.first.output.shape[0])
        got = tracer.result.save()
    same([*found, hidden, got], [seen["first", 3, 0], seen["second", 3, 0], result])
    assert numbers == ([3] if stop is None else [2])


def test_a_value_of_a_step_that_never_came_says_so(model):
    _, result = by_hand()
    with model.trace(X, fn="many") as tracer:
        with tracer.iter[6]:
            hidden = model.first.output.save()
            model.first.output = model.first.output * 0
        with tracer.iter[5:]:
            late = model.first.output.save()
        got = tracer.result.save()
    same([got], [result])
    with pytest.raises(nnsight.UnsetValueError, match=r"step 6 never came: the model made 4 steps"):
        hidden.value
    with pytest.raises(ValueError, match=r"never came|no turn"):
        late.value


def test_a_model_that_ends_by_itself(model):
    net, steps, x = Net(), 0, X
    while steps < 10:
        x = net(x)
        steps += 1
        if x.abs().max() < 1.2:
            break
    with model.trace(X, 1.2, fn="until") as tracer:
        found = nnsight.list().save()
        with tracer.iter[:]:
            found.append(model.output)
        last = model.output.save()
        result = tracer.result.save()
    assert 1 < steps < 10
    assert len(found) == steps
    same([found[-1], last, result], [x, x, x])


def test_more_steps_than_a_loop_was_made_for(model):
    with pytest.raises(nnsight.NNsightError, match=r"was made for 256.*iter\[:n\]"), model.trace(X, 300, fn="many") as tracer:
        with tracer.iter[:]:
            model.first.output.save()
    with pytest.raises(nnsight.NNsightError, match="was made for 256"), model.trace(X, 300, fn="many"):
        model.all()
        model.first.output.save()
    with model.trace(X, 300, fn="many") as tracer:
        with tracer.iter[:300]:
            model.first.output.save()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("chosen", [-1, 1.5, "2", None, slice(-2, None), slice(None, None, -1), slice(None, None, 0), [0, -1], [0.5], True])
def test_a_choice_that_means_nothing(model, chosen):
    with pytest.raises(nnsight.RecordError, match="step"), model.trace(X, fn="many") as tracer:
        tracer.iter[chosen]


@pytest.mark.parametrize("number", [-1, 0.5, "0", slice(0, 1)])
def test_a_call_that_means_nothing(model, number):
    with pytest.raises(nnsight.RecordError, match="calls are counted"), model.trace(X):
        model.second.call[number].output.save()


@pytest.mark.parametrize("write", ["assigned", "edited", "view edited", "augmented"])
def test_nothing_is_written_in_the_last_step(model, write):
    with pytest.raises(nnsight.RecordError, match="the last"), model.trace(X, fn="many") as tracer:
        with tracer.iter[:]:
            pass
        if write == "assigned":
            model.first.output = model.first.output * 0
        elif write == "edited":
            model.first.output[:] = 0
        elif write == "view edited":
            model.first.output[0].zero_()
        else:
            model.first.output += 1


def test_a_copy_of_the_last_step_may_be_edited(model):
    seen, _ = by_hand()
    with model.trace(X, fn="many") as tracer:
        with tracer.iter[:]:
            pass
        mine = model.first.output.clone().save()
        mine[:, 0] = 0
    expected = seen["first", 3, 0].clone()
    expected[:, 0] = 0
    same([mine], [expected])


@pytest.mark.parametrize("which", ["tracer", "module"])
def test_next_in_an_open_loop(model, which):
    with pytest.raises(nnsight.RecordError, match="name the step"), model.trace(X, fn="many") as tracer, tracer.iter[:]:
        (tracer if which == "tracer" else model.first).next()
        model.first.output.save()


def test_a_write_that_needs_a_later_step(model):
    def trace(times):
        with model.trace(X, times, fn="many") as tracer:
            with tracer.iter[2]:
                later = model.first.output
            with tracer.iter[0]:
                model.first.output = later
            return tracer.result.save()

    with pytest.raises(nnsight.OutOfOrderError, match=r"first.output.*needs first.output \[step 2\]"):
        trace(4)
    same([trace(2)], [Net().many(X, 2)])  # step 2 never comes: the write is void


def test_a_write_below_an_open_loop_that_needs_its_end(model):
    with pytest.raises(nnsight.OutOfOrderError, match="the end of the run"), model.trace(X, fn="many") as tracer:
        found = nnsight.list()
        with tracer.iter[:]:
            found.append(model.first.output)
        with tracer.iter[3]:
            model.tanh.output = found[0]


def test_a_call_that_never_comes(model):
    with pytest.raises(nnsight.MissedSiteError, match=r"second\.output@5"), model.trace(X):
        model.second.call[5].output.save()


def test_an_unknown_method(model):
    with pytest.raises(nnsight.RecordError, match="mony"):
        model.trace(X, fn="mony")


def test_outside_a_trace(model):
    for use in (model.next, model.all, lambda: model.iter):
        with pytest.raises(nnsight.RecordError, match="only inside a trace"):
            use()


# ------------------------------------------------------------------ inputs


def test_invokes_have_their_own_steps():
    net = Net()
    model = nnsight.NNsight(net)
    with model.trace(fn="many") as tracer:
        with tracer.invoke(X[:1]):
            with tracer.iter[1:3]:
                model.first.output *= 2
            one = tracer.result.save()
        with tracer.invoke(X[1:]):
            zero = model.first.output.save()
            with tracer.iter[:]:
                pass
            two = model.first.output.save()
        with tracer.invoke():
            last = model.output.save()
    def double(output, _):
        output = output.clone()
        output[:1] *= 2
        return output

    seen, result = by_hand({("first", step, 0): double for step in (1, 2)})
    same([one, zero, two, last], [result[:1], seen["first", 0, 0][1:], seen["first", 3, 0][1:], result])


def test_all_in_an_invoke_ends_with_it():
    model = nnsight.NNsight(Net())
    seen, _ = by_hand()
    with model.trace(fn="many") as tracer:
        with tracer.invoke(X[:1]):
            model.all()
            every = model.first.output.save()
        with tracer.invoke(X[1:]):
            first = model.first.output.save()
    same([every, first], [seen["first", 3, 0][:1], seen["first", 0, 0][1:]])


# ------------------------------------------------------------------ cost


@pytest.mark.slow
def test_nothing_of_earlier_steps_is_held(model):
    alive, seen = [], []

    def mark(value):
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
        seen.append(weakref.ref(value))

    with torch.no_grad(), model.trace(X, 30, fn="many") as tracer:
        with tracer.iter[:]:
            hidden = model.first.output
            double = hidden * 2
            nnsight.apply(mark, double)
            last = (double + model.second.output).save()
        model.tanh.output.save()
    assert len(alive) == 30
    assert max(alive) <= 1
    assert last.shape == X.shape


def test_a_step_costs_the_same_however_many_there_are(model, monkeypatch):
    from nnsight_graph.run import engine

    counts = {}
    for times in (50, 200):
        work = [0]
        original = engine.Run.fire

        def fire(self, ready, fresh, work=work, original=original):
            work[0] += 1
            work[0] += sum(map(len, self.held.values()))
            return original(self, ready, fresh)

        with monkeypatch.context() as patch:
            patch.setattr(engine.Run, "fire", fire)
            with torch.no_grad(), model.trace(X, times, fn="many") as tracer:
                found = nnsight.list().save()
                with tracer.iter[:]:
                    model.first.output[:, 0] = 0
                    found.append(model.second.output.sum())
        counts[times] = work[0] / times
        assert len(found) == times
    assert counts[200] == pytest.approx(counts[50], rel=0.1)


def test_the_plan_of_another_number_of_steps_is_another(model):
    for times in (2, 5, 3):
        with model.trace(X, times, fn="many") as tracer:
            found = nnsight.list().save()
            with tracer.iter[:]:
                found.append(model.output)
        same(found[-1:], [Net().many(X, times)])


def test_two_threads_with_steps_of_their_own(model):
    seen, _ = by_hand()
    wrong = []

    def work(number):
        for _ in range(20):
            with model.trace(X, fn="many") as tracer:
                with tracer.iter[number]:
                    hidden = model.first.output.save()
                with tracer.iter[:]:
                    pass
                last = model.tanh.output.save()
            if not torch.equal(hidden.value, seen["first", number, 0]) or not torch.equal(last.value, seen["tanh", 3, 0]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
