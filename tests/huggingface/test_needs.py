"""What is read off a model, with transformers' own behaviour as the witness."""

from __future__ import annotations

import pytest
import torch

from nnsight_graph.errors import RecordError
from nnsight_graph.huggingface.batching import make_batch
from nnsight_graph.huggingface.needs import Needs, read_needs
from tests.huggingface.families import FAMILIES, LONGEST, tiny_model, word_tokenizer
from tests.huggingface.tiny_families import build


@pytest.mark.parametrize("family", FAMILIES)
def test_the_limit_is_where_the_model_fails(family: str) -> None:
    model = tiny_model(family)
    needs = read_needs(model)
    ends = {"gpt2": LONGEST, "opt": LONGEST, "bert": LONGEST, "bart": LONGEST, "roberta": LONGEST - 1}
    assert needs.limit == ends.get(family)
    extra = {"decoder_input_ids": torch.tensor([[0]])} if needs.decoder else {}
    longest = needs.limit or 2 * LONGEST
    model(input_ids=torch.full((1, longest), 3), **extra)
    if needs.limit is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 3), **extra)


def test_who_numbers_the_tokens() -> None:
    needs = {family: read_needs(tiny_model(family)) for family in FAMILIES}
    assert {family for family, of in needs.items() if of.positions == "index"} == {"gpt2", "llama", "gpt_neox", "bert", "roberta"}
    assert {family for family, of in needs.items() if of.positions == "mask"} == {"opt"}
    assert {family: of.first for family, of in needs.items() if of.first} == {"roberta": 1}
    assert {family for family, of in needs.items() if not of.left} == {"bart"}
    assert {family: of.decoder for family, of in needs.items() if of.decoder} == {"t5": "start", "bart": "own"}
    assert {family for family, of in needs.items() if of.shifts} == {"gpt2", "llama", "opt", "bloom", "gpt_neox"}


def test_columns_are_counted_wherever_the_config_says_how_many() -> None:
    for name in ("LEDForConditionalGeneration", "WhisperForCausalLM", "ReformerForMaskedLM"):
        assert not read_needs(build(name)).left, name


def test_a_table_that_a_family_writes_itself() -> None:
    needs = read_needs(build("IBertForMaskedLM"))
    assert (needs.positions, needs.first, needs.limit) == ("index", 1, 47)


def test_tokens_are_counted_by_their_ids() -> None:
    model = build("M2M100ForConditionalGeneration")
    needs, tokenizer = read_needs(model), word_tokenizer("left", pad="<end>")  # not the padding token that the model counts by
    assert needs.positions == "ids"
    assert needs.left
    more = {"decoder_input_ids": torch.tensor([[3, 4]])}
    batch = make_batch(tokenizer, needs, [(([5, 6, 7, 8],), more), (([9, 10],), more)])
    assert batch.inputs["input_ids"][1].tolist() == [model.config.pad_token_id] * 2 + [9, 10]
    with torch.no_grad():
        torch.testing.assert_close(model(**batch.inputs).logits[1], model(torch.tensor([[9, 10]]), **more).logits[0], rtol=1e-4, atol=1e-5)
    embeds = [{"inputs_embeds": torch.zeros(1, length, 32), **more} for length in (4, 2)]
    with pytest.raises(RecordError, match="numbers tokens by their ids: pad inputs_embeds on the right"):
        make_batch(tokenizer, needs, [((), each) for each in embeds])


def test_weights_are_not_needed() -> None:
    model = tiny_model("gpt2")
    assert read_needs(model.to("meta")) == read_needs(tiny_model("gpt2"))


def test_a_wrapped_model_and_one_whose_forward_was_replaced() -> None:
    class Adapted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("llama")

        def get_base_model(self) -> torch.nn.Module:
            return self.inner

        def forward(self, *args: object, **kwargs: object) -> object:
            return self.inner(*args, **kwargs)

    expected = read_needs(tiny_model("llama"))
    assert read_needs(Adapted()) == expected
    hooked = tiny_model("llama")
    hooked.forward = lambda *args, **kwargs: None
    assert read_needs(hooked) == expected


def test_a_model_that_is_not_of_transformers() -> None:
    class Anything(torch.nn.Module):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return inputs["input_ids"]

    assert read_needs(Anything()) == Needs(name="Anything")
    assert read_needs(Anything()).accepts("attention_mask")
