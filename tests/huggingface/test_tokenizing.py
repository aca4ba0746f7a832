"""Options for the tokenizer: what the model reads is what the tokenizer gives with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from nnsight_graph import LanguageModel, RecordError
from tests.huggingface.families import tiny_model, word_tokenizer

TEXT = "w3 w4 w5 w6 w7"
OPTIONS: list[dict[str, Any]] = [
    {"truncation": True, "max_length": 3},
    {"padding": "max_length", "max_length": 8},
    {"padding": "max_length", "max_length": 8, "padding_side": "right"},
    {"padding": True, "pad_to_multiple_of": 4},
    {"add_special_tokens": False},
    {"add_special_tokens": True, "truncation": "longest_first", "max_length": 4},
    {"tokenizer_kwargs": {"truncation": True, "max_length": 3, "add_special_tokens": False}},
    {"tokenizer_kwargs": {"text_pair": "w9"}},
    {"return_tensors": "pt"},
]


def language_model(family: str = "gpt2", side: str = "left") -> Any:
    tokenizer = word_tokenizer(side)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<end> $A", pair="<end> $A $B", special_tokens=[("<end>", tokenizer.eos_token_id)]
    )
    return LanguageModel(tiny_model(family), tokenizer=tokenizer)


def ids_of(lm: Any, *prompts: tuple[Any, dict[str, Any]], fn: str = "trace", **around: Any) -> list[list[int]]:
    with torch.no_grad(), getattr(lm, fn)(**around) as tracer:
        for prompt, options in prompts:
            with tracer.invoke(prompt, **options):
                pass
        ids = lm.transformer.wte.input.save()
    return ids.tolist()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_is_read_is_what_the_tokenizer_gives(options: dict[str, Any]) -> None:
    lm = language_model()
    own = {name: value for name, value in options.items() if name != "return_tensors"}
    right = [lm.tokenizer(TEXT, **own.get("tokenizer_kwargs", own))["input_ids"]]
    with torch.no_grad(), lm.trace(TEXT, **options):
        ids = lm.transformer.wte.input.save()
    with torch.no_grad(), lm.session(), lm.trace(TEXT, **options):
        of_session = lm.transformer.wte.input.save()
    assert ids.tolist() == of_session.tolist() == right
    assert ids_of(lm, (TEXT, options)) == ids_of(lm, (TEXT, {}), **options) == right
    with lm.scan(TEXT, **options):
        assert lm.transformer.wte.input.shape == (1, len(right[0]))


@pytest.mark.parametrize("options", [{"truncation": True, "max_length": 3}, {"add_special_tokens": False}])
def test_generate_has_them_in_a_dictionary(options: dict[str, Any]) -> None:
    lm = language_model()
    right = lm.tokenizer([TEXT], **options)["input_ids"]
    for around, own in (({"tokenizer_kwargs": options}, {}), ({}, {"tokenizer_kwargs": options})):
        assert ids_of(lm, (TEXT, own), fn="generate", max_new_tokens=1, **around) == right
    with lm.generate(TEXT, max_length=8) as tracer:  # an argument of generate itself
        result = tracer.result.save()
    assert result.shape[1] <= 8
    assert result[0, :6].tolist() == lm.tokenizer(TEXT)["input_ids"]


def test_each_invoke_has_its_own_and_they_win() -> None:
    lm = language_model()
    ids = ids_of(lm, (TEXT, {}), (TEXT, {"max_length": 3}), truncation=True, max_length=4)
    assert ids == [[1, 3, 4, 5], [0, 1, 3, 4]]


def test_the_side_of_padding() -> None:
    lm = language_model()
    assert ids_of(lm, (TEXT, {}), ("w8", {}), padding_side="right")[1] == [1, 8, 0, 0, 0, 0]
    mixed = ids_of(lm, (TEXT, {}), ("w8", {"padding_side": "right"}), ("w9", {}), ([[3]], {"padding_side": "right", "padding": True}))
    assert mixed[1:] == [[1, 8, 0, 0, 0, 0], [0, 0, 0, 0, 1, 9], [3, 0, 0, 0, 0, 0]]


def test_a_padded_prompt_has_the_numbers_that_it_has_alone() -> None:
    lm = language_model()
    with torch.no_grad():
        alone = lm.trace(TEXT, trace=False).logits
        for side in ("left", "right"):
            filled = lm.trace(TEXT, padding="max_length", max_length=9, padding_side=side, trace=False).logits
            assert torch.allclose(filled[:, -6:] if side == "left" else filled[:, :6], alone, atol=1e-5)
    with lm.trace() as tracer:
        for side in ("left", "right"):
            with tracer.invoke("w8", padding_side=side):
                pass
        with tracer.invoke(TEXT):
            pass
        logits = tracer.result.logits.save()
    one = lm.trace("w8", trace=False).logits
    assert torch.allclose(logits[0, -2:], one[0], atol=1e-5)
    assert torch.allclose(logits[1, :2], one[0], atol=1e-5)
    generated = lm.generate(TEXT, max_new_tokens=3, do_sample=False, trace=False)[0, 6:]
    filled = lm.generate(TEXT, max_new_tokens=3, do_sample=False, trace=False, tokenizer_kwargs={"padding": "max_length", "max_length": 9})
    assert filled[0, 9:].tolist() == generated.tolist()


def test_what_cannot_be_followed_is_refused() -> None:
    lm = language_model()
    ids = torch.tensor([[3, 4, 5]])
    for options in ({"truncation": True}, {"padding": "max_length", "max_length": 9}, {"tokenizer_kwargs": {"stride": 1}}):
        for way in (lambda options: lm.trace(ids, **options), lambda options: ids_of(lm, (ids, {}), **options)):
            with pytest.raises(RecordError, match="is for the tokenizer, but this prompt is no text"):
                way(options)
    for options, message in {
        ("padding_side", "up"): "padding_side is 'left' or 'right', not 'up'",
        ("tokenizer_kwargs", "truncation"): "tokenizer_kwargs is a dictionary",
        ("padding", "somehow"): "the tokenizer cannot follow padding",
    }.items():
        with pytest.raises(RecordError, match=message):
            lm.trace(TEXT, **dict([options]))
    with pytest.raises(RecordError, match="the tokenizer has no option 'truncaton'; near: truncation"):
        lm.trace(TEXT, tokenizer_kwargs={"truncaton": True})
    with pytest.raises(RecordError, match="without a tokenizer"):
        LanguageModel(lm._module).trace(TEXT, truncation=True)


def test_padding_where_a_model_cannot_have_it_is_refused() -> None:
    lm = language_model()
    for own in ({"padding_side": "right"}, {"padding_side": "right", "tokenizer_kwargs": {"padding": "max_length", "max_length": 8}}):
        with pytest.raises(RecordError, match="generate continues a row at its end"):
            ids_of(lm, (TEXT, {}), ("w8", own), fn="generate", max_new_tokens=1)
    bart = LanguageModel(tiny_model("bart"), tokenizer=word_tokenizer("right"))
    with pytest.raises(RecordError, match="cannot be padded on the left"):
        bart.trace(TEXT, padding="max_length", max_length=8, padding_side="left")


def test_labels_of_text_are_cut_like_the_prompt() -> None:
    lm = language_model()
    right = lm._module(torch.tensor([[1, 3, 4]]), labels=torch.tensor([[1, 3, 4]])).loss
    assert torch.allclose(lm.trace(TEXT, labels=[TEXT], truncation=True, max_length=3, trace=False).loss, right)


def test_the_tokenizer_stays_as_it_is() -> None:
    lm = language_model()
    lm.trace(TEXT, truncation=True, max_length=3, padding="max_length", padding_side="right", trace=False)
    assert lm.tokenizer(TEXT)["input_ids"] == [1, 3, 4, 5, 6, 7]
    assert lm.tokenizer.padding_side == "left"
