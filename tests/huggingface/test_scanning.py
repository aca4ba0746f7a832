"""Scans of models of many families: every site has what a real forward delivers there, and the model stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from accelerate import cpu_offload

from nnsight_graph import LanguageModel
from nnsight_graph.graph import Site
from nnsight_graph.huggingface.scanning import GenerationStep, forward_of
from nnsight_graph.model.scanning import sites
from nnsight_graph.run.scan import PLAIN_FORWARD, Scan, resized, scan, varying
from tests.huggingface.families import FAMILIES, supports, tiny_model
from tests.run.untouched import by_hooks, differing, state

pytestmark = pytest.mark.slow

FIVE = int(transformers.__version__.split(".")[0]) >= 5
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
MASKS = {"none": None, "ones": torch.ones_like(IDS), "padded": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])}
CAUSAL = ["gpt2", "llama", "opt", "bloom", "gpt_neox"]
SCALING = {"rope_theta": 10000.0} if FIVE else {}

every_mask = pytest.mark.parametrize("mask", MASKS)
every_attention = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def arguments(mask: str, ids: torch.Tensor = IDS, **more: Any) -> dict[str, Any]:
    return {"input_ids": ids, **more} if MASKS[mask] is None else {"input_ids": ids, "attention_mask": MASKS[mask], **more}


def scanned(model: Any, kwargs: dict[str, Any]) -> Scan:
    """A scan, which must leave the model alone."""
    before = state(model)
    found = scan(model, (), kwargs, forward_of(model, kwargs))
    assert state(model) == before
    return found


def scaled(kind: str, family: str = "llama", **more: Any) -> Any:
    """A model with rotary positions that look at how long the input is."""
    name = "rope_parameters" if FIVE else "rope_scaling"
    return tiny_model(family, **{name: {**SCALING, "rope_type": kind, "factor": 2.0, **more}}, original_max_position_embeddings=8)


def mixtral() -> Any:
    sizes = {**FAMILIES["llama"][1], "num_local_experts": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes)).eval()


@every_mask
@every_attention
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bart"])
def test_every_site_has_what_a_real_forward_delivers(family: str, attention: str, mask: str) -> None:
    if not supports(family, attention):
        pytest.skip(f"{family} has no {attention}")
    model = tiny_model(family, attention)
    kwargs = arguments(mask, **({"decoder_input_ids": IDS[:, :2]} if family == "t5" else {}))
    found = scanned(model, kwargs)
    wrong = differing(found, by_hooks(model, lambda: model(**kwargs)))
    if family == "opt" and mask == "ones" and FIVE:  # it is given none where it looks at the numbers, and makes ones of its own
        assert wrong in ([], ["model.decoder.embed_positions.inputs"])
    else:
        assert wrong == []


@every_mask
@pytest.mark.parametrize("length", [4, 12])
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_positions_that_grow_are_scanned(kind: str, length: int, mask: str) -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = scaled(kind, **({**factors, "original_max_position_embeddings": 8} if kind == "longrope" else {}))
    kwargs = {"input_ids": IDS.repeat(1, length // 4)}
    if MASKS[mask] is not None:
        kwargs["attention_mask"] = MASKS[mask].repeat(1, length // 4)
    assert differing(scanned(model, kwargs), by_hooks(model, lambda: model(**kwargs))) == []
    assert differing(scanned(model, kwargs), by_hooks(model, lambda: model(**kwargs))) == []  # its frequencies may have grown


@every_mask
def test_routing_to_experts(mask: str) -> None:
    model, kwargs = mixtral(), arguments(mask)
    found = scanned(model, kwargs)
    if FIVE:
        assert differing(found, by_hooks(model, lambda: model(**kwargs))) == []
    else:  # transformers 4 asks how many tokens each expert has
        assert (found.at, found.blind) == ("model.layers.0.block_sparse_moe", True)
        assert found.value(Site("model.layers.0.self_attn", "output"))[0].shape == (2, 4, 16)


def test_states_that_transformers_collects_by_hooks_are_there() -> None:
    model = tiny_model("gpt2")
    kwargs = arguments("none", output_hidden_states=True)
    real = model(**kwargs)
    found = scanned(model, kwargs)
    assert [spec.shape for spec in found.value(Site("", "result")).hidden_states] == [h.shape for h in real.hidden_states]
    assert found.hooked == ()


@pytest.mark.parametrize("known", [True, False])
def test_states_are_there_in_a_plain_scan_before_and_after_a_call(known: bool) -> None:
    """Transformers puts its hooks on a model in the first call, and marks the model."""
    model = tiny_model("llama")
    kwargs = arguments("none", output_hidden_states=True)
    forward = forward_of(model, kwargs) if known else PLAIN_FORWARD
    before = scan(model, (), kwargs, forward).value(Site("", "result")).hidden_states
    real = model(**kwargs).hidden_states
    after = scan(model, (), kwargs, forward).value(Site("", "result")).hidden_states
    assert [spec.shape for spec in before] == [spec.shape for spec in after] == [h.shape for h in real]


@pytest.mark.parametrize("step", [0, 1])
@every_mask
@every_attention
@pytest.mark.parametrize("family", [*CAUSAL, "t5"])
def test_a_step_of_generation(family: str, attention: str, mask: str, step: int) -> None:
    if not supports(family, attention):
        pytest.skip(f"{family} has no {attention}")
    model, kwargs = tiny_model(family, attention), arguments(mask)
    model.generation_config.eos_token_id = None
    before = state(model)
    with torch.no_grad():
        found = scan(model, (), kwargs, GenerationStep(kwargs, step))
    assert state(model) == before
    real = by_hooks(model, lambda: model.generate(**kwargs, max_new_tokens=step + 1, do_sample=False))
    if family == "t5":  # its encoder has run before the first step
        real = {site: value for site, value in real.items() if not site.path.startswith("encoder")}
    assert differing(found, real) == []


def test_a_replaced_forward_runs_on_the_twin() -> None:
    model = tiny_model("gpt2").requires_grad_(False)
    kwargs = arguments("none")
    plain = by_hooks(model, lambda: model(**kwargs))
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert differing(scanned(model, kwargs), plain) == []
    assert differing(scanned(model, kwargs), by_hooks(model, lambda: model(**kwargs))) == []


def test_a_model_without_weights() -> None:
    kwargs = arguments("none")
    bare = LanguageModel("nnsight-graph/capitals")
    found = scanned(bare._module, kwargs)
    assert not bare.dispatched
    bare.dispatch()
    assert differing(found, by_hooks(bare._module, lambda: bare._module(**kwargs))) == []


def test_a_mask_of_ones_and_one_with_zeros_are_different_calls() -> None:
    model = tiny_model("llama", "sdpa")
    ones, padded = scanned(model, arguments("ones")), scanned(model, arguments("padded"))
    layer = Site("model.layers.0", "inputs")
    assert ones.value(layer)[1]["attention_mask"] is None
    assert padded.value(layer)[1]["attention_mask"].shape == (2, 1, 4, 4)
    assert scanned(model, arguments("ones")) is ones


def test_a_mistake_in_the_arguments_ends_the_scan() -> None:
    model = tiny_model("gpt2")
    found = scanned(model, {"input_ids": IDS, "position_ids": torch.zeros(2, 3, dtype=torch.long)})
    assert (found.complete, found.blind) == (False, False)


def test_which_dimensions_hang_on_the_length() -> None:
    model, kwargs = tiny_model("gpt2"), arguments("ones")
    forward = forward_of(model, kwargs)
    longer = scan(model, (), resized(kwargs, 1), forward)
    site = Site("transformer.h.0", "output")
    assert varying(scan(model, (), kwargs, forward).value(site), longer.value(site)) in ((False, True, False), ((False, True, False),))


def test_other_models_are_scanned_plainly() -> None:
    assert forward_of(torch.nn.Linear(2, 2), {}) is PLAIN_FORWARD


def test_the_sites_of_a_model_as_a_table() -> None:
    model = tiny_model("gpt2")
    lm = LanguageModel(model)
    table = sites(lm, scanned(model, arguments("none")), "*.mlp")
    assert [row.name for row in table] == [f"model.transformer.h.{i}.mlp.{point}" for i in (0, 1) for point in ("input", "output")]
    assert str(table).splitlines()[1] == "model.transformer.h.0.mlp.output  float32[2, 4, 16] on cpu"
    assert "does not reach" in str(sites(lm, scanned(model, arguments("none")), "*.h"))
    assert str(sites(lm, scanned(model, arguments("none")), "nothing")) == "no site matches"
