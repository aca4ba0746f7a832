"""Copies and pickles of language models, and what is done to one before its weights are there."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from nnsight_graph import LanguageModel
from tests.huggingface.families import text, tiny_model, word_tokenizer

CAPITALS = "nnsight-graph/capitals"
PROMPT = "The Eiffel Tower is in the city of"


def pickled(value):
    return pickle.loads(pickle.dumps(value))


each_copy = pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickled], ids=["copy", "deepcopy", "pickle"])
each_deep = pytest.mark.parametrize("make", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


def next_word(lm):
    with lm.trace(PROMPT):
        token = lm.lm_head.output[0, -1].argmax().save()
    return lm.tokenizer.decode(token)


@pytest.fixture(scope="module")
def net():
    return LanguageModel(CAPITALS, dispatch=True)._module


def loaded(net):
    return LanguageModel(net, tokenizer=LanguageModel(CAPITALS).tokenizer, rename="standard")


@each_copy
def test_a_copy_of_a_loaded_model(make, net):
    lm = loaded(net)
    other = make(lm)
    assert type(other) is LanguageModel
    assert other.dispatched
    assert next_word(other) == next_word(lm) == " Paris"
    assert other.layers[0].path == "model.transformer.h.0"
    assert (other.lm_head.weight is lm.lm_head.weight) == (make is copy.copy)
    assert other.lm_head.weight is other.transformer.wte.weight  # tied ones stay tied
    ids = other.generate(PROMPT, max_new_tokens=2, do_sample=False, trace=False)
    assert torch.equal(ids, lm.generate(PROMPT, max_new_tokens=2, do_sample=False, trace=False))


@each_copy
def test_a_copy_of_a_model_without_weights_loads_them_itself(make):
    lm = LanguageModel(CAPITALS, rename={"transformer.h": "blocks"})
    other = make(lm)
    assert not other.dispatched
    assert other.device.type == "meta"
    assert next_word(other) == " Paris"
    assert other.dispatched
    assert other.blocks[0].mlp.c_fc.weight.device.type == "cpu"
    assert lm.dispatched == (make is copy.copy)  # which is another view of the same model
    assert next_word(lm) == " Paris"


def test_shallow_copies_of_envoys_mirror_the_loaded_modules():
    lm = LanguageModel(CAPITALS)
    block = copy.copy(lm.transformer.h[0])
    lm.dispatch()
    assert block._module is lm._module.transformer.h[0]


class Reader(LanguageModel):
    """Keeps envoys of its own."""

    def __init__(self, name):
        super().__init__(name)
        self.__dict__["middle"] = self.transformer.h[4]


@each_copy
def test_own_envoys_stay_when_the_weights_come(make):
    lm = make(Reader(CAPITALS))
    assert type(lm) is Reader
    assert next_word(lm) == " Paris"
    assert lm.middle._module is lm._module.transformer.h[4]


@pytest.mark.slow
@each_deep
def test_blocks_that_are_shown_as_tuples_stay_so(make):
    net = tiny_model("llama")
    lm = LanguageModel(net, tokenizer=word_tokenizer(), tuple_outputs=True)
    block, other = make((lm.model.layers[0], lm))
    with other.trace(text([3, 4, 5])):
        shown = block.output[0].save()
        out = other.lm_head.output.save()
    with torch.no_grad():
        assert torch.allclose(out, net(torch.tensor([[3, 4, 5]])).logits, atol=1e-5)
    assert shown.shape[:2] == (1, 3)


# ---------------------------------------------------------------------- before the weights are there


def test_methods_that_return_the_model(net):
    lm = loaded(net)
    assert lm.eval() is lm
    assert lm.float() is lm
    assert lm.transformer.h[0].eval() is lm.transformer.h[0]
    assert lm.lm_head.to("cpu") is lm.lm_head


@pytest.mark.parametrize("convert", [lambda e: e.double(), lambda e: e.to(torch.float64), lambda e: e.type(torch.float64)])
def test_weights_are_loaded_before_they_are_converted(convert):
    lm = LanguageModel(CAPITALS)
    assert convert(lm) is lm
    assert lm.dispatched
    assert lm.lm_head.weight.dtype is torch.float64
    assert next_word(lm) == " Paris"
    part = LanguageModel(CAPITALS)
    head = part.transformer.ln_f
    assert convert(head) is head
    assert part.dispatched
    assert (head.weight.dtype, part.lm_head.weight.dtype) == (torch.float64, torch.float32)


def test_a_model_without_weights_is_moved():
    lm = LanguageModel(CAPITALS)
    assert lm.cpu() is lm
    assert lm.device.type == "cpu"
    assert next_word(lm) == " Paris"


def test_what_is_set_before_the_weights_come_is_set_afterwards():
    lm = LanguageModel(CAPITALS)
    seen = []
    assert lm.train() is lm
    assert lm.transformer.h[1].eval() is lm.transformer.h[1]
    assert lm.lm_head.requires_grad_(False) is lm.lm_head
    handle = lm.transformer.ln_f.register_forward_hook(lambda _module, _args, output: seen.append(output.shape[-1]))
    assert not lm.dispatched
    net = lm.dispatch()._module
    assert (net.training, net.transformer.h[0].training, net.transformer.h[1].mlp.training) == (True, True, False)
    assert not net.lm_head.weight.requires_grad
    assert net.transformer.ln_f.weight.requires_grad
    next_word(lm)
    assert seen == [96]
    handle.remove()
    next_word(lm)
    assert seen == [96]
    assert not net.transformer.ln_f._forward_hooks
