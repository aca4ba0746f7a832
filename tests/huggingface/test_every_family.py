"""No family silently gives other numbers than a prompt gets alone: each is right, or refused with a reason that the page names."""

from __future__ import annotations

import os
import warnings

import pytest
import transformers

from nnsight_graph.huggingface.padded_alike import PADDED_ALIKE
from tests.huggingface.every_family import is_alike, parts
from tests.huggingface.family_table import on_the_page, refusals, wrong
from tests.huggingface.tiny_families import LeftOut, families

pytestmark = pytest.mark.slow

LONG = os.environ.get("NNSIGHT_GRAPH_LONG") == "1"
CHOSEN = """GPT2LMHeadModel Gemma3ForCausalLM MambaForCausalLM RecurrentGemmaForCausalLM XLNetLMHeadModel BartForCausalLM
    DeepseekV3ForCausalLM DistilBertForMaskedLM IBertForMaskedLM ReformerForMaskedLM M2M100ForConditionalGeneration
    SwitchTransformersForConditionalGeneration""".split()


@pytest.mark.parametrize("name", families() if LONG else CHOSEN)
def test_a_family_is_right_or_refused(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, about configs
        transformers.logging.set_verbosity_error()
        try:
            found = parts(name)
            alike = is_alike(name) if LONG and name in PADDED_ALIKE else True
        except LeftOut as error:
            pytest.skip(str(error))
    assert not wrong(found)
    assert alike
    if int(transformers.__version__.split(".")[0]) >= 5:
        assert refusals(found) == on_the_page().get(name, set())
