"""Attributes of your own on a language model whose weights come later; where an envoy stands; what an invoke is called with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

from nnsight_graph import Envoy, LanguageModel, NNsight

NAME = "nnsight-graph/capitals"
PROMPT = "The Eiffel Tower is in the city of"


class Noted(LanguageModel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.layers_of_mine = [block.path for block in self.transformer.h]
        self.scale = 2.0
        self._hidden = {"a": 1}

    @property
    def doubled(self):
        return self.lm_head.output * self.scale


def test_attributes_stay_when_weights_are_loaded():
    model = Noted(NAME)
    model.note = note = object()
    model.transformer.h[1].mark = "second"
    model.config = other = copy.copy(model.config)
    model._model.set_on_the_module = 5
    model.lens = nn.Linear(2, 2)
    model.first_block = model._model.transformer.h[0]
    assert not model.dispatched
    with model.trace(PROMPT):
        doubled, logits = model.doubled.save(), model.lm_head.output.save()
    assert model.dispatched
    assert torch.equal(doubled, logits * 2)
    assert (model.note, model.scale, model._hidden) == (note, 2.0, {"a": 1})
    assert model.layers_of_mine[0] == "model.transformer.h.0"
    assert model.transformer.h[1].mark == "second"
    assert model.config is other
    assert model.set_on_the_module == 5
    assert model.lens._module.weight.device.type == "cpu"
    assert model.first_block._module is model._model.transformer.h[0]
    assert not any(weight.is_meta for weight in model.parameters())


def test_what_takes_the_place_of_a_part_stays():
    model = LanguageModel(NAME)
    model.transformer.h[3].mlp = Nothing()
    model.transformer.ln_f.weight = nn.Parameter(torch.zeros(96))
    model.dispatch()
    assert isinstance(model._model.transformer.h[3].mlp, Nothing)
    assert torch.equal(model._model.transformer.ln_f.weight, torch.zeros(96))
    plain = LanguageModel(NAME, dispatch=True)
    with torch.no_grad():
        plain._model.transformer.ln_f.weight.zero_()
    plain._model.transformer.h[3].mlp.register_forward_hook(lambda _m, _a, output: output * 0)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model._model(ids).logits, plain._model(ids).logits)


class Nothing(nn.Module):
    def forward(self, x):
        return x * 0


def test_the_module_itself():
    model = LanguageModel(NAME)
    assert isinstance(model._model, GPT2LMHeadModel)
    assert model._model is model._module
    net = nn.Sequential(nn.Linear(2, 2))
    assert NNsight(net)._model is net


def test_the_name_of_the_repository():
    model = LanguageModel(NAME)
    assert model.repo_id == NAME
    assert LanguageModel(model._model).repo_id.endswith("capitals")
    model._model.config.name_or_path = "some/where"
    assert LanguageModel(model._model).repo_id == "some/where"


def test_a_part_under_another_name_is_its_envoy():
    model = LanguageModel(NAME)
    assert model.base_model is model.transformer
    assert model.transformer.base_model is model.transformer
    with model.trace(PROMPT):
        one, other = model.base_model.h[2].output.save(), model.transformer.h[2].output.save()
    assert torch.equal(one, other)


def test_parents_and_roots():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    model = NNsight(net, rename={"0.0": "act"})
    assert model.parent is None
    assert model.root is model
    assert model[0].parent is model
    assert model[0][1].parent is model[0]
    assert model[0][1].root is model.act.root is model
    assert model.act.parent is model[0]
    assert isinstance(model[0][0].parent, Envoy)


def test_devices():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"), nn.ReLU())
    model = NNsight(net)
    assert model.devices == {torch.device("cpu"), torch.device("meta")}
    assert model[0].devices == {torch.device("cpu")}
    assert model[2].devices == set()


@pytest.mark.parametrize("name", ["parent", "root", "devices", "_model"])
def test_what_a_module_calls_so_itself_is_not_hidden(name):
    class Holding(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, name, nn.ReLU())

        def forward(self, x):
            return getattr(self, name)(x)

    model = NNsight(Holding())
    with model.trace(torch.tensor([-1.0, 2.0])):
        value = getattr(model, name).output.save()
    assert value.tolist() == [0.0, 2.0]
    model = NNsight(nn.Linear(1, 1))
    setattr(model, name, "mine")
    assert getattr(model, name) == getattr(model._module, name) == "mine"


def test_the_inputs_of_an_invoke():
    model = NNsight(nn.Linear(2, 2))
    x, y = torch.ones(1, 2), torch.zeros(2, 2)
    with model.trace() as tracer:
        with tracer.invoke(x) as first:
            _ = model.output.save()
        with tracer.invoke(y) as second:
            _ = model.output.save()
        with tracer.invoke() as both:
            pass
    (one,), named = first.inputs
    assert one is x
    assert named == {}
    assert second.inputs[0][0] is y
    assert both.inputs is None


def test_the_inputs_of_a_prompt():
    model = LanguageModel(NAME)
    ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with model.trace() as tracer:
        with tracer.invoke("The Colosseum") as short:
            _ = model.lm_head.output.save()
        with tracer.invoke(PROMPT) as long:
            _ = model.lm_head.output.save()
    args, named = long.inputs
    assert args == ()
    assert torch.equal(named["input_ids"], ids)
    assert torch.equal(short.inputs[1]["input_ids"], model.tokenizer("The Colosseum", return_tensors="pt")["input_ids"])
