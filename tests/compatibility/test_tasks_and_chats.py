"""Models by the task they are loaded for; conversations as prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import nnsight_graph as nnsight
from tests.huggingface.families import tiny_model

pytestmark = pytest.mark.slow

CAPITALS = "nnsight-graph/capitals"
CHAT = [
    {"role": "user", "content": "The Tower"},
    {"role": "assistant", "content": "is in"},
    {"role": "user", "content": "the city"},
]
OTHER = [{"role": "user", "content": "in the city"}]
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}{% if add_generation_prompt %}of{% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    tokenizer = nnsight.LanguageModel(CAPITALS).tokenizer
    for family in ("gpt2", "bert", "t5"):
        tiny_model(family, vocab_size=len(tokenizer)).save_pretrained(root / family)
        tokenizer.save_pretrained(root / family)
    return root


@pytest.mark.parametrize(
    ("family", "task", "kind"),
    [
        ("gpt2", "text-generation", "GPT2LMHeadModel"), ("bert", "fill-mask", "BertForMaskedLM"),
        ("bert", "feature-extraction", "BertModel"),
        ("bert", "text-classification", "BertForSequenceClassification"), ("bert", "ner", "BertForTokenClassification"),
        ("bert", "question-answering", "BertForQuestionAnswering"), ("t5", "translation", "T5ForConditionalGeneration"),
    ],
)  # fmt: skip
def test_a_task_chooses_the_class(folder: Path, family: str, task: str, kind: str) -> None:
    lm = nnsight.TransformersModel(str(folder / family), task=task)
    assert type(lm._module).__name__ == kind


def test_a_model_of_a_task_gives_what_transformers_gives(folder: Path) -> None:
    lm = nnsight.LanguageModel(str(folder / "bert"), task="fill-mask", dispatch=True)
    plain = transformers.AutoModelForMaskedLM.from_pretrained(str(folder / "bert")).eval()
    with torch.no_grad(), lm.trace("the city of") as tracer:
        logits = tracer.result.logits.save()
    with torch.no_grad():
        right = plain(**lm.tokenizer("the city of", return_tensors="pt")).logits
    torch.testing.assert_close(logits, right)


def test_an_unknown_task_names_those_that_are_near(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no task 'fill-masks'.*fill-mask") as caught:
        nnsight.LanguageModel(str(folder / "bert"), task="fill-masks")
    assert isinstance(caught.value, nnsight.NNsightError)
    with pytest.raises(TypeError, match="task: options for loading do not go with a model that is loaded already"):
        nnsight.LanguageModel(tiny_model("gpt2"), task="text-generation")


def test_options_for_loading_in_a_dictionary(folder: Path) -> None:
    lm = nnsight.LanguageModel(str(folder / "gpt2"), model_kwargs={"dtype": torch.float64}, dispatch=True)
    assert {parameter.dtype for parameter in lm._module.parameters()} == {torch.float64}


@pytest.fixture
def chatting(folder: Path) -> Any:
    lm = nnsight.LanguageModel(str(folder / "gpt2"), dispatch=True)
    lm.tokenizer.chat_template = TEMPLATE
    return lm


def ids_of(lm: Any, chat: Any) -> torch.Tensor:
    given = lm.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return given["input_ids"]


def test_a_conversation_is_one_prompt(chatting: Any) -> None:
    with torch.no_grad(), chatting.trace(CHAT) as tracer:
        logits = tracer.result.logits.save()
    with torch.no_grad():
        right = chatting._module(input_ids=ids_of(chatting, CHAT)).logits
    torch.testing.assert_close(logits, right)


def test_several_conversations_are_a_batch_in_one_call_and_in_invokes(chatting: Any) -> None:
    with torch.no_grad():
        right = [chatting._module(input_ids=ids_of(chatting, chat)).logits[0, -1] for chat in (CHAT, OTHER)]
    with torch.no_grad(), chatting.trace([CHAT, OTHER]):
        together = chatting.lm_head.output[:, -1].save()
    with torch.no_grad(), chatting.trace() as tracer:
        with tracer.invoke(CHAT):
            first = chatting.lm_head.output[0, -1].save()
        with tracer.invoke(OTHER):
            second = chatting.lm_head.output[0, -1].save()
    for got in (together, [first, second]):
        torch.testing.assert_close(got[0], right[0])
        torch.testing.assert_close(got[1], right[1])


def test_a_conversation_is_generated_from(chatting: Any) -> None:
    ids = ids_of(chatting, CHAT)
    got = chatting.generate(CHAT, max_new_tokens=3, do_sample=False, trace=False)
    right = chatting._module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    assert torch.equal(got, right)


def test_one_that_ends_with_the_assistants_words_goes_on_there(chatting: Any) -> None:
    text = chatting.tokenizer.apply_chat_template(CHAT[:2], tokenize=False, continue_final_message=True)
    assert text.endswith("is in")
    with torch.no_grad(), chatting.trace(CHAT[:2]):
        got = chatting.lm_head.output.save()
    with torch.no_grad():
        right = chatting._module(**chatting.tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits
    torch.testing.assert_close(got, right)


def test_a_tokenizer_without_a_template_says_so(folder: Path) -> None:
    lm = nnsight.LanguageModel(str(folder / "gpt2"))
    lm.tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"has no chat template: set tokenizer\.chat_template"), lm.trace(CHAT):
        pass
    with pytest.raises(ValueError, match="a conversation needs a tokenizer"), nnsight.LanguageModel(tiny_model("gpt2")).trace(CHAT):
        pass
