"""Own properties: ``eproperty`` on envoys and tracers, against hooks of plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import Envoy, NNsight, RecordError, eproperty, requires_input, requires_output

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


class Own(Envoy):
    """The output as two heads, as a copy, times ten, and read-only."""

    n_heads = 2

    @eproperty(key="output", description="Heads", iterate=True)
    @requires_output
    def heads(self):
        """[batch, heads, tokens, features]"""

    @heads.preprocess
    def heads(self, value):
        batch, tokens, width = value.shape
        return value.view(batch, tokens, self.n_heads, width // self.n_heads).transpose(1, 2)

    @heads.transform
    @staticmethod
    def heads(value):
        return value.transpose(1, 2).reshape(value.shape[0], value.shape[2], -1)

    @eproperty()
    @requires_output
    def safe(self): ...

    @safe.preprocess
    def safe(self, value):
        return value.clone()

    @safe.transform
    def safe(value):
        return value

    @eproperty()
    @requires_output
    def tenfold(self): ...

    @tenfold.preprocess
    def tenfold(self, value):
        return value * 10

    @tenfold.postprocess
    def tenfold(self, value):
        return value / 10

    @eproperty(key="output")
    def doubled(self):
        """A view whose transform calculates."""

    @doubled.transform
    def doubled(value):
        return value * 2

    @eproperty()
    @requires_input
    def taken(self): ...

    @taken.preprocess
    def taken(self, value):
        args, _ = value
        return args[0].clone()

    @taken.transform
    def taken(value):
        return (value + 0,), {}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def wrapped():
    net = network()
    return net, NNsight(net, envoys={nn.Linear: Own})


def by_hand(net, change, x=X, at=0):
    handle = net[at].register_forward_hook(lambda _module, _args, output: change(output.clone()))
    try:
        return net(x)
    finally:
        handle.remove()


def without_second_head(output):
    output[..., 2:] = 0
    return output


# ---------------------------------------------------------------------- reading, editing, assigning


def test_reading_gives_the_preprocessed_value_and_changes_nothing():
    net, model = wrapped()
    with model.trace(X):
        heads, copy, ten = model[0].heads.save(), model[0].safe.save(), model[0].tenfold.save()
        out = model.output.save()
    assert torch.equal(heads, net[0](X).view(2, 3, 2, 2).transpose(1, 2))
    assert torch.equal(copy, net[0](X))
    assert torch.equal(ten, net[0](X) * 10)
    assert torch.equal(out, net(X))


def test_heads_are_edited_in_place():
    net, model = wrapped()
    with model.trace(X):
        model[0].heads[:, 1] = 0
        seen = model[0].output.clone().save()
        out = model.output.save()
    assert torch.equal(seen, without_second_head(net[0](X).detach().clone()))
    assert torch.equal(out, by_hand(net, without_second_head))


def test_an_edited_copy_reaches_the_model_and_the_lines_below():
    net, model = wrapped()
    with model.trace(X):
        before = model[0].output.clone().save()
        model[0].safe[..., 2:] = 0
        after = model[0].output.clone().save()
        heads = model[0].heads.clone().save()
        out = model.output.save()
    assert torch.equal(before, net[0](X))
    assert torch.equal(after, without_second_head(net[0](X).detach().clone()))
    assert torch.equal(heads, after.value.view(2, 3, 2, 2).transpose(1, 2))
    assert torch.equal(out, by_hand(net, without_second_head))


def test_a_name_of_the_value_goes_on_editing_after_it_was_put_back():
    net, model = wrapped()
    with model.trace(X):
        copy = model[0].safe
        copy[..., 2:] = 0
        between = model[0].output.clone().save()
        copy[..., :1].add_(between.sum())
        out = model.output.save()

    def change(output):
        output[..., 2:] = 0
        output[..., :1] += output.sum()
        return output

    assert torch.allclose(out, by_hand(net, change))


def test_a_view_is_the_same_value_until_something_else_is_put_there_and_a_copy_a_new_one():
    _, model = wrapped()
    with model.trace(X):
        heads = model[0].heads
        heads[:, 0] = 3
        assert model[0].heads is heads
        model[0].output[:] = 1
        copy = model[0].safe
        model[0].output[..., 0] = 7
        assert model[0].safe is not copy
        seen = model[0].safe.save()
        model[0].safe[:] = 1
        model[0].output = model[0].output * 2
        again = model[0].safe.save()
        out = model[0].output.save()
    assert torch.equal(seen[..., 0], torch.full((2, 3), 7.0))
    assert torch.equal(again, torch.full((2, 3, 4), 2.0))
    assert torch.equal(out, again.value)


@pytest.mark.parametrize("edit", [
    lambda value: value.mul_(3),
    lambda value: torch.add(value, 1, out=value),
    lambda value: torch.nn.functional.relu(value, inplace=True),
    lambda value: value[0][..., 1:].transpose(0, 1).zero_(),
    lambda value: value.split(2, -1)[1].add_(1),
    lambda value: value.copy_(value.abs()),
    lambda value: nnsight.apply(torch.Tensor.sigmoid_, value, mutates=(0,)),
])  # fmt: skip
def test_every_kind_of_edit_is_noticed(edit):
    net, model = wrapped()
    with torch.no_grad(), model.trace(X):
        edit(model[0].safe)
        out = model.output.save()

    def change(output):
        edited = output.detach().clone()
        if edit.__code__.co_names[:1] == ("nnsight",):
            return edited.sigmoid_()
        edit(edited)
        return edited

    assert torch.equal(out, by_hand(net, change).detach())


def test_an_edit_in_the_line_that_reads_the_site():
    net, model = wrapped()
    with model.trace(X):
        model[0].safe.add_(model[0].output.sum())
        out = model.output.save()
    assert torch.allclose(out, by_hand(net, lambda output: output + output.sum()))


def test_a_transform_that_calculates_is_seen_below_the_edit():
    net, model = wrapped()
    with model.trace(X):
        model[0].doubled[:] += 1
        seen = model[0].output.save()
        out = model.output.save()
    assert torch.allclose(seen, (net[0](X) + 1) * 2)
    assert torch.allclose(out, by_hand(net, lambda output: (output + 1) * 2))


def test_assignment():
    net, model = wrapped()
    with model.trace(X):
        model[0].tenfold = torch.ones(2, 3, 4)
        model[2].heads = model[2].heads.flip(1)  # no postprocess: the transform brings it into the model's form
        seen, out = model[0].output.save(), model.output.save()
    assert torch.equal(seen, torch.full((2, 3, 4), 0.1))
    halves = net[2](net[1](torch.full((2, 3, 4), 0.1)))
    assert torch.allclose(out, torch.cat([halves[..., 2:], halves[..., :2]], -1))


def test_augmented_assignment():
    net, model = wrapped()
    with model.trace(X):
        model[0].heads += 1
        model[0].tenfold *= 2
        model[2].safe -= 3
        out = model.output.save()
    assert torch.allclose(out, by_hand(net, lambda output: (output + 1) * 2) - 3)


def test_an_assignment_below_an_edit_counts():
    net, model = wrapped()
    with model.trace(X):
        model[0].safe[:] = 5
        model[0].output = torch.ones(2, 3, 4)
        out = model.output.save()
    assert torch.equal(out, by_hand(net, torch.ones_like))


def test_inputs():
    net, model = wrapped()
    with model.trace(X):
        model[2].taken[..., 0] = 7
        seen, out = model[2].input.save(), model.output.save()
    by_hand_input = net[1](net[0](X)).detach().clone()
    by_hand_input[..., 0] = 7
    assert torch.allclose(seen, by_hand_input)
    assert torch.allclose(out, net[2](by_hand_input))


# ---------------------------------------------------------------------- where the lines stand


@pytest.mark.parametrize("name", ["heads", "safe"])
def test_invokes(name):
    net, model = wrapped()
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(X[:1]):
            value = getattr(model[0], name)
            (value[:, 1] if name == "heads" else value[..., 2:]).zero_()
            first = model.output.save()
        with tracer.invoke(X[1:]):
            shown, second = getattr(model[0], name).save(), model.output.save()
        with tracer.invoke():
            everything = model[0].output.save()
    assert torch.allclose(first, by_hand(net, without_second_head, X[:1]))
    assert torch.allclose(second, net(X[1:]))
    assert shown.shape[0] == 1
    assert torch.equal(everything[0, :, 2:], torch.zeros(3, 2))
    assert torch.allclose(everything[1], net[0](X)[1])


@pytest.mark.parametrize("name", ["heads", "safe"])
@pytest.mark.parametrize("limit", [-1e9, 1e9])
def test_branches(name, limit):
    net, model = wrapped()

    def zero(value):
        (value[:, 1] if name == "heads" else value[..., 2:]).zero_()

    with model.trace(X) as tracer:
        outside = getattr(model[2], name)
        with tracer.cond(model[0].output.sum() > limit) as large:
            zero(getattr(model[0], name))
        with large.else_():
            zero(outside)
        out = model.output.save()
    expected = by_hand(net, without_second_head) if limit < 0 else by_hand(net, without_second_head, at=2)
    assert torch.allclose(out, expected)


def test_an_assignment_in_a_branch_leaves_the_property_alone_where_it_is_not_taken():
    for limit in (-1e9, 1e9):
        net, model = wrapped()
        with model.trace(X) as tracer:
            copy = model[0].safe
            copy[..., 2:] = 0
            with tracer.cond(model.input.sum() > limit):
                model[0].output = torch.ones(2, 3, 4)
            out = model.output.save()
        assert torch.allclose(out, by_hand(net, torch.ones_like if limit < 0 else without_second_head))


def test_python_branches_and_loops():
    net, model = wrapped()
    with model.trace(X):
        if model[0].output.sum() < 1e9:
            model[0].safe[..., 2:] = 0
        copy = model[2].safe
        for amount in model.input.flatten()[:2]:
            copy += amount
        out = model.output.save()
    assert torch.allclose(out, by_hand(net, without_second_head) + X.flatten()[:2].sum(), atol=1e-6)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return self.body(x)

    def several(self, x):
        for _ in range(3):
            x = self(x)
        return x


@pytest.mark.parametrize("name", ["heads", "safe"])
@pytest.mark.parametrize("kind", ["bounded", "open", "block", "all", "next"])
def test_steps(name, kind):
    torch.manual_seed(0)
    net = Twice()
    model = NNsight(net, envoys={"body.0": Own})

    def zero(value):
        (value[:, 1] if name == "heads" else value[..., 2:]).zero_()

    with model.trace(X, fn="several") as tracer:
        if kind == "bounded":
            for _ in tracer.iter[1:3]:
                zero(getattr(model.body[0], name))
        elif kind == "open":
            for _ in tracer.iter[1:]:
                zero(getattr(model.body[0], name))
        elif kind == "block":
            with tracer.iter[1:3]:
                zero(getattr(model.body[0], name))
        elif kind == "all":
            model.body[0].all()
            zero(getattr(model.body[0], name))
        else:
            tracer.next()
            zero(getattr(model.body[0], name))
            tracer.next()
            zero(getattr(model.body[0], name))
        out = tracer.result.save()
    x = net(X) if kind != "all" else by_hand(net.body, without_second_head)
    for _ in range(2):
        x = by_hand(net.body, without_second_head, x)
    assert torch.allclose(out, x)


@pytest.mark.parametrize("name", ["heads", "safe"])
@pytest.mark.parametrize("edited", [False, True])
def test_gradients(name, edited):
    net, model = wrapped()
    with model.trace(X):
        value = getattr(model[0], name)
        if edited:
            value[:, 0] = 0
        gradient = value.grad.save()
        model.output.pow(2).sum().backward()
    kept = []

    def keep(output):
        output = output.clone()
        shown = output.view(2, 3, 2, 2).transpose(1, 2) if name == "heads" else output
        if edited:
            shown[:, 0] = 0
        output.retain_grad()
        kept.append(output)
        return output

    by_hand(net, keep).pow(2).sum().backward()
    expected = kept[0].grad.view(2, 3, 2, 2).transpose(1, 2) if name == "heads" else kept[0].grad
    assert torch.allclose(gradient, expected)


def test_sessions_and_several_traces():
    net, model = wrapped()
    with model.session():
        with model.trace(X):
            model[0].safe[..., 2:] = 0
            first = model.output.save()
        with model.trace(X):
            second = model.output.save()
    assert torch.equal(first, by_hand(net, without_second_head))
    assert torch.equal(second, net(X))


def test_scans_know_the_shape():
    _, model = wrapped()
    with model.scan(X):
        shape = model[0].heads.shape
        model[0].safe[:] = 0
    assert shape == (2, 2, 3, 2)


def test_the_graph_runs_again_with_the_edit():
    net, model = wrapped()
    for scale in (0.0, 2.0):
        with model.trace(X):
            model[0].safe[..., 2:] = scale
            out = model.output.save()
        expected = torch.tensor(scale)
        assert torch.equal(out, by_hand(net, lambda output, value=expected: torch.cat([output[..., :2], value.expand(2, 3, 2)], -1)))


# ---------------------------------------------------------------------- what is provided


class Rounded(NNsight):
    @eproperty(description="the result, rounded")
    def rounded(self):
        """The result of the call, rounded."""

    def interleave(self, function, *args, **kwargs):
        return Rounded.rounded.provide(self, function(*args, **kwargs).round())


def test_a_provided_value_is_read_edited_and_assigned():
    net = network()
    model = Rounded(net)
    with model.trace(X) as tracer:
        value = model.rounded.clone().save()
        model.rounded[0] = 9
        result = tracer.result.save()
    expected = net(X).round()
    assert torch.equal(value, expected)
    assert torch.equal(result[1], expected[1])
    assert result[0].eq(9).all()
    assert torch.equal(model.trace(X, trace=False), expected)
    with model.trace(X) as tracer:
        model.rounded = model.rounded * 2
        result = tracer.result.save()
    assert torch.equal(result, expected * 2)
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            first = model.rounded.save()
        with tracer.invoke(X[1:]):
            model.rounded[:] = 3
        with tracer.invoke():
            everything = model.rounded.save()
    assert torch.equal(first, expected[:1])
    assert torch.equal(everything, torch.cat([expected[:1], torch.full((1, 3, 4), 3.0)]))


def test_a_value_that_is_provided_in_each_step_by_a_module_below():
    class Told(Envoy):
        @eproperty()
        def total(self):
            """What the module tells."""

    class Telling(nn.Module):
        def forward(self, x):
            return x + Told.total.provide(model.body, x.sum())

    class Stepping(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Telling()

        def forward(self, x):
            return self.body(x)

        def several(self, x):
            return self(self(x))

    model = NNsight(Stepping(), envoys={"body": Told})
    with model.trace(torch.ones(2), fn="several") as tracer:
        totals = nnsight.list().save()
        for step in tracer.iter[:2]:
            totals.append(model.body.total)
            if step == 1:
                model.body.total = torch.tensor(100.0)
        result = tracer.result.save()
    assert [total.item() for total in totals] == [2, 6]
    assert result.tolist() == [103, 103]
    assert model._module(torch.ones(2)).tolist() == [3, 3]  # outside a trace


def test_a_tracer_of_ones_own():
    class Told(nnsight.Tracer):
        @eproperty()
        def rounded(self):
            """The same value, by the tracer."""

    class Model(Rounded):
        tracer_class = Told

    model = Model(network())
    with model.trace(X) as tracer:
        value = tracer.rounded.clone().save()
        tracer.rounded = tracer.rounded + 1
        result = tracer.result.save()
    assert torch.equal(result, value.value + 1)


def test_what_nobody_provides_is_missed():
    class Silent(NNsight):
        @eproperty()
        def rounded(self): ...

    model = Silent(network())
    with pytest.raises(nnsight.MissedSiteError, match=r"rounded.* was never reached: nothing has provided it in this run"), model.trace(X):
        model.rounded.save()


# ---------------------------------------------------------------------- refusals, names, printing


def test_mistakes_are_named():
    _, model = wrapped()
    with pytest.raises(RecordError, match=r"model\.0\.heads is there only inside a trace"):
        _ = model[0].heads
    with pytest.raises(RecordError, match=r"model\.0\.heads can be assigned only inside a trace"):
        model[0].heads = 1
    with pytest.raises(RecordError, match="heads is the output of its module, so nothing is provided for it"):
        Own.heads.provide(model[0], X)
    with pytest.raises(TypeError, match="transform is a function of the value alone"):
        Own.heads.transform(lambda self, value: value)
    with pytest.raises(TypeError, match="the key is 'input', and the marker says that the value is the output"):

        class Contradicting(Envoy):
            @eproperty(key="input")
            @requires_output
            def value(self): ...


def test_errors_of_the_property_itself_come_through():
    class Wrong(Envoy):
        @eproperty(key="output")
        def lost(self): ...

        @lost.preprocess
        def lost(self, value):
            return self.nothing_of_that_name

        @eproperty(key="output")
        def empty(self): ...

        @empty.transform
        def empty(value):
            value * 2

    model = NNsight(network(), envoys=Wrong)
    with pytest.raises(RecordError, match=r"the preprocess of lost failed: .*nothing_of_that_name"), model.trace(X):
        _ = model[0].lost
    with pytest.raises(RecordError, match=r"the transform of 0\.output gave None"), model.trace(X):
        model[0].empty[:] = 0
    with model.trace(X):  # nothing was left open
        assert model[0].output is not None


def test_a_provided_name_may_not_be_a_modules():
    class Named(NNsight):
        @eproperty(key="0")
        def first(self): ...

    model = Named(network())
    with pytest.raises(RecordError, match="0 is a module of the model: give the property another key"), model.trace(X):
        _ = model.first


def test_an_own_output_stands_on_the_modules():
    class Negative(Envoy):
        @eproperty()
        @requires_output
        def output(self):
            """The negative of it."""

        @output.preprocess
        def output(self, value):
            return -value

        @output.postprocess
        def output(self, value):
            return -value

    net = network()
    model = NNsight(net, envoys={"0": Negative})
    with model.trace(X):
        value = model[0].output.save()
        model[0].output = torch.ones(2, 3, 4)
        out = model.output.save()
    assert torch.equal(value, -net[0](X))
    assert torch.equal(out, by_hand(net, lambda output: -torch.ones_like(output)))


def test_names_and_documentation():
    assert Own.heads.__doc__ == "[batch, heads, tokens, features]"
    assert (Own.heads.name, Own.heads.key, Own.heads.description, Own.heads.iterate) == ("heads", "output", "Heads", True)
    assert (Own.safe.key, Own.safe.description) == ("safe", None)
    _, model = wrapped()
    assert "heads" in dir(model[0])
    assert isinstance(model[0], nnsight.IEnvoy)
    assert not isinstance(3, nnsight.IEnvoy)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)


def test_descriptions_are_printed():
    net = nn.Sequential(nn.ModuleList([Block(), Block()]), nn.Tanh(), nn.Module())
    assert repr(NNsight(net, envoys={"1": Envoy})) == repr(net)
    assert repr(NNsight(net, envoys=Own)[0]) == (
        "ModuleList(\n"
        "  .heads: Heads\n"
        "  (0-1): 2 x Block(\n"
        "    .heads: Heads\n"
        "    (fc): Linear(\n"
        "      in_features=4, out_features=4, bias=True\n"
        "      .heads: Heads\n"
        "    )\n"
        "  )\n"
        ")"
    )
    assert repr(Rounded(nn.Sequential(nn.Tanh()))) == "Sequential(\n  .rounded: the result, rounded\n  (0): Tanh()\n)"


# ---------------------------------------------------------------------- which class mirrors what


def test_envoys_by_class_by_path_and_for_all():
    class Other(Envoy):
        pass

    class Deeper(Envoy):
        pass

    net = nn.ModuleDict({"a": nn.ModuleDict({"fc": nn.Linear(2, 2)}), "b": nn.ModuleDict({"fc": nn.Linear(2, 2), "act": nn.ReLU()})})
    model = NNsight(net, envoys={nn.ReLU: Own, "fc": Own, "b": Other, "b.fc": Deeper, "b.act": Deeper})
    assert [type(model.get(path)) for path in ("a", "a.fc", "b", "b.fc", "b.act")] == [Envoy, Own, Other, Deeper, Own]
    assert {type(envoy) for _, envoy in NNsight(net, envoys=Own).named_modules()[1:]} == {Own}

    class Model(NNsight):
        envoys = {nn.Module: Own, nn.Linear: Other}  # noqa: RUF012

    assert type(Model(net).a.fc) is Other
    assert type(Model(net).a) is Own
    assert type(Model(net, envoys={"fc": Deeper}).a.fc) is Deeper


def test_envoys_that_fit_nothing():
    net = network()
    with pytest.warns(UserWarning, match=r"no module's path ends in 'attn'\. Its modules are called by numbers alone"):
        NNsight(net, envoys={"attn": Own})
    with pytest.warns(UserWarning, match=r"no module below the model is a Conv1d\. There are Linear, Tanh\."):
        NNsight(net, envoys={nn.Conv1d: Own})
    with pytest.warns(UserWarning, match="The model itself is mirrored by the class that wraps it"):
        NNsight(net, envoys={nn.Sequential: Own})
    with pytest.raises(TypeError, match="classes that are made from Envoy, not <class 'int'>"):
        NNsight(net, envoys={nn.Linear: int})
    with pytest.raises(TypeError, match="not 3"):
        NNsight(net, envoys={3: Own})


def test_an_edit_that_comes_too_late_names_its_line():
    _, model = wrapped()
    with pytest.raises(nnsight.OutOfOrderError, match=r"`model\[0\]\.safe\[:\] = model\[2\]\.output`"), model.trace(X):
        model[0].safe[:] = model[2].output


@pytest.mark.parametrize("limit", [-1e9, 1e9])
@pytest.mark.parametrize("name", ["doubled", "safe"])
def test_a_value_from_above_is_put_back_only_in_the_branch_that_is_taken(name, limit):
    net, model = wrapped()
    with model.trace(X) as tracer:
        value = getattr(model[0], name)
        with tracer.cond(model.input.sum() > limit):
            value[0] = 1
        seen, out = model[0].output.clone().save(), model.output.save()

    def change(output):
        if limit < 0:
            output[0] = 1
        return output * 2 if name == "doubled" else output

    assert torch.allclose(out, by_hand(net, change), atol=1e-6)
    assert torch.allclose(seen, change(net[0](X).clone()))


def test_properties_of_one_site_follow_each_other():
    net, model = wrapped()
    with torch.no_grad(), model.trace(X):
        model[0].heads[:, 1] = 0
        copy = model[0].safe
        copy[:, 0] = 3
        between = model[0].output.clone().save()
        model[0].heads[:, 0, 1] = 5
        model[0].output[:, 2] *= 2
        out = model.output.save()

    def change(output):
        output = output.detach().clone()
        output[..., 2:] = 0
        output[:, 0] = 3
        assert torch.equal(between, output)
        output[:, 1, :2] = 5
        output[:, 2] *= 2
        return output

    assert torch.allclose(out, by_hand(net, change))


@pytest.mark.parametrize("name", ["heads", "safe"])
def test_edits_that_last_and_stops(name):
    net, model = wrapped()

    def zero(value):
        (value[:, 1] if name == "heads" else value[..., 2:]).zero_()

    with model.edit() as edited:
        zero(getattr(model[0], name))
    with edited.trace(X):
        out = model.output.save()
    assert torch.equal(out, by_hand(net, without_second_head))
    with model.trace(X) as tracer:
        zero(getattr(model[0], name))
        inner = model[1].output.save()
        tracer.stop()
    assert torch.equal(inner, net[1](without_second_head(net[0](X).detach().clone())))


def test_what_comes_after_the_call_is_not_left_out():
    calls = []

    class Counting(NNsight):
        def interleave(self, function, *args, **kwargs):
            result = super().interleave(function, *args, **kwargs)
            calls.append(result.shape)
            return result

    model = Counting(network().eval())
    with model.trace(X):
        hidden = model[0].output.save()  # the forward could end here
    assert hidden.shape == (2, 3, 4)
    assert calls == [(2, 3, 4)]


def test_operations():
    class Tenth(nnsight.OperationEnvoy):
        @eproperty()
        @nnsight.requires_operation_output
        def tenth(self): ...

        @tenth.preprocess
        def tenth(self, value):
            return value / 10

        @tenth.transform
        def tenth(value):
            return value * 10

        @eproperty()
        @nnsight.requires_operation_input
        def given(self): ...

    class Below(Envoy):
        @eproperty(key="source.F_linear_0.output")
        def product(self): ...

    net = network()
    model = NNsight(net, envoys={"2": Below})
    found = model[0].source.F_linear_0
    operation = Tenth(found._envoy, found._path, found._source, found._named)
    with model.trace(X):
        given = operation.given.save()
        operation.tenth[:] = 1
        operation.tenth += 1
        product = model[2].product.save()
        seen = model[0].output.save()
    assert torch.equal(given, X)
    assert torch.equal(seen, torch.full((2, 3, 4), 20.0))
    assert torch.allclose(product, net[2](net[1](seen.value)))


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(8, 8)

    def forward(self, x, *, scale=1.0):
        return self.proj(x) * scale


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Scaled()

    def forward(self, x):
        return self.inner(x, scale=2.0)


class OfInputs(Envoy):
    """Properties of what a module takes."""

    @eproperty(key="input")
    @requires_input
    def half(self): ...

    @half.preprocess
    def half(self, value):
        return value[0][0][..., :4]

    @eproperty(key="inputs")
    def scale(self): ...

    @scale.preprocess
    def scale(self, value):
        return value[1]["scale"]

    @scale.postprocess
    def scale(self, value):
        args, kwargs = self.inputs
        return args, {**kwargs, "scale": value}

    @eproperty(key="proj.input")
    def below(self): ...

    @below.preprocess
    def below(self, value):
        return value[0][0].clone()

    @below.transform
    def below(value):
        return (value,), {}

    @eproperty(key="input")
    def first(self): ...


def test_a_property_of_an_input_gets_the_arguments_as_they_are():
    torch.manual_seed(0)
    net, x = Outer().requires_grad_(False), torch.randn(2, 6, 8)
    model = NNsight(net, envoys={Scaled: OfInputs})
    with model.trace(x):
        half, scale = model.inner.half.clone().save(), (model.inner.scale * torch.ones(1)).save()
        first = model.inner.first.save()
    assert torch.equal(half, x[..., :4])
    assert float(scale) == 2.0
    assert torch.equal(first, x)
    zeroed = x.clone()
    zeroed[..., :4] = 0
    with model.trace(x):
        model.inner.half[:] = 0
        edited = model.output.save()
    assert torch.allclose(edited, net(zeroed))
    with model.trace(x):
        model.inner.scale = 5.0
        scaled = model.output.save()
    assert torch.allclose(scaled, net.inner.proj(x) * 5)
    with model.trace(x):
        model.inner.below[..., 4:] = 1
        below = model.output.save()
    ones = x.clone()
    ones[..., 4:] = 1
    assert torch.allclose(below, net.inner.proj(ones) * 2)
