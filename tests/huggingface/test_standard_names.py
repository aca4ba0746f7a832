"""One set of names for all decoder families: ``rename="standard"``."""

from __future__ import annotations

import pytest
import torch
import transformers

from nnsight_graph import LanguageModel
from tests.huggingface.families import tiny_model
from tests.huggingface.standard import DECODERS, STANDS_FOR, decoder

IDS = torch.tensor([[3, 4, 5, 6]])


@pytest.mark.parametrize("family", DECODERS)
def test_names_stand_for_modules(family):
    net = decoder(family)
    lm = LanguageModel(net, rename="standard")
    for name, path in STANDS_FOR[family].items():
        assert lm.get(name).path == f"model.{path}", name
        assert lm.get(name)._module is net.get_submodule(path)
    assert lm.lm_head._module is net.get_output_embeddings()
    assert len(lm.layers) == 2
    assert (lm.get("transformer.h") if family in ("gpt2", "bloom") else lm.layers)[1]._module is lm.layers[1]._module


@pytest.mark.parametrize("family", DECODERS)
def test_values_are_those_of_hooks(family):
    net = decoder(family)
    lm = LanguageModel(net, rename="standard")
    seen, names = {}, ["embed_tokens", "layers.1", "layers.1.attn", "norm", "layers.1.mlp_norm"]
    for name in names:
        module = net.get_submodule(STANDS_FOR[family].get(name) or f"{STANDS_FOR[family]['layers']}.1")

        def hook(_module, _args, output, name=name):
            seen[name] = output if isinstance(output, torch.Tensor) else output[0]

        module.register_forward_hook(hook)
    with torch.no_grad():
        expected = net(IDS).logits
    for module in net.modules():
        module._forward_hooks.clear()
    with torch.no_grad(), lm.trace(IDS):
        found = {name: lm.get(name).hidden_states.save() for name in names}
        logits = lm.lm_head.output.save()
    for name in names:
        torch.testing.assert_close(found[name].value, seen[name])
    assert torch.allclose(logits.value, expected) or family in ("gemma2",)  # which caps its logits
    with torch.no_grad(), lm.trace(IDS):
        lm.layers[0].hidden_states[:] = 0
        lm.layers[1].attn.hidden_states = lm.layers[1].attn.hidden_states * 0
        changed = lm.output.logits.save()
    assert not torch.allclose(changed.value, expected)


def test_opt_has_no_mlp():
    lm = LanguageModel(tiny_model("opt"), rename="standard")
    with pytest.raises(AttributeError, match=r"has no 'mlp': the family has no such module.*Use layers\[i\]\.fc1 and layers\[i\]\.fc2"):
        _ = lm.layers[0].mlp
    old = LanguageModel(tiny_model("opt", do_layer_norm_before=False), rename="standard")
    with pytest.raises(AttributeError, match=r"has no 'mlp_norm': the blocks of this model normalize .* Use layers\[i\]\.final_layer_norm"):
        _ = old.layers[0].mlp_norm
    with pytest.raises(AttributeError, match=r"has no 'norm': OPTForCausalLM has none"):
        _ = old.norm


def test_other_architectures():
    with pytest.raises(ValueError, match=r"no standard names for T5For.* \(model_type 't5'\); there are for gpt2, llama, .*bloom"):
        LanguageModel(tiny_model("t5"), rename="standard")
    with pytest.raises(ValueError, match="no standard names for Linear"):
        LanguageModel(torch.nn.Linear(1, 1), rename="standard")
    with pytest.raises(ValueError, match=r"rename is a dictionary, or \"standard\", not 'standart'"):
        LanguageModel(tiny_model("gpt2"), rename="standart")


def test_models_without_a_head():
    lm = LanguageModel(tiny_model("gpt2").transformer, rename="standard")
    assert lm.layers[0].mlp_norm.path == "model.h.0.ln_2"
    with pytest.raises(AttributeError, match="has no 'lm_head': GPT2Model has none"):
        _ = lm.lm_head
    classifier = transformers.GPT2ForSequenceClassification(tiny_model("gpt2").config)
    assert LanguageModel(classifier, rename="standard").norm.path == "model.transformer.ln_f"


def test_the_shipped_model_before_its_weights_are_there():
    lm = LanguageModel("nnsight-graph/capitals", rename="standard")
    assert not lm.dispatched
    assert "(h): ModuleList" in repr(lm)
    assert "(ln_1, attn_norm): LayerNorm" in repr(lm)
    with torch.no_grad(), lm.trace("The Eiffel Tower is in the city of") as tracer:
        cache = tracer.cache("layers.*.mlp")
        hidden = lm.layers[3].hidden_states.save()
        token = lm.lm_head.output[0, -1].argmax().save()
    assert lm.dispatched
    assert lm.tokenizer.decode(token) == " Paris"
    assert lm.layers[0].mlp_norm is lm.transformer.h[0].ln_2
    assert cache.model.layers[3].mlp.output.shape == hidden.shape


def test_names_and_standard_names():
    lm = LanguageModel(tiny_model("gpt2"), rename="standard", alias={"blocks": "transformer.h"})
    assert lm.blocks is lm.layers
    own = LanguageModel(tiny_model("gpt2"), rename={"transformer.h": "layers", "ln_1": "pre"})
    assert own.layers[0].pre.path == "model.transformer.h.0.ln_1"
    with pytest.raises(ValueError, match=r"would hide model\.tokenizer"):
        LanguageModel(tiny_model("gpt2"), rename={".transformer": "tokenizer"})


def test_the_tree_shows_where_generations_are_read():
    lm = LanguageModel("nnsight-graph/capitals")
    assert repr(lm).endswith("\n  (generator): Generator(\n    (streamer): Streamer()\n  )\n)")
    assert not hasattr(lm._module, "generator")
