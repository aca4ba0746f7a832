"""Containers that a trace only has a copy of, traced keys, loops in loops: right, or refused at the line."""

from __future__ import annotations

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, NNsight, RecordError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def net() -> NNsight:
    torch.manual_seed(0)
    return NNsight(torch.nn.Linear(4, 4))


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


def sums(net: NNsight) -> list[float]:
    return [row.sum().item() for row in net._module(X)]


def test_a_list_in_a_dict_is_the_list_that_a_loop_fills(net: NNsight) -> None:
    with net.trace(X):
        found: list[float] = []
        by_name = {"found": found}
        for row in net.output:
            found.append(row.sum().item())
        kept = nnsight.save(by_name)
        size = nnsight.apply(len, by_name["found"]).save()
    assert kept["found"] is found
    assert found == sums(net)
    assert size == 3


def test_items_of_a_list_of_lists_are_filled_by_plain_keys(net: NNsight) -> None:
    with net.trace(X):
        lists: list[list[float]] = [[], [], []]
        for place, row in enumerate(net.output):
            lists[place] += [row.sum().item()]
        nnsight.save(lists)
    assert lists == [[value] for value in sums(net)]


def test_a_container_chosen_by_a_traced_value_is_not_changed_in_a_copy(net: NNsight) -> None:
    kept: dict[str, list[float]] = {"high": [], "low": []}
    with pytest.raises(RecordError, match="only has a copy"):
        with net.trace(X):
            for row in net.output:
                key = "high" if row.sum() > 0 else "low"
                kept[key].append(row.sum().item())
    first: list[int] = []
    second: list[int] = []
    with pytest.raises(RecordError, match="only has a copy"):
        with net.trace(X):
            chosen = first if net.output.sum() > 0 else second
            chosen.append(1)


def test_a_traced_value_is_no_key(net: NNsight, lm: LanguageModel) -> None:
    counts = dict.fromkeys(range(4), 0)
    with pytest.raises(RecordError, match="no key of a plain dict"):
        with net.trace(X):
            counts[net.output[0].argmax().item()] += 1
    with pytest.raises(RecordError, match="no key of a plain dict"):
        with lm.generate(PROMPT, max_new_tokens=2) as tracer:
            for step in tracer.iter[:]:
                lm.transformer.h[5].mlp.output[:, -1] *= {1: 0.0}.get(step, 1.0)


def test_what_shapes_tell_is_a_key(net: NNsight) -> None:
    with net.trace(X):
        name = {4: "four"}[net.output.shape[-1]]
        text = f"{net.output.shape[0]} rows"
        out = net.output.save()
    assert (name, text, out.shape) == ("four", "3 rows", (3, 4))


def test_a_number_that_is_not_there_has_no_text(lm: LanguageModel) -> None:
    with pytest.raises(RecordError, match="has no text yet"):
        with lm.generate(PROMPT, max_new_tokens=2) as tracer:
            for step in tracer.iter[:]:
                print({f"step {step}": lm.transformer.h[5].mlp.output.save()})


def test_an_open_loop_over_steps_in_another(lm: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"Give one of them an end: iter\[:n\]"):
        with lm.generate(PROMPT, max_new_tokens=2) as tracer:
            with tracer.iter[:]:
                with tracer.iter[:] as inner:
                    inner.save()


def test_one_name_in_two_open_loops(lm: LanguageModel) -> None:
    def run(steer: bool) -> tuple[torch.Tensor, torch.Tensor]:
        block = lm.transformer.h[6].mlp
        with lm.generate(max_new_tokens=3) as tracer:
            for _ in range(2):
                with tracer.invoke(PROMPT):
                    for _step in tracer.iter[:]:
                        size = block.output[:, -1].norm() * int(steer)
                        block.output[:, -1] += size * 0.1
                    ids = lm.generator.output.save()
        return ids.value, size

    steered, plain = run(True)[0], run(False)[0]
    kept = []

    def hook(_module: torch.nn.Module, _args: object, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, -1] += hidden[:, -1].norm() * 0.1  # type: ignore[index]
        kept.append(hidden)

    inputs = lm.tokenizer(PROMPT, return_tensors="pt")
    assert plain.tolist() == lm._module.generate(**inputs, max_new_tokens=3, do_sample=False).tolist()
    handle = lm._module.transformer.h[6].mlp.register_forward_hook(hook)
    try:
        assert steered.tolist() == lm._module.generate(**inputs, max_new_tokens=3, do_sample=False).tolist()
    finally:
        handle.remove()


def test_a_walrus_in_the_condition_of_a_while(net: NNsight) -> None:
    with pytest.raises(RecordError, match="the condition of a `while` assigns a name"):
        with net.trace(X):
            left = net.output.abs().sum()
            while (left := left / 2) >= 1:
                pass


def test_an_import_in_a_block_that_is_rewritten(net: NNsight) -> None:
    with net.trace(X):
        import math
        from collections import Counter as Count

        found = []
        for row in net.output:
            if row.sum() > 0:
                found.append(row.sum().item() * math.pi)
        nnsight.save(found)
        names = Count("aab")
    assert found == [value * 3.141592653589793 for value in sums(net) if value > 0]
    assert names["a"] == 2


def test_einops_and_isinstance_ask_for_the_class(lm: LanguageModel) -> None:
    block = lm.transformer.h[4]
    real = lm._module.transformer.h[4].attn(torch.zeros(1, 2, 96))
    with lm.trace(PROMPT):
        is_tuple = isinstance(block.attn.output, tuple)
        is_tensor = isinstance(block.mlp.output, torch.Tensor)
        block.mlp.output.save()
    assert (is_tuple, is_tensor) == (isinstance(real, tuple), True)
