"""Properties of one's own as other libraries of this kind have them: the transform runs for each reading, and both forms are taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnsight_graph import Envoy, NNsight, eproperty, requires_output

X = torch.tensor([[1.0, -2.0, 3.0, 0.5], [0.0, 4.0, -1.0, 2.0]])


class Pair(nn.Module):
    """Returns a tuple."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x), "rest"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.pair, self.last = nn.Linear(4, 4), Pair(), nn.Linear(4, 2)

    def forward(self, x):
        hidden, rest = self.pair(self.first(x))
        assert rest == "rest"
        return self.last(hidden)


def by_hand(net, change, name="first"):
    handle = net.get_submodule(name).register_forward_hook(lambda _module, _args, output: change(output))
    try:
        return net(X)
    finally:
        handle.remove()


def counting(copies: bool = True):
    """A class of envoys whose transform adds one, and the list of its calls."""
    calls = []

    class Counted(Envoy):
        @eproperty(key="output")
        @requires_output
        def value(self): ...

        @value.preprocess
        def value(self, output):
            return output.clone() if copies else output.view(2, 2, 2)

        @value.transform
        @staticmethod
        def value(shown):
            calls.append(1)
            return shown.reshape(-1, 4) + 1

    return Counted, calls


@pytest.mark.parametrize("copies", [True, False])
def test_the_transform_runs_for_a_reading_that_edits_nothing(copies):
    net = Net()
    kind, calls = counting(copies)
    model = NNsight(net, envoys={"first": kind})
    with model.trace(X):
        before = model.first.output.clone().save()
        value = model.first.value.save()
        out = model.output.save()
    assert len(calls) == 1
    assert torch.equal(before, net.first(X))
    assert torch.equal(value.reshape(2, 4), net.first(X))
    assert torch.equal(out, by_hand(net, lambda output: output + 1))


def test_it_runs_once_for_a_reading_with_edits_in_several_lines():
    net = Net()
    kind, calls = counting()
    model = NNsight(net, envoys={"first": kind})
    with model.trace(X):
        value = model.first.value
        value[:, 0] = 0
        value[:, 1] *= 2
        seen = model.first.output.clone().save()
        out = model.output.save()

    def change(output):
        output = output.clone()
        output[:, 0] = 0
        output[:, 1] *= 2
        return output + 1

    assert len(calls) == 1
    assert torch.equal(seen, change(net.first(X)))
    assert torch.equal(out, by_hand(net, change))


def test_it_runs_for_each_reading():
    net = Net()
    kind, calls = counting()
    model = NNsight(net, envoys={"first": kind})
    with model.trace(X):
        one = model.first.value.save()
        two = model.first.value.save()
        out = model.output.save()
    assert len(calls) == 2
    assert torch.equal(two, one + 1)
    torch.testing.assert_close(out.value, by_hand(net, lambda output: output + 2))


def test_it_runs_in_the_rows_of_an_invoke():
    net = Net()
    kind, _ = counting()
    model = NNsight(net, envoys={"first": kind})
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            _ = model.first.value
        with tracer.invoke(X[1:]):
            pass
        with tracer.invoke():
            out = model.output.save()

    def change(output):
        output = output.clone()
        output[0] += 1
        return output

    torch.testing.assert_close(out.value, by_hand(net, change))


def test_it_runs_only_in_the_branch_that_reads():
    net = Net()
    kind, _ = counting()
    model = NNsight(net, envoys={"first": kind})
    for limit, change in ((-1e9, lambda output: output + 1), (1e9, lambda output: output)):
        with model.trace(X) as tracer:
            with tracer.cond(model.first.input.sum() > limit):
                _ = model.first.value
            out = model.output.save()
        assert torch.equal(out, by_hand(net, change))


class Halves(Envoy):
    @eproperty(key="output", description="the two halves of the features")
    def halves(self, value):
        """[batch, 2, features / 2]"""
        return value.view(len(value), 2, -1)

    @halves.transform
    def halves(self, value, raw):
        return value.reshape(raw.shape)

    @eproperty
    def output(self, value):
        return value * 1

    @eproperty(key="input")
    def taken(self, value):
        (x,), _ = value
        return x.clone()

    @taken.transform
    def taken(self, value, raw):
        return (value,), raw[1]

    @taken.postprocess
    def taken(self, value):
        return (value * 2,), {}


class Hidden(Envoy):
    @eproperty(key="output")
    def hidden(self, value):
        return value[0].clone()

    @hidden.transform
    def hidden(self, edited, raw):
        return edited.clone(), *raw[1:]


def test_the_decorated_function_may_be_the_preprocess():
    net = Net()
    model = NNsight(net, envoys={"first": Halves})
    with model.trace(X):
        whole = model.first.halves.save()
        model.first.halves[:, 1] = 0
        out = model.output.save()
    expected = net.first(X).view(2, 2, 2).clone()
    expected[:, 1] = 0
    assert torch.equal(whole, expected)
    assert torch.equal(out, by_hand(net, lambda output: output * torch.tensor([1.0, 1, 0, 0])))
    assert Halves.halves.__doc__ == "[batch, 2, features / 2]"
    assert ".halves: the two halves of the features" in repr(model)


def test_without_parentheses_it_is_the_property_of_its_name():
    net = Net()
    model = NNsight(net, envoys={"first": Halves})
    with model.trace(X):
        value = model.first.output.save()
    assert torch.equal(value, net.first(X))


def test_at_an_input_it_gets_the_arguments():
    net = Net()
    model = NNsight(net, envoys={"first": Halves})
    with model.trace(X):
        model.first.taken[:, 0] = 7
        edited = model.output.save()
    with model.trace(X):
        model.first.taken = torch.ones(2, 4)
        assigned = model.output.save()
    changed = X.clone()
    changed[:, 0] = 7
    assert torch.equal(edited, net(changed))
    assert torch.equal(assigned, net(torch.full((2, 4), 2.0)))


def test_a_transform_puts_the_rest_of_a_tuple_back():
    net = Net()
    model = NNsight(net, envoys={"pair": Hidden})
    with model.trace(X):
        model.pair.hidden[:, 2] = 5
        out = model.output.save()

    def change(output):
        hidden = output[0].clone()
        hidden[:, 2] = 5
        return hidden, output[1]

    assert torch.equal(out, by_hand(net, change, "pair"))


def test_a_transform_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"of the value alone, without self, or of \(self, value, raw\)"):

        class Wrong(Envoy):
            @eproperty(key="output")
            def value(self, output):
                return output

            @value.transform
            def value(self, shown):
                return shown
