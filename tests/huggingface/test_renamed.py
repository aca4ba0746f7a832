"""What transformers 5 has renamed, or has no more, against 4: read from both versions' signatures, and taken under both names."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import transformers

from nnsight_graph import LanguageModel, RecordError
from nnsight_graph.huggingface.needs import CACHES
from tests.huggingface.families import FAMILIES, tiny_model

RENAMED = {"past_key_values": "cache", "cache_params": "cache"}
DOCUMENTED_ELSEWHERE = {"output_attentions", "output_hidden_states", "return_dict"}  # TransformersKwargs, and a decorator
GONE = {"cache_position", "head_mask", "decoder_head_mask", "cross_attn_head_mask"}
NEW = {"logits_to_keep"}
GENERATE_GONE = {"use_model_defaults"}
OPEN = {"kwargs", "deprecated_arguments"}  # **kwargs

_LINES = (Path(__file__).parent / "signatures.tsv").read_text(encoding="utf-8").splitlines()
_ROWS = [line.split("\t") for line in _LINES if not line.startswith("#")]
SIGNATURES = {(version, what): set(names.split()) - OPEN for version, what, names in _ROWS}
FORWARDS = sorted({what for _, what in SIGNATURES if what.endswith(".forward")})
VERSION = ".".join(transformers.__version__.split(".")[:2])


def installed(what: str) -> set[str]:
    if what == "GenerationConfig":
        return {name for name in transformers.GenerationConfig().to_dict() if name[0] != "_"} - {"transformers_version"}
    kind, _, method = what.rpartition(".")
    owner = getattr(transformers, kind) if kind else transformers.GenerationMixin
    return set(inspect.signature(getattr(owner, method)).parameters) - OPEN - {"self"}


@pytest.mark.parametrize("what", [*FORWARDS, "generate", "GenerationConfig"])
def test_the_record_is_what_is_installed(what: str) -> None:
    if (VERSION, what) not in SIGNATURES:
        pytest.skip(f"no record of transformers {VERSION}")
    assert SIGNATURES[VERSION, what] == installed(what)


@pytest.mark.parametrize("what", FORWARDS)
def test_the_list_of_what_was_renamed_is_complete(what: str) -> None:
    before, after = SIGNATURES["4.57", what], SIGNATURES["5.24", what]
    renamed = {name for name in before - after if RENAMED.get(name) in after}
    assert before - after - renamed <= GONE | DOCUMENTED_ELSEWHERE
    assert after - before <= set(RENAMED.values()) | NEW
    assert {*RENAMED, *RENAMED.values()} == set(CACHES)


def test_the_list_of_arguments_of_generate_is_complete() -> None:
    assert SIGNATURES["4.57", "generate"] - SIGNATURES["5.24", "generate"] == GENERATE_GONE
    assert SIGNATURES["5.24", "generate"] <= SIGNATURES["4.57", "generate"]
    assert SIGNATURES["4.57", "GenerationConfig"] - SIGNATURES["5.24", "GenerationConfig"] == {"return_legacy_cache"}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_both_versions(family: str) -> None:
    """Renamed names are both taken; what is documented elsewhere passes; what is gone is refused, where it is gone."""
    module = tiny_model(family)
    lm, ids = LanguageModel(module), torch.tensor([[3, 4, 5]])
    for name in [*DOCUMENTED_ELSEWHERE, *CACHES[:2]]:
        lm.trace(ids, trace=False, **{name: None})
    takes = installed(f"{type(module).__name__}.forward")
    for name in GONE - takes:
        with pytest.raises(RecordError, match=f"'{name}' is taken by nothing"):
            lm.trace(ids, **{name: None})
    for name in GONE & takes:
        lm.trace(ids, trace=False, **{name: None})


@pytest.mark.slow
def test_no_call_of_the_library_uses_an_old_name() -> None:
    """Warnings are errors here: scans of forwards and of both steps of a generation, before the weights are there, and the runs."""
    lm = LanguageModel("nnsight-graph/capitals")
    with lm.generate("Rome is", max_new_tokens=2, scan=True, validate=True) as tracer:
        with tracer.iter[1]:
            second = lm.lm_head.output.save()
        result = tracer.result.save()
    with lm.trace("Rome is", scan=True, validate=True, use_cache=True):
        logits = lm.lm_head.output.save()
    assert second.shape[1] == 1
    assert result[0, -2] == logits[0, -1].argmax()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_scans_of_steps_use_the_new_name(family: str) -> None:
    lm = LanguageModel(tiny_model(family))
    with lm.generate([[3, 4, 5]], max_new_tokens=2, min_new_tokens=2, scan=True, validate=True) as tracer, tracer.iter[1]:
        logits = lm.lm_head.output.save()
    assert logits.shape[1] == 1
