"""Small forms that peers' users write: containers saved before they are filled, edits with their tracer, caches without the root."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.huggingface.families import tiny_model

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).requires_grad_(False)


def test_a_container_that_is_saved_first_and_filled_below(module):
    model = nnsight.NNsight(module)
    with model.trace() as tracer:
        found, named, many = nnsight.save([]), nnsight.save({}), nnsight.save({"deep": []})
        for factor in (1, 2):
            with tracer.invoke(X * factor):
                found.append(model[0].output[:, -1])
                named[factor] = model.output
                many["deep"].append(model[1].output)
    for place, factor in enumerate((1, 2)):
        hidden = module[0](X * factor)
        assert torch.equal(found[place], hidden[:, -1])
        assert torch.equal(named[factor], module(X * factor))
        assert torch.equal(many["deep"][place], torch.tanh(hidden))


def test_save_gives_the_very_list(module):
    model, mine = nnsight.NNsight(module), []
    with model.trace(X):
        mine.append(model[0].output)
        same = nnsight.save(mine)
        assert same is mine
    assert torch.equal(mine[0], module[0](X))


def test_an_edit_with_its_tracer(module):
    model = nnsight.NNsight(module)

    def in_a_function():
        with model.edit() as (tracer, edited):
            edited[0].output[:] = 0
        return tracer, edited

    tracer, edited = in_a_function()
    assert "0.output" in str(tracer.graph)
    with model.edit() as (_, other):
        other[0].output *= 2
    with model.edit() as alone:
        alone[1].output[:] = 1
    for view, right in ((edited, torch.zeros(2, 4)), (other, module[0](X) * 2), (alone, module[0](X))):
        with view.trace(X):
            got = view[0].output.save()
        assert torch.equal(got, right)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_cache_by_paths_with_and_without_the_root(family):
    net = tiny_model(family)
    model = nnsight.LanguageModel(net)
    ids = torch.tensor([[3, 4, 5]])
    with model.trace(ids) as tracer:
        cache = tracer.cache(non_blocking=True)
        block = (model.transformer.h if family == "gpt2" else model.model.layers)[0].output.save()
    blocks = cache.transformer.h if family == "gpt2" else cache.model.layers
    rooted = cache.model.transformer.h if family == "gpt2" else cache.model.model.layers
    assert torch.equal(blocks[0].output, block)
    assert torch.equal(rooted[0].output, block)
    with pytest.raises(AttributeError, match="that ran"):
        cache.nowhere


def test_the_other_arguments_of_a_call_are_handed_on(module):
    """One of them is a KV cache, of which only its place is known."""
    net = tiny_model("gpt2")
    model, ids = nnsight.LanguageModel(net), torch.tensor([[3, 4, 5]])
    block = net.transformer.h[1]
    with torch.no_grad(), model.trace(ids):
        args, kwargs = model.transformer.h[1].inputs
        model.transformer.h[1].inputs = ((args[0] * 0.5, *args[1:]), kwargs)
        got = model.output.logits.save()
    handle = block.register_forward_pre_hook(lambda _module, args, kwargs: ((args[0] * 0.5, *args[1:]), kwargs), with_kwargs=True)
    with torch.no_grad():
        right = net(ids).logits
    handle.remove()
    assert torch.equal(got, right)
