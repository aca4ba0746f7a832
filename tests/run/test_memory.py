"""What is kept alive, and how long: only what is saved outlives a run, every other value goes after its last reader."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight

pytestmark = pytest.mark.slow

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


@pytest.fixture(autouse=True)
def no_collector():
    """Nothing may depend on the collector of cycles, nor on autograd, which keeps activations for its own reasons."""
    gc.collect()
    gc.disable()
    with torch.no_grad():
        yield
    gc.enable()


class Watch:
    """Functions to apply: one remembers a value weakly, the other asks which are still there."""

    def __init__(self):
        self.values, self.seen = [], []

    def mark(self, value):
        self.values.append(weakref.ref(value))

    def ask(self, _):
        self.seen.append(self.alive())

    def alive(self):
        return [value() is not None for value in self.values]


def layers(count=4):
    return nnsight.NNsight(nn.Sequential(*[nn.Linear(4, 4) for _ in range(count)]))


def test_a_value_goes_after_its_last_reader():
    model, watch = layers(), Watch()
    with model.trace(X):
        first = model[0].output * 2
        nnsight.apply(watch.mark, first)
        second = model[1].output + first
        nnsight.apply(watch.mark, second)
        nnsight.apply(watch.ask, model[2].output)
        total = second.sum().save()
        nnsight.apply(watch.ask, model[3].output)
    assert watch.seen[-1] == [False, False]
    hidden = model._module[0](X)
    assert torch.equal(total.value, (model._module[1](hidden) + hidden * 2).sum())


def test_what_a_later_line_needs_stays_until_then():
    model, watch = layers(), Watch()
    with model.trace(X):
        first = model[0].output * 2
        nnsight.apply(watch.mark, first)
        nnsight.apply(watch.ask, model[1].output)
        nnsight.apply(watch.ask, model[2].output + first)
        nnsight.apply(watch.ask, model[3].output)
    assert watch.seen == [[True], [False], [False]]


def test_a_long_chain_holds_one_value():
    model, watch = layers(1), Watch()
    with model.trace(X):
        value = model[0].output
        for _ in range(20):
            value = value * 2
            nnsight.apply(watch.mark, value)
            nnsight.apply(watch.ask, value)
    assert all(sum(alive) <= 2 for alive in watch.seen)


def test_activations_of_the_model_are_not_held():
    model, watch = layers(), Watch()
    with model.trace(X) as tracer:
        for envoy in model:
            nnsight.apply(watch.mark, envoy.output)
            nnsight.apply(watch.ask, envoy.output)
        kept = model[3].output.save()
    assert [alive[:-2] for alive in watch.seen] == [[], [], [False], [False, False]]
    assert watch.alive() == [False, False, False, True]
    del kept, tracer
    assert watch.alive() == [False] * 4


def test_a_saved_value_goes_with_its_proxy():
    model = layers()
    with model.trace(X):
        kept = model[0].output.save()
    value = weakref.ref(kept.value)
    assert value() is not None
    del kept
    assert value() is None


def test_unsaved_proxies_hold_nothing():
    model, watch = layers(), Watch()
    with model.trace(X):
        proxies = [model[0].output, model[0].output * 2]
        for proxy in proxies:
            nnsight.apply(watch.mark, proxy)
    assert watch.alive() == [False, False]
    assert len(proxies) == 2


def test_the_input_and_captured_tensors_go_with_the_tracer():
    model = layers()
    given, captured = X.clone(), torch.ones(4)
    alive = weakref.ref(given), weakref.ref(captured)
    with model.trace(given) as tracer:
        kept = (model[0].output + captured).save()
    del given
    assert alive[0]() is None
    del captured
    assert alive[1]() is not None
    assert "save" in str(tracer.graph)
    del tracer
    assert alive[1]() is None
    assert kept.shape == (2, 4)


def test_the_graph_outlives_the_tracer():
    model = layers()
    with model.trace(X) as tracer:
        model[0].output.save()
    graph, gone = tracer.graph, weakref.ref(tracer)
    del tracer
    assert gone() is None
    assert "0.output" in str(graph)


FAULTS = {
    "torch": lambda model: model[2].output.view(7),
    "own function": lambda model: nnsight.apply(lambda _: 1 / 0, model[2].output),
    "order": lambda model: model[0].output.add_(model[2].output),
    "missed": lambda model: setattr(model[0], "output", model[0].output * 2) or model[1].weight.sum().view(9),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_error_holds_no_activations(fault):
    model, watch, error = layers(), Watch(), None
    try:
        with model.trace(X):
            hidden = model[0].output
            nnsight.apply(watch.mark, hidden)
            doubled = hidden * 2
            nnsight.apply(watch.mark, doubled)
            fault(model)
            (doubled + model[3].output).save()
    except nnsight.NNsightError as raised:
        error = raised
    assert error is not None
    assert watch.alive() == [False] * len(watch.values)


def test_an_error_of_the_model_holds_no_values_of_the_trace():
    model, watch, error = layers(), Watch(), None
    handle = model._module[2].register_forward_hook(lambda *_: 1 / 0)
    try:
        with model.trace(X):
            doubled = model[0].output * 2
            nnsight.apply(watch.mark, doubled)
            (doubled + model[3].output).save()
    except ZeroDivisionError as raised:
        error = raised
    handle.remove()
    assert error is not None
    assert watch.alive() == [False]


def test_a_dropped_wrapper_lets_the_model_go():
    model = layers()
    weight = weakref.ref(model._module[0].weight)
    with model.trace(X):
        model[0].output.save()
    del model
    assert weight() is None
