"""Language models by name, from a folder, and loaded already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from nnsight_graph import LanguageModel
from nnsight_graph.errors import RecordError
from nnsight_graph.huggingface.language_model import _carry_over
from tests.huggingface.families import text, tiny_model, word_tokenizer

pytestmark = pytest.mark.slow

CAPITALS = "nnsight-graph/capitals"
PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, one in each folder, with the tokenizer of the shipped model."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = LanguageModel(CAPITALS).tokenizer
    for family in ("gpt2", "llama", "bert", "t5"):
        tiny_model(family, vocab_size=len(tokenizer)).save_pretrained(root / family)
        tokenizer.save_pretrained(root / family)
    return root


def logits_of(lm: Any, prompt: Any = PROMPT) -> torch.Tensor:
    with lm.trace(prompt) as tracer:
        logits = tracer.result.logits.save()
    return logits.value


def loaded(folder: Path, kind: str = "AutoModelForCausalLM", **options: Any) -> Any:
    return getattr(transformers, kind).from_pretrained(str(folder), **options)


def devices(lm: Any) -> set[str]:
    return {parameter.device.type for parameter in lm._module.parameters()}


def test_a_shipped_model_by_its_name() -> None:
    lm = LanguageModel(CAPITALS)
    assert (devices(lm), lm.dispatched) == ({"meta"}, False)
    assert lm.tokenizer.decode(logits_of(lm)[0, -1].argmax()) == " Paris"
    assert (devices(lm), lm.dispatched) == ({"cpu"}, True)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_folder(folder: Path, as_text: bool) -> None:
    path = folder / "gpt2"
    lm = LanguageModel(str(path) if as_text else path)
    plain = loaded(path)
    ids = lm.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(logits_of(lm), plain(ids).logits)
    assert not lm._module.training


def test_a_loaded_model_with_its_tokenizer() -> None:
    model, tokenizer = tiny_model("llama"), word_tokenizer()
    lm = LanguageModel(model, tokenizer=tokenizer)
    assert lm.tokenizer is tokenizer
    assert lm._module is model
    assert lm.dispatched
    assert lm.dispatch() is lm
    assert lm.config is model.config
    with torch.no_grad():
        torch.testing.assert_close(logits_of(lm, text([5, 6])), model(torch.tensor([[5, 6]])).logits)


def test_a_model_without_a_tokenizer() -> None:
    lm = LanguageModel(tiny_model("gpt2"))
    assert lm.tokenizer is None
    assert logits_of(lm, [5, 6]).shape == (1, 2, 40)
    assert logits_of(lm, torch.tensor([[5], [6]])).shape == (2, 1, 40)
    with pytest.raises(RecordError, match="without a tokenizer"):
        lm.trace("Paris")
    lm.tokenizer = word_tokenizer()
    assert logits_of(lm, text([5, 6])).shape == (1, 2, 40)


def test_a_tokenizer_of_ones_own_for_a_name(folder: Path) -> None:
    tokenizer = word_tokenizer()
    assert LanguageModel(folder / "gpt2", tokenizer=tokenizer).tokenizer is tokenizer


def test_weights_at_once(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2", dispatch=True)
    assert lm.dispatched
    assert devices(lm) == {"cpu"}
    module = lm._module
    logits_of(lm)
    assert lm._module is module


def test_envoys_made_before_the_weights_came_go_on(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2")
    block, mlp, head, blocks = lm.transformer.h[1], lm.transformer.h[1].mlp, lm.lm_head, list(lm.transformer.h)
    with lm.trace(PROMPT):
        first, logits = mlp.output.save(), head.output.save()
    assert logits.device == first.device == lm.device
    assert block._module is lm._module.transformer.h[1]
    assert mlp._module is lm._module.transformer.h[1].mlp
    assert blocks[1] is block
    assert lm.transformer.h[1]._module is block._module
    assert lm.transformer.h[1].mlp._module is mlp._module
    assert [each._module for each in lm.transformer.h] == list(lm._module.transformer.h)
    assert mlp.c_fc.weight.device.type == "cpu"
    with lm.trace(PROMPT):
        again, weight = lm.transformer.h[1].mlp.output.save(), mlp.c_fc.weight.save()
    torch.testing.assert_close(again.value, first.value)
    assert weight.device.type == "cpu"


def test_a_parameter_read_in_the_first_trace_is_the_real_one(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2")
    with lm.trace(PROMPT):
        weight = lm.lm_head.weight.save()
        logits = (lm.transformer.ln_f.output @ lm.lm_head.weight.T).save()
        output = lm.lm_head.output.save()
    torch.testing.assert_close(weight, loaded(folder / "gpt2").lm_head.weight)
    torch.testing.assert_close(logits.value, output.value)


def test_tied_weights_are_tied_when_they_come(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2").dispatch()
    assert lm._module.lm_head.weight is lm._module.transformer.wte.weight


@pytest.mark.parametrize("wanted", [torch.bfloat16, "bfloat16"], ids=["dtype", "name"])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype(folder: Path, name: str, wanted: Any) -> None:
    lm = LanguageModel(folder / "gpt2", **{name: wanted})
    assert lm.lm_head.weight.dtype == torch.bfloat16
    assert logits_of(lm).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in lm._module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "auto"},
        {"dtype": torch.float16},
    ],
)
def test_the_dtype_is_the_same_before_and_after_the_weights_come(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    tiny_model("gpt2").bfloat16().save_pretrained(tmp_path)
    lm = LanguageModel(tmp_path, tokenizer=word_tokenizer(), **options)
    before = lm.lm_head.weight.dtype
    assert lm.dispatch().lm_head.weight.dtype == before


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_attention_implementation(folder: Path, attention: str) -> None:
    lm = LanguageModel(folder / "llama", attn_implementation=attention)
    assert lm._module.config._attn_implementation == attention
    logits = logits_of(lm)
    assert lm._module.config._attn_implementation == attention
    torch.testing.assert_close(logits, logits_of(LanguageModel(loaded(folder / "llama"), tokenizer=lm.tokenizer)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_options_of_the_tokenizer(folder: Path, side: str) -> None:
    lm = LanguageModel(folder / "gpt2", tokenizer_kwargs={"padding_side": side})
    assert lm.tokenizer.padding_side == side


def test_where_files_come_from(folder: Path) -> None:
    lm = LanguageModel(folder, subfolder="gpt2", local_files_only=True)
    assert logits_of(lm).shape[0] == 1


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize(
    ("kind", "family", "name"),
    [
        ("AutoModelForMaskedLM", "bert", "logits"),
        ("AutoModelForSeq2SeqLM", "t5", "logits"),
        ("AutoModel", "bert", "last_hidden_state"),
        ("AutoModel", "gpt2", "last_hidden_state"),
    ],
)
def test_other_classes_of_models(folder: Path, kind: str, family: str, name: str, by_name: bool) -> None:
    lm = LanguageModel(folder / family, automodel=kind if by_name else getattr(transformers, kind))
    plain = loaded(folder / family, kind)
    assert type(lm._module) is type(plain)
    with lm.trace(PROMPT) as tracer:
        value = getattr(tracer.result, name).save()
    assert type(lm._module) is type(plain)
    inputs = dict(lm.tokenizer(PROMPT, return_tensors="pt"))
    extra = {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)} if family == "t5" else {}
    with torch.no_grad():
        expected = plain(input_ids=inputs["input_ids"], **extra)[name]
    torch.testing.assert_close(value.value, expected, rtol=1e-4, atol=1e-5)


def test_the_class_of_a_model_itself(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2", automodel=transformers.GPT2LMHeadModel, attn_implementation="eager", dtype=torch.float64)
    assert devices(lm) == {"meta"}
    assert lm.lm_head.weight.dtype == logits_of(lm).dtype == torch.float64


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_device_map(folder: Path, device_map: str) -> None:
    lm = LanguageModel(folder / "gpt2", device_map=device_map)
    assert devices(lm) == {"meta"}
    logits = logits_of(lm)
    assert "meta" not in devices(lm)
    torch.testing.assert_close(logits.cpu(), logits_of(LanguageModel(folder / "gpt2")), rtol=1e-4, atol=1e-4)


def test_a_device_map_with_modules_on_disk(folder: Path, tmp_path: Path) -> None:
    places = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h.0": "cpu", "transformer.h.1": "disk"}
    places |= {"transformer.drop": "cpu", "transformer.ln_f": "cpu", "lm_head": "cpu"}
    lm = LanguageModel(folder / "gpt2", device_map=places, offload_folder=str(tmp_path))
    expected = logits_of(LanguageModel(folder / "gpt2"))
    for _ in range(2):
        torch.testing.assert_close(logits_of(lm), expected, rtol=1e-4, atol=1e-5)
        assert devices(lm) == {"cpu", "meta"}


@pytest.mark.parametrize("name", ["nnsight-graph/paris", "nnsight-graph/"])
def test_a_name_that_is_not_shipped(name: str) -> None:
    with pytest.raises(ValueError, match="what is: nnsight-graph/capitals"):
        LanguageModel(name)


@pytest.mark.parametrize("name", ["nobody/has-such-a-model", "/there/is/no/such/folder"])
def test_a_name_that_nothing_is_found_under(name: str) -> None:
    with pytest.raises((OSError, ValueError)):
        LanguageModel(name)


def test_a_class_that_is_none(folder: Path) -> None:
    with pytest.raises(ValueError, match="has no 'AutoModelForNothing'"):
        LanguageModel(folder / "gpt2", automodel="AutoModelForNothing")
    with pytest.raises(ValueError, match="AutoModelForSeq2SeqLM"):
        LanguageModel(folder / "gpt2", automodel="AutoModelForSeq2SeqLM")


def test_neither_a_name_nor_a_model() -> None:
    with pytest.raises(TypeError, match="int"):
        LanguageModel(3)  # type: ignore[arg-type]




@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.float16},
        {"torch_dtype": torch.float16},
        {"device_map": "cpu"},
        {"attn_implementation": "eager"},
        {"revision": "main"},
        {"tokenizer_kwargs": {"padding_side": "left"}},
        {"automodel": "AutoModel"},
    ],
)
def test_options_for_loading_do_not_go_with_a_loaded_model(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="loaded already"):
        LanguageModel(tiny_model("gpt2"), **options)


def test_options_that_change_the_config(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2", n_layer=1)
    before = len(lm.transformer.h)
    assert before == len(lm.dispatch().transformer.h) == 1


def test_an_option_that_nothing_knows(folder: Path) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        LanguageModel(folder / "gpt2", nonsense=3)


def test_a_call_outside_a_trace_loads_the_weights(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2")
    assert lm(torch.tensor([[3]])).logits.device.type == "cpu"


def test_a_run_without_a_trace_loads_the_weights(folder: Path) -> None:
    lm = LanguageModel(folder / "gpt2")
    assert lm.trace(PROMPT, trace=False).logits.device.type == "cpu"
    assert lm.dispatched


def test_what_was_attached_before_the_weights_are_there_stays():
    lm = LanguageModel("nnsight-graph/capitals")
    probe = lm.transformer.h[3].probe = torch.nn.Linear(96, 2)
    with lm.trace("The Eiffel Tower"):
        hidden = lm.transformer.h[3].mlp.output.save()
        probed = lm.transformer.h[3].probe(lm.transformer.h[3].mlp.output).save()
    assert torch.equal(probed, probe(hidden.value))


def test_what_the_loaded_model_has_no_more_is_not_attached():
    """A loader may put one module in the place of several."""
    before, loaded = (torch.nn.Sequential(torch.nn.Sequential()) for _ in range(2))
    before[0].add_module("old", torch.nn.Linear(2, 2, device="meta"))
    before[0].add_module("probe", torch.nn.Linear(2, 2))
    _carry_over(before, loaded)
    assert [name for name, _ in loaded[0].named_children()] == ["probe"]
