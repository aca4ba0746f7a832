"""A subclass of a language model that has one set of names, and accessors of its own, for many families, written once."""

from __future__ import annotations

import pytest
import torch
from nnsight_graph.intervention.tracing.globals import Object

import nnsight_graph as nnsight
from tests.huggingface.families import word_tokenizer
from tests.huggingface.standard import DECODERS, decoder

CONTAINERS = ["transformer", "gpt_neox", "decoder"]
NAMES = {
    **dict.fromkeys(CONTAINERS, "model"),
    **dict.fromkeys(["h", "blocks", "model.layers", "model.decoder.layers"], "layers"),
    **dict.fromkeys(["attn", "attention", "self_attention"], "self_attn"),
    **dict.fromkeys(["ln_f", "norm", "final_layer_norm", "model.final_norm", "model.decoder.final_norm"], "final_norm"),
    **dict.fromkeys(["wte", "embed_in", "word_embeddings", "model.embed_tokens", "model.decoder.embed_tokens"], "embed_tokens"),
    "embed_out": "lm_head",
}


class Accessor:
    """What passes at every layer, by its number."""

    def __init__(self, model, part, point):
        self.model, self.part, self.point = model, part, point

    def site(self, layer):
        block = self.model.layers[layer]
        return getattr(block, self.part) if self.part else block

    def __getitem__(self, layer) -> torch.Tensor | Object:
        value = getattr(self.site(layer), self.point)
        return value[0] if isinstance(value, tuple) else value

    def __setitem__(self, layer, value):
        site = self.site(layer)
        found = getattr(site, self.point)
        setattr(site, self.point, (value, *found[1:]) if isinstance(found, tuple) else value)


class OneForAll(nnsight.LanguageModel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, rename=NAMES, **kwargs)
        self.streams = Accessor(self, "", "output")
        self.attentions = Accessor(self, "self_attn", "output")
        self.depth = len(self.layers)
        self.sizes = {}
        with self.scan({"input_ids": torch.tensor([[5, 6, 7]])}, use_cache=False) as tracer:
            self.check()
            tracer.stop()

    def check(self):
        rows, tokens = self.inputs[1]["input_ids"].shape
        for layer in range(self.depth):
            stream = self.streams[layer]
            assert isinstance(stream, torch.Tensor), f"the stream is a {type(stream)}"
            if stream.shape != (rows, tokens, self.config.hidden_size):
                raise ValueError(f"the stream has the shape {stream.shape} in {self.repo_id}")
            self.sizes[layer] = tuple(stream.shape)

    def steer(self, layer, vector):
        self.streams[layer] += vector


def hooked(model, layer, vector):
    def add(_module, _args, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    block = model.layers[layer]._module
    handle = block.register_forward_hook(add)
    try:
        return model._model(torch.tensor([[5, 6, 7]])).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("family", DECODERS)
def test_names_values_and_edits(family, tmp_path):
    decoder(family).save_pretrained(tmp_path)
    with torch.no_grad():
        model = OneForAll(str(tmp_path), tokenizer=word_tokenizer("left"))
        assert not model.dispatched
        assert model.layers is model.model.layers
        assert model.final_norm.path.rpartition(".")[2] in ("ln_f", "norm", "final_layer_norm")
        assert model.sizes == dict.fromkeys(range(model.depth), (1, 3, model.config.hidden_size))
        with model.trace("w5 w6 w7"):
            attended = [model.attentions[layer].save() for layer in range(model.depth)]
            embedded = model.embed_tokens.output.save()
            stream = model.streams[model.depth - 1].save()
            logits = model.output.logits.save()
        assert model.dispatched
        assert model.depth == len(model._model.get_submodule(model.layers.path[6:]))
        seen = []
        for layer in model.layers:
            hook = lambda _module, _args, output: seen.append(output[0] if type(output) is tuple else output)  # noqa: E731
            layer.self_attn._module.register_forward_hook(hook)
        plain = model._model(torch.tensor([[5, 6, 7]])).logits
        torch.testing.assert_close(logits.value, plain)
        for found, expected in zip(attended, seen, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), expected)
        torch.testing.assert_close(embedded.value, model._model.get_input_embeddings()(torch.tensor([[5, 6, 7]])))
        assert stream.shape == (1, 3, model.config.hidden_size)
        vector = torch.linspace(-1, 1, model.config.hidden_size)
        with model.trace("w5 w6 w7"):
            model.steer(1, vector)
            steered = model.output.logits.save()
        torch.testing.assert_close(steered.value, hooked(model, 1, vector))
        assert not torch.allclose(steered, logits)
