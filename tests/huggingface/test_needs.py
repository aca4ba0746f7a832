"""What is read off a model, with transformers' own behaviour as the witness."""

from __future__ import annotations

import pytest
import torch

from nnsight_graph.huggingface.needs import Needs, read_needs
from tests.huggingface.families import FAMILIES, LONGEST, tiny_model


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
