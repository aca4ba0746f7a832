"""Named arguments for transformers' models: what it documents passes, and nothing else does without a word."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers

from nnsight_graph import LanguageModel, NNsight, RecordError
from tests.huggingface.families import FAMILIES, tiny_model, word_tokenizer

FIVE = int(transformers.__version__.split(".")[0]) >= 5
IDS = torch.tensor([[3, 4, 5]])


@functools.cache
def model() -> Any:
    return LanguageModel(tiny_model("gpt2"), tokenizer=word_tokenizer("left"))


class Adapter(torch.nn.Module):
    """Hands on its arguments, as adapters do."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def get_base_model(self) -> Any:
        return self.inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.generate(*args, **kwargs)


def trace(lm: Any, **options: Any) -> Any:
    with torch.no_grad(), lm.trace("w3 w4 w5", **options) as tracer:
        result = tracer.result.save()
    return result


def invoke(lm: Any, **options: Any) -> Any:
    with torch.no_grad(), lm.trace() as tracer:
        with tracer.invoke("w3 w4 w5", **options):
            result = tracer.result.save()
    return result


def around(lm: Any, **options: Any) -> Any:
    with torch.no_grad(), lm.trace(**options) as tracer:
        with tracer.invoke("w3 w4 w5"):
            result = tracer.result.save()
    return result


def call(lm: Any, **options: Any) -> Any:
    with torch.no_grad():
        return lm.trace("w3 w4 w5", trace=False, **options)


def session(lm: Any, **options: Any) -> Any:
    with torch.no_grad(), lm.session(), lm.trace("w3 w4 w5", **options) as tracer:
        result = tracer.result.save()
    return result


def scan(lm: Any, **options: Any) -> None:
    with lm.scan("w3 w4 w5", **options):
        pass


WAYS = [trace, invoke, around, call, session]
DOCUMENTED: list[dict[str, Any]] = [
    {"output_attentions": False}, {"output_hidden_states": True}, {"use_cache": False}, {"logits_to_keep": 0}, {"return_dict": True},
    {"num_items_in_batch": 2}, {"cu_seq_lens_q": None}, {"max_length_k": None}, {"output_router_logits": False}, {"labels": None},
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_transformers_documents_passes(way: Any) -> None:
    right = model()._module(IDS).logits
    for options in DOCUMENTED:
        assert torch.allclose(way(model(), **options).logits, right, atol=1e-5), options
    assert len(way(model(), output_hidden_states=True).hidden_states) == 3
    assert way(model(), logits_to_keep=1).logits.shape[1] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_what_it_documents(family: str) -> None:
    lm = LanguageModel(tiny_model(family), tokenizer=word_tokenizer())
    with torch.no_grad():
        assert len(lm.trace(IDS, trace=False, output_hidden_states=True, return_dict=True)) > 1
    with pytest.raises(RecordError, match=r"'attention_maks' is taken by nothing.*near: attention_mask"):
        lm.trace(IDS, attention_maks=True)


@pytest.mark.parametrize("way", [*WAYS, scan])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("validat", "near: validate"),
        ("attention_maks", "near: attention_mask"),
        ("images", "'images' is for a processor"),
        ("max_new_tokens", "is an argument of generate"),
        ("truncatoin", "near: truncation"),
        ("hidden_states", "'hidden_states' is taken by nothing"),  # it stands in the code of the forward, which does not take it
        ("vocab_size", "'vocab_size' is taken by nothing"),
        ("something", "neither .* nor GPT2LMHeadModel.forward has it"),
    ],
)
def test_what_nobody_takes_is_refused(way: Any, name: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        way(model(), **{name: True})
    with pytest.raises(RecordError, match=rf"forward_kwargs={{'{name}'"):
        way(model(), **{name: True})


@pytest.mark.skipif(not FIVE, reason="transformers 4 has them")
@pytest.mark.parametrize("name", ["head_mask", "cache_position"])
def test_what_transformers_has_no_more_is_refused(name: str) -> None:
    with pytest.raises(RecordError, match=f"'{name}' is taken by nothing"):
        model().trace(IDS, **{name: torch.ones(3)})


def test_a_plain_wrapper_of_such_a_model_knows_as_much() -> None:
    plain, right = NNsight(model()._module), model()._module(IDS).logits
    for options in DOCUMENTED:
        with torch.no_grad():
            assert torch.allclose(plain.trace(IDS, trace=False, **options).logits, right, atol=1e-5)
    for name, near in {"attention_maks": "attention_mask", "validat": "validate"}.items():
        with pytest.raises(RecordError, match=f"near: .*{near}"):
            plain.trace(IDS, **{name: True})
    with pytest.raises(RecordError, match="'truncation' is taken by nothing"):
        plain.trace(IDS, truncation=True)  # it has no tokenizer


def test_an_adapter_hands_on_what_it_does_not_know() -> None:
    lm = LanguageModel(Adapter(model()._module), tokenizer=word_tokenizer("left"))
    assert len(trace(lm, output_hidden_states=True).hidden_states) == 3
    for name, message in {"validat": "near: validate", "audio": "is for a processor", "paddin": "near: padding"}.items():
        with pytest.raises(RecordError, match=message):
            trace(lm, **{name: True})
    trace(lm, something=1)  # the adapter might


def test_arguments_of_generate() -> None:
    for options in ({"num_beams": 2}, {"do_sample": False, "min_new_tokens": 1}, {"output_scores": False}, {"use_cache": False}):
        model().generate(IDS, max_new_tokens=2, trace=False, **options)
    slips = {"max_new_tokns": "max_new_tokens", "top_kk": "top_k", "progres": "progress", "attention_maks": "attention_mask"}
    for name, near in slips.items():
        with pytest.raises(RecordError, match=rf"'{name}' is taken by nothing: neither generate nor .*near: {near}"):
            model().generate(IDS, **{name: 1})
        with pytest.raises(RecordError, match=rf"near: {near}"), model().generate(max_new_tokens=2) as tracer:
            with tracer.invoke(IDS, **{name: 1}):
                pass
        with pytest.raises(RecordError, match=rf"near: {near}"):
            NNsight(model()._module).trace(IDS, fn="generate", **{name: 1})


def test_forward_kwargs_are_no_options_of_the_tokenizer() -> None:
    right = model()._module(IDS).logits
    for way in WAYS:
        assert torch.allclose(way(model(), forward_kwargs={"truncation": True, "max_length": 1}).logits, right, atol=1e-5)
    assert way(model(), forward_kwargs={"logits_to_keep": 1}).logits.shape[1] == 1


def test_names_in_a_mapping() -> None:
    encoding = model().tokenizer("w3 w4 w5", return_offsets_mapping=True, return_special_tokens_mask=True)
    assert torch.allclose(model().trace(encoding, trace=False).logits, model()._module(IDS).logits, atol=1e-5)
    with pytest.raises(RecordError, match=r"'attention_maks' is taken by nothing: neither the prompt.*near: attention_mask"):
        model().trace({"input_ids": IDS, "attention_maks": IDS})


def test_a_call_of_the_module_itself_has_no_tokenizer() -> None:
    with torch.no_grad():
        assert torch.equal(model()(IDS, use_cache=False).logits, model()._module(IDS).logits)
    for name in ("truncation", "attention_maks", "forward_kwargs"):
        with pytest.raises(RecordError, match=f"'{name}' is taken by nothing"):
            model()(IDS, **{name: True})


def test_programs_that_are_run_again() -> None:
    with model().trace(IDS) as tracer:
        logits = model().lm_head.output.save()
    graph = tracer.graph.detach()
    assert torch.allclose(graph.run(model(), "w3 w4", truncation=True, max_length=1)["logits"], logits[:, :1], atol=1e-5)
    for use in (graph.run, graph.check):
        messages = {"validat": "near: validate", "limit": "no argument of graph", "max_new_tokens": "an argument of generate"}
        for name, message in messages.items():
            with pytest.raises(RecordError, match=message):
                use(model(), IDS, **{name: 1})


def test_a_model_with_hooks_of_accelerate() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    module = hooks.add_hook_to_module(tiny_model("gpt2"), hooks.ModelHook())
    lm = LanguageModel(module, tokenizer=word_tokenizer("left"))
    assert len(trace(lm, output_hidden_states=True).hidden_states) == 3
    with pytest.raises(RecordError, match="near: attention_mask"):
        trace(lm, attention_maks=True)
