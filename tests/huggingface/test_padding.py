"""The first padded batch of a model is compared with its shortest prompt alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from nnsight_graph import CONFIG, LanguageModel, NNsightError
from tests.huggingface.families import tiny_model
from tests.huggingface.tiny_families import build

LONG, SHORT = [3, 4, 5, 6, 7], [8, 9]


class TinyConfig(PretrainedConfig):
    model_type = "tiny"


class Mixing(PreTrainedModel):
    """Every token sees the one before it, or its row's last, padding or not; with ``mixes=False`` itself alone."""

    config_class = TinyConfig

    def __init__(self, mixes: bool = True, draws: float | None = None) -> None:
        super().__init__(TinyConfig())
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(40, 8), nn.Linear(8, 40)
        self.mixes, self.draws, self.forwards = mixes, draws, 0

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, past_key_values: Any = None, **_: Any) -> CausalLMOutput:
        self.forwards += 1
        hidden = self.embed(input_ids)
        if self.mixes:
            hidden = hidden + hidden.roll(1, 1)
        if self.draws is not None:
            hidden = hidden + self.draws * torch.rand_like(hidden)
        return CausalLMOutput(logits=self.head(hidden))


def model_of(**options: Any) -> Any:
    return LanguageModel(Mixing(**options).eval())


def traced(model: Any, *prompts: Any) -> list[torch.Tensor]:
    logits = []
    with model.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(prompt):
                logits.append(model.head.output.save())
    return logits


@pytest.fixture
def setting() -> Iterator[Any]:
    before = CONFIG.APP.VERIFY_BATCH
    yield CONFIG.APP
    CONFIG.APP.VERIFY_BATCH = before


def test_other_numbers_are_refused_with_the_reason() -> None:
    model = model_of()
    with pytest.raises(NNsightError, match=r"Mixing gives a padded prompt other numbers .* differs by .* padded on the right") as caught:
        traced(model, LONG, SHORT)
    assert caught.traceback[-1].path.name in ("test_padding.py", "block.py")
    with pytest.raises(NNsightError, match="cannot be padded"):
        model.trace([LONG, SHORT], trace=False)
    with pytest.raises(NNsightError, match="cannot be padded"):
        traced(model, [LONG, SHORT])


def test_encodings_that_are_padded_already() -> None:
    rows = {"input_ids": torch.tensor([LONG, [0, 0, 0, *SHORT]]), "attention_mask": torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])}
    with pytest.raises(NNsightError, match="padded on the left"), model_of().trace(rows) as tracer:
        tracer.result.logits.save()
    right = model_of(mixes=False)
    for count in (3, 4):
        with right.trace(rows) as tracer:
            logits = tracer.result.logits.save()
        assert right._module.forwards == count
    torch.testing.assert_close(logits.value[1, 3:], right._module(torch.tensor([SHORT])).logits[0])


def test_equal_lengths_are_no_padding() -> None:
    model = model_of()
    first, second = traced(model, LONG, LONG[::-1])
    assert model._module.forwards == 1
    for logits, ids in ((first, LONG), (second, LONG[::-1])):
        torch.testing.assert_close(logits.value, model._module(torch.tensor([ids])).logits)


def test_equal_numbers_are_found_once() -> None:
    model = model_of(mixes=False)
    for count in (3, 4):  # two forwards more, the first time
        _, second = traced(model, LONG, SHORT)
        assert model._module.forwards == count
    torch.testing.assert_close(second.value[:, :2], model._module(torch.tensor([SHORT])).logits)


def test_edits_take_no_part_and_random_state_stays() -> None:
    model = model_of(mixes=False)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            model.embed.output[:] = 7
        with tracer.invoke(SHORT):
            model.head.output = model.head.output * 0
            out = tracer.result.logits.save()
    assert torch.equal(torch.rand(3), expected)
    assert not out.value.any()


def test_it_can_be_switched(setting: Any) -> None:
    setting.VERIFY_BATCH = False
    traced(model_of(), LONG, SHORT)
    setting.VERIFY_BATCH = True
    model = LanguageModel(tiny_model("gpt2"))
    forwards = []
    model._module.register_forward_pre_hook(lambda *_: forwards.append(1))
    with pytest.warns(UserWarning, match="has hooks of yours"):
        with model.trace([LONG, SHORT]):
            model.output.logits.save()
    assert len(forwards) == 1


def test_classes_that_are_known_are_not_run_again() -> None:
    model, forwards = LanguageModel(tiny_model("gpt2")), []
    with model.trace([LONG, SHORT]):
        nnsight_logits = model.output.logits.save()
    model._module.register_forward_pre_hook(lambda *_: forwards.append(1))
    with model.trace([LONG, SHORT]):
        model.output.logits.save()
    assert len(forwards) == 1
    assert nnsight_logits.shape[:2] == (2, 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model._module.train(), "training mode"),
        (lambda model: model._module.embed.register_forward_hook(lambda *_: None), "hooks of yours"),
        (lambda model: None, "draws random numbers"),
    ],
)
def test_what_cannot_be_compared_is_said_once(change: Any, reason: str) -> None:
    model = model_of(draws=1.0 if reason.startswith("draws") else None, mixes=False)
    change(model)
    with pytest.warns(UserWarning, match=f"Mixing: whether padding changes .* was not checked, because .*{reason}") as caught:
        traced(model, LONG, SHORT)
    assert caught[0].filename == __file__
    traced(model, LONG, SHORT)  # a second warning would be an error


def test_random_numbers_that_change_nothing_do_not_stop_the_check() -> None:
    model = model_of(draws=0.0, mixes=False)
    for count in (3, 4):
        traced(model, LONG, SHORT)
        assert model._module.forwards == count
    with pytest.raises(NNsightError, match="cannot be padded"):
        traced(model_of(draws=0.0), LONG, SHORT)


def test_every_length_is_compared_where_attention_is_cut_by_length() -> None:
    model = LanguageModel(build("ReformerForMaskedLM"))
    logits = []
    with model.trace() as tracer:
        for ids in ([9, 10], [11, 12]):
            with tracer.invoke(ids):
                logits.append(tracer.result.logits.save())
    torch.testing.assert_close(logits[1].value, model._module(torch.tensor([[11, 12]])).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(NNsightError, match=r"logits of one of 5 tokens differs .* padded on the right"):
        model.trace([[9, 10], list(range(11, 20)), [27, 28, 29, 34, 35]], trace=False)


class Half(Mixing):
    """In half precision its numbers differ by rounding that no tolerance of eps expects; in float32 they are equal."""

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, past_key_values: Any = None, **_: Any) -> CausalLMOutput:
        hidden = self.embed(input_ids)
        if hidden.dtype is not torch.float32:
            hidden = hidden * (1 + 0.7 * (len(input_ids) - 1))
        return CausalLMOutput(logits=self.head(hidden))


def test_half_precision_is_asked_again_in_float32() -> None:
    traced(LanguageModel(Half(mixes=False).eval().half()), LONG, SHORT)
    with pytest.raises(NNsightError, match="cannot be padded"):
        traced(LanguageModel(Mixing().eval().half()), LONG, SHORT)


def test_generation_is_checked_by_a_forward() -> None:
    config = transformers.RecurrentGemmaConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, lru_width=32,
        attention_window_size=8,
    )
    torch.manual_seed(0)
    model = LanguageModel(transformers.RecurrentGemmaForCausalLM(config).eval())
    with torch.no_grad():
        for parameter in model._module.parameters():
            parameter.normal_(std=0.3)
    with pytest.raises(NNsightError, match=r"RecurrentGemmaForCausalLM gives a padded prompt other numbers .* padded on the left"):
        with model.generate([LONG, SHORT], max_new_tokens=2) as tracer:
            tracer.result.save()


def test_results_of_any_number_of_dimensions_are_compared() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(**sizes, max_position_embeddings=32)
    for kind in (transformers.BertForQuestionAnswering, transformers.BertForSequenceClassification, transformers.BertModel):
        torch.manual_seed(0)
        model = LanguageModel(kind(config).eval())
        assert max(model.verify_batch([LONG, SHORT, [SHORT, LONG]])) < 1e-4
        with model.trace([LONG, SHORT]):  # the class is not on the list: it is checked, and right
            model.output.save()
    with pytest.raises(NNsightError, match="prompt 1 gets other numbers"):
        model_of().verify_batch([LONG, SHORT])
