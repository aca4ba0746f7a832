"""Continuing from a KV cache gives what the whole text gives in plain transformers."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import transformers

from nnsight_graph import LanguageModel, RecordError
from tests.huggingface.families import text, tiny_model, word_tokenizer

NAMES = ["past_key_values", "cache"]
DECODERS = ["gpt2", "llama", "opt", "bloom", "gpt_neox"]
BEFORE, AFTER = [3, 4, 5, 6, 7], [8, 9, 10]
ROWS, REST = [BEFORE, [11, 12, 13]], [AFTER, [14, 15]]


@functools.cache
def language_model(family: str) -> Any:
    return LanguageModel(tiny_model(family), tokenizer=word_tokenizer("left"))


def own_name(lm: Any) -> str:
    return next(name for name in ("cache", "past_key_values", "cache_params") if name in lm._needs().takes)


def cache_of(lm: Any, ids: list[list[int]], mask: Any = None, **kwargs: Any) -> Any:
    with torch.no_grad():
        return lm._module(input_ids=torch.tensor(ids), attention_mask=mask, use_cache=True, **kwargs)[own_name(lm)]


def after(lm: Any, before: list[int], rest: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return lm._module(input_ids=torch.tensor([before + rest])).logits[:, len(before) :]


def logits_of(lm: Any, way: str, prompt: Any, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        if way == "call":
            return lm.trace(prompt, trace=False, **kwargs).logits
        if way == "session":
            with lm.session(), lm.trace(prompt, **kwargs) as tracer:
                logits = tracer.result.logits.save()
        elif way == "trace":
            with lm.trace(prompt, **kwargs) as tracer:
                logits = tracer.result.logits.save()
        else:
            around, own = (kwargs, {}) if way == "around" else ({}, kwargs)
            with lm.trace(**around) as tracer:
                with tracer.invoke(prompt, **own):
                    logits = tracer.result.logits.save()
    return logits


WAYS = ["trace", "invoke", "around", "call", "session"]
FORMS: list[Any] = [
    torch.tensor([AFTER]), AFTER, [AFTER], text(AFTER), [text(AFTER)], {"input_ids": torch.tensor([AFTER])},
    {"input_ids": torch.tensor([AFTER]), "attention_mask": torch.ones(1, len(AFTER), dtype=torch.long)},
    {"input_ids": torch.tensor([AFTER]), "attention_mask": torch.ones(1, len(BEFORE) + len(AFTER), dtype=torch.long)},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_every_form_of_a_prompt_under_both_names(way: str, name: str) -> None:
    lm = language_model("gpt2")
    right, cache = after(lm, BEFORE, AFTER), cache_of(lm, [BEFORE])
    for prompt in FORMS:
        assert torch.allclose(logits_of(lm, way, prompt, **{name: copy.deepcopy(cache)}), right, atol=1e-5), prompt


@pytest.mark.parametrize("family", DECODERS)
def test_rows_of_one_length_and_of_several(family: str) -> None:
    lm = language_model(family)
    with torch.no_grad(), lm.trace(ROWS, use_cache=True) as tracer:
        cache = getattr(tracer.result, own_name(lm)).save()
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    both = [[*row, *([1] * len(rest))] for row, rest in zip(mask.tolist(), REST, strict=True)]
    equal = torch.cat([mask, torch.ones(2, 2, dtype=torch.long)], 1)
    for name in NAMES:
        for rest, given in ((REST, mask), (REST, both), ([text(row) for row in REST], mask), ([row[:2] for row in REST], equal)):
            logits = logits_of(lm, "trace", rest, **{name: copy.deepcopy(cache)}, attention_mask=given)
            for row, (before, own) in enumerate(zip(ROWS, REST, strict=True)):
                length = 2 if given is equal else len(own)
                assert torch.allclose(logits[row, -length:], after(lm, before, own[:length])[0], atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_a_token_that_is_hidden(family: str) -> None:
    lm = language_model(family)
    cache = cache_of(lm, [BEFORE])
    whole = torch.ones(1, 8, dtype=torch.long)
    whole[0, 6] = 0
    with torch.no_grad():
        right = lm._module(input_ids=torch.tensor([AFTER]), attention_mask=whole, **{own_name(lm): copy.deepcopy(cache)}).logits
    for mask in (whole, whole[:, 5:]):
        assert torch.allclose(logits_of(lm, "trace", AFTER, attention_mask=mask, cache=copy.deepcopy(cache)), right, atol=1e-5)


def test_rows_without_padding_are_plain_ids() -> None:
    lm = language_model("gpt2")
    cache = cache_of(lm, [BEFORE, BEFORE[::-1]])
    logits = logits_of(lm, "trace", torch.tensor([AFTER, AFTER]), cache=cache)
    assert torch.allclose(logits[1:], after(lm, BEFORE[::-1], AFTER), atol=1e-5)


@pytest.mark.parametrize("prompt", [REST, [text(row) for row in REST], [text(AFTER)] * 2], ids=str)
def test_rows_whose_padding_nobody_knows_are_refused(prompt: Any) -> None:
    lm = language_model("gpt2")
    with pytest.raises(RecordError, match="known only to its maker: pass attention_mask="):
        logits_of(lm, "trace", prompt, cache=cache_of(lm, ROWS[:1] * 2))


def test_what_does_not_fit_is_refused() -> None:
    lm = language_model("gpt2")
    cache = cache_of(lm, [BEFORE])
    with pytest.raises(RecordError, match="attention_mask has 7 columns, but the cache holds 5 tokens and the prompt has 3"):
        logits_of(lm, "trace", AFTER, cache=cache, attention_mask=torch.ones(1, 7))
    with pytest.raises(RecordError, match="cache and past_key_values are two names of one argument"):
        logits_of(lm, "trace", AFTER, cache=cache, past_key_values=cache)
    with pytest.raises(RecordError, match="20 tokens behind 5 in the cache, but gpt2 has positions for 24"):
        logits_of(lm, "trace", [3] * 20, cache=cache)
    with pytest.raises(RecordError, match="only its maker knows: use it in a trace with one prompt"), lm.trace(cache=cache) as tracer:
        for _ in range(2):
            with tracer.invoke(AFTER):
                pass


def test_no_cache_and_an_empty_one() -> None:
    lm, right = language_model("gpt2"), language_model("gpt2")._module(torch.tensor([AFTER])).logits
    for name in NAMES:
        assert torch.allclose(logits_of(lm, "trace", text(AFTER), **{name: None}), right, atol=1e-5)
    empty = transformers.DynamicCache(config=lm._module.config)
    with torch.no_grad(), lm.trace(cache=empty, use_cache=True) as tracer:
        for row in ROWS:
            with tracer.invoke(row):
                pass
    assert empty.get_seq_length() == 5


def test_a_cache_with_room() -> None:
    lm = language_model("gpt2")
    cache = transformers.StaticCache(config=lm._module.config, max_cache_len=16)
    cache_of(lm, [BEFORE], **{own_name(lm): cache})
    assert torch.allclose(logits_of(lm, "invoke", text(AFTER), past_key_values=cache), after(lm, BEFORE, AFTER), atol=1e-5)


def test_an_edit_takes_part_and_a_check_leaves_the_cache_alone() -> None:
    lm = language_model("gpt2")
    cache = cache_of(lm, [BEFORE])
    handle = lm._module.transformer.h[0].mlp.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    right = lm._module(input_ids=torch.tensor([AFTER]), **{own_name(lm): copy.deepcopy(cache)}).logits
    handle.remove()
    with torch.no_grad(), lm.trace(text(AFTER), cache=cache, scan=True, validate=True):
        lm.transformer.h[0].mlp.output[:] = 0
        zeroed = lm.lm_head.output.save()
    assert cache.get_seq_length() == 8  # what the run has added, and not the check
    assert torch.allclose(zeroed, right, atol=1e-5)


def test_values_cross_the_traces_of_a_session() -> None:
    lm = language_model("gpt2")
    with torch.no_grad(), lm.session():
        with lm.trace([BEFORE], use_cache=True) as first:
            cache = getattr(first.result, own_name(lm))
        with lm.trace(cache=cache) as second:
            with second.invoke(text(AFTER)):
                logits = lm.lm_head.output.save()
    assert torch.allclose(logits, after(lm, BEFORE, AFTER), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_generate_takes_the_whole_text(name: str) -> None:
    lm = language_model("gpt2")
    cache, whole = cache_of(lm, [BEFORE]), BEFORE + AFTER
    right = lm.generate([whole], max_new_tokens=4, do_sample=False, trace=False)
    for prompt in (whole, torch.tensor([whole]), text(whole)):
        with lm.generate(prompt, max_new_tokens=4, do_sample=False, **{name: copy.deepcopy(cache)}) as tracer:
            seen = lm.transformer.wte.input.save()
            result = tracer.result.save()
        assert result.tolist() == right.tolist()
        assert seen.tolist() == [AFTER]
    for prompt in (AFTER, text(AFTER)):
        with pytest.raises(RecordError, match=r"takes the whole text, what the cache holds \(5 tokens\) included: the prompt has 3"):
            lm.generate(prompt, max_new_tokens=4, **{name: cache})


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_of_an_encoder_decoder_continues(family: str, name: str) -> None:
    lm = language_model(family)
    start, encoded = torch.tensor([[0, 7, 8, 9]]), torch.tensor([BEFORE])
    with torch.no_grad():
        right = lm._module(input_ids=encoded, decoder_input_ids=start).logits[:, 2:]
    cache = cache_of(lm, [BEFORE], decoder_input_ids=start[:, :2])
    for prompt in (encoded, text(BEFORE)):
        logits = logits_of(lm, "trace", prompt, decoder_input_ids=start[:, 2:], **{name: copy.deepcopy(cache)})
        assert torch.allclose(logits, right, atol=1e-5)


def test_the_state_of_a_recurrent_model() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
    lm = LanguageModel(transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval(), tokenizer=word_tokenizer("left"))
    own = {} if own_name(lm) == "cache" else {"cache_position": torch.tensor([5])}
    for name in ("cache", "cache_params"):
        for prompt in ([8], "w8"):
            logits = logits_of(lm, "trace", prompt, **{name: cache_of(lm, [BEFORE])}, **own)
            assert torch.allclose(logits, after(lm, BEFORE, [8]), atol=1e-5)


def test_a_model_without_a_cache() -> None:
    config = transformers.DistilBertConfig(vocab_size=40, dim=16, n_heads=2, n_layers=1, hidden_dim=16)
    lm = LanguageModel(transformers.DistilBertForMaskedLM(config))
    with pytest.raises(RecordError, match="distilbert takes no cache"):
        lm.trace([3, 4], cache=transformers.DynamicCache())
    lm.trace([3, 4], cache=None, trace=False)
