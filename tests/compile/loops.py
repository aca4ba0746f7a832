"""A model of several forwards, and programs with loops over its steps, each with the loops that its turns fold into."""

from __future__ import annotations

import torch
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, -2, 0.5], [0.25, 3, -1]])
SCALES = [0.5, 1.5, -0.25, 2.0, 1.25, 0.75]
VECTORS = [torch.tensor([1.0, -1, 0.5]) * number for number in range(6)]


class Repeated(nn.Module):
    """Runs the same forward several times, each on what the one before returned."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.act, self.two = nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)

    def forward(self, x):
        return self.two(self.act(self.one(x)))

    def several(self, x, count=6):
        for _ in range(count):
            x = self(x)
        return x


module = Repeated()
model = nnsight.NNsight(module)


def carried(tracer):
    total = 0
    for _ in tracer.iter[1:5]:
        total = total + model.two.output.sum()
    yield total


def carried_twice(tracer):
    low, before = model.one.output.min(), model.act.output
    for _ in tracer.iter[2:5]:
        now = model.act.output
        low = torch.minimum(low, (now - before).min())
        before = now
    yield low
    yield before


def steering(tracer):
    for step in tracer.iter[0:4]:
        model.one.output[:, 0] += 0.5 * step
        model.act.output = model.act.output * 2
        last = model.two.output
    yield last
    yield tracer.result


def numbers(tracer):
    for step in tracer.iter[1:5]:
        model.one.output = model.one.output * SCALES[step] + step
    yield tracer.result


def tensors(tracer):
    for step in tracer.iter[1:6:2]:
        model.one.output += VECTORS[step]
    yield tracer.result


def indices(tracer):
    for step in tracer.iter[0:3]:
        model.one.output[:, step] = 0
        model.act.output[..., 2 - step] *= 3
    yield tracer.result


def view_carried(tracer):
    row = model.one.output[0]
    for step in tracer.iter[1:4]:
        row[0] = step if step > 5 else 7.0
        model.act.output[0] = row.clone()
        row = model.one.output[0]
    row[:] = 0
    yield tracer.result


def replaced_while_carried(tracer):
    before = model.one.output
    for _ in tracer.iter[1:5]:
        view = before[:, 0]
        now = model.one.output
        model.one.output = now * 2
        now[:, 1] = 9
        before = now
    yield before
    yield view
    yield tracer.result


def several_uses_below(tracer):
    for _ in tracer.iter[0:3]:
        one, two = model.one.output, model.two.output
    one[:, 0] = 5  # the first module's site, while the last step has not reached the second
    yield two
    yield one
    yield tracer.result


def after_one_step(tracer):
    for step in tracer.iter[0:6]:
        model.one.output *= 1.5
        if step == 3:
            model.act.output[:] = 0
        last = model.act.output
    yield last
    yield tracer.result


def broken_off(tracer):
    for step in tracer.iter[0:6]:
        if step == 4:
            break
        model.one.output = model.one.output + 1
    yield tracer.result


def nested(tracer):
    total = 0
    for outer in tracer.iter[0:2]:
        for inner in tracer.iter[2:5]:
            total = total + model.two.output.sum() * (10 * outer + inner)
    yield total


def nested_sums(tracer):
    total = 0
    for outer in tracer.iter[0:3]:
        part, here = 0, model.one.output.sum()
        for step in tracer.iter[4:6]:
            part = part + torch.full((2,), 1.0 * outer) * SCALES[step] * total
        total = total + part + here * outer
    yield total


def nested_writes(tracer):
    for outer in tracer.iter[0:2]:
        for _ in tracer.iter[2:4]:
            model.one.output = model.one.output * SCALES[outer]
        with tracer.iter[outer]:
            model.act.output *= 2
    yield tracer.result


def branches(tracer):
    for step in tracer.iter[0:4]:
        with tracer.cond(model.one.output.sum() > 0) as positive:
            model.act.output *= step
        with positive.else_():
            model.act.output[:, 0] = 1
    yield tracer.result


def loops_over_values(tracer):
    total = nnsight.list()
    for step in tracer.iter[0:4]:
        with tracer.iter(model.one.output) as row:
            total.append((row * step * SCALES[step]).sum())
    yield total


def list_of_all(tracer):
    values = []
    for _ in tracer.iter[0:3]:
        values.append(model.one.output)
    yield torch.stack(values)


def graph_list(tracer):
    values = nnsight.list()
    for step in tracer.iter[0:3]:
        values.append(model.one.output * step)
    yield values


def all_saved(tracer):
    for _ in tracer.iter[0:3]:
        yield model.one.output.save()


def further_back(tracer):
    first, second = model.one.output, model.two.output
    for _ in tracer.iter[1:5]:
        first, second = second, first + model.one.output
    yield second


def the_first_one_always(tracer):
    first = None
    for step in tracer.iter[0:5]:
        if first is None:
            first = model.one.output
        model.one.output = model.one.output - first.mean()
    yield tracer.result


def other_steps_values(tracer):
    given = []
    for step in tracer.iter[0:3]:
        given.append(model.one.output.mean() + step)
    for step in tracer.iter[3:6]:
        model.one.output += given[step - 3]
    yield tracer.result


def given_values(tracer):
    given = model.one.output[0]
    shifts = [given[0], given[1] * 2, given[2]]
    for step in tracer.iter[1:4]:
        model.one.output += shifts[step - 1]
    yield tracer.result


def nothing_read(tracer):
    total = model.one.output.sum()
    for step in tracer.iter[0:4]:
        total = total * SCALES[step]
    yield total


def one_turn(tracer):
    for _ in tracer.iter[2:3]:
        last = model.one.output
    yield last


def no_turn(tracer):
    last = model.one.output
    for _ in tracer.iter[2:2]:
        last = model.one.output
    yield last


def chosen(tracer):
    for _ in tracer.iter[[0, 1, 4]]:
        model.one.output *= 2
    yield tracer.result


def absolute(tracer):
    for _ in tracer.iter[0:3]:
        here = model.one.output.clone()
        with tracer.iter[5]:
            model.act.output = model.act.output + here
    yield tracer.result


def in_a_branch(tracer):
    with tracer.cond(model.one.output.sum() > -100):
        total = 0
        for step in tracer.iter[1:4]:
            total = total + model.one.output.sum() * step
    yield total
    yield tracer.result


def next_step(tracer):
    for _ in tracer.iter[0:3]:
        model.two.output *= 2
        tracer.next()
        model.one.output += 1
    yield tracer.result


def applied(tracer):
    for step in tracer.iter[0:4]:
        model.one.output = nnsight.apply(lambda value, by=step: value * by, model.one.output)
    yield tracer.result


def drawn(tracer):
    for _ in tracer.iter[0:3]:
        shape = model.one.output.shape
        model.one.output += torch.ones(shape)
    yield tracer.result


def every_step_too(tracer):
    model.two.all()
    model.two.output *= 0.5
    for step in tracer.iter[0:3]:
        model.one.output *= step
    yield tracer.result


PROGRAMS = [
    (carried, ["1:5:1"]),
    (carried_twice, ["2:5:1"]),
    (steering, ["0:4:1"]),
    (numbers, ["1:5:1"]),
    (tensors, ["1:6:2"]),
    (indices, ["0:3:1"]),
    (view_carried, ["1:4:1"]),
    (replaced_while_carried, ["1:5:1"]),
    (several_uses_below, ["0:3:1"]),
    (after_one_step, ["0:3:1", "4:6:1"]),
    (broken_off, ["0:4:1"]),
    (nested, ["2:5:1"]),
    (nested_sums, ["1:3:1", "4:6:1"]),
    (nested_writes, ["0:2:1", "2:4:1"]),
    (branches, ["0:4:1"]),
    (loops_over_values, ["0:4:1"]),
    (list_of_all, []),
    (graph_list, ["0:3:1"]),
    (all_saved, []),
    (further_back, []),
    (the_first_one_always, ["1:5:1"]),
    (other_steps_values, ["3:6:1"]),
    (given_values, ["1:4:1"]),
    (nothing_read, ["0:4:1"]),
    (one_turn, []),
    (no_turn, []),
    (chosen, ["0,1,4"]),
    (absolute, ["0:3:1"]),
    (in_a_branch, ["1:4:1"]),
    (next_step, []),
    (applied, ["0:4:1"]),
    (drawn, ["0:3:1"]),
    (every_step_too, ["0:None:1", "0:3:1"]),
]
