"""``LanguageModel(..., tuple_outputs=True)``: code for versions of transformers in which blocks return tuples runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import nnsight_graph as nnsight
from nnsight_graph import CacheDict, LanguageModel, NNsightError
from tests.huggingface.blocks import BLOCKS, call
from tests.huggingface.families import text, tiny_model, word_tokenizer
from tests.huggingface.tiny_families import build

pytestmark = pytest.mark.slow

IDS, OTHER = [3, 4, 5, 6], [7, 8, 9, 10]
FAMILIES = ("gpt2", "llama", "bloom")


def block_of(family: str):
    net = tiny_model(family)
    lm = LanguageModel(net, tokenizer=word_tokenizer(), tuple_outputs=True)
    return net, lm, lm.get(BLOCKS[family])


def hooked(net, family, change, ids=IDS):
    def hook(_module, _args, output):
        return change(output) if isinstance(output, torch.Tensor) else (change(output[0]), *output[1:])

    handle = net.get_submodule(BLOCKS[family]).register_forward_hook(hook)
    try:
        return call(net, ids).logits
    finally:
        handle.remove()


def zeroed(hidden: torch.Tensor) -> torch.Tensor:
    return torch.cat([hidden[:, :1] * 0, hidden[:, 1:]], 1)


def in_place(block):
    block.output[0][:, 0] = 0


def by_view(block):
    hidden = block.output[0]
    hidden[:, 0].mul_(0)


def augmented(block):
    block.output[0][:, :1] *= 0


def element(block):
    block.output[0] = zeroed(block.output[0])


def element_of_a_name(block):
    output = block.output
    output[0] = zeroed(output[0])


def whole(block):
    block.output = (zeroed(block.output[0]), *([] if len_is_one(block) else [block.output[1]]))


def len_is_one(block) -> bool:
    return type(block._module).__name__ != "BloomBlock"


WRITES = (in_place, by_view, augmented, element, element_of_a_name, whole)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_writes(family, write):
    net, lm, block = block_of(family)
    with torch.no_grad(), lm.trace(IDS):
        before = block.output[0].clone().save()
        write(block)
        after = block.output[0].save()
        logits = lm.output.logits.save()
    torch.testing.assert_close(logits.value, hooked(net, family, zeroed))
    torch.testing.assert_close(after.value, zeroed(before.value))
    assert before[:, 0].abs().sum() > 0


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grad", [False, True])
def test_writes_in_an_invoke(family, write, grad):
    net, lm, block = block_of(family)
    with torch.set_grad_enabled(grad), lm.trace() as tracer:
        with tracer.invoke(text(OTHER)):
            untouched = lm.output.logits.save()
        with tracer.invoke(text(IDS)):
            write(block)
            rows = block.output[0].save()
            changed = lm.output.logits.save()
    assert rows.shape == (1, 4, 16)
    torch.testing.assert_close(changed.value.detach(), hooked(net, family, zeroed), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(untouched.value.detach(), call(net, OTHER).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_writes_in_a_branch(write):
    net, lm, block = block_of("llama")
    for sign in (1, -1):
        with torch.no_grad(), lm.trace(IDS) as tracer:
            with tracer.cond(lm.model.embed_tokens.output.abs().sum() * sign > 0):
                write(block)
            logits = lm.output.logits.save()
        torch.testing.assert_close(logits.value, hooked(net, "llama", zeroed if sign > 0 else lambda hidden: hidden))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tuple_is_what_is_saved(family):
    _, lm, block = block_of(family)
    with torch.no_grad(), lm.trace(IDS):
        output = block.output.save()
        hidden = block.hidden_states.save()
        first, *_ = block.output
        first = first.save()
        inner = block.input.save()
    assert isinstance(output.value, tuple)
    assert torch.equal(output[0], hidden.value)
    assert torch.equal(first.value, hidden.value)
    assert isinstance(inner.value, torch.Tensor)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_and_steps(family):
    net, lm, block = block_of(family)
    with lm.trace(IDS):
        gradient = block.output[0].grad.save()
        expected = block.hidden_states.grad.save()
        lm.output.logits.sum().backward()
    assert torch.equal(gradient.value, expected.value)
    net.zero_grad()
    with torch.no_grad(), lm.generate(IDS, max_new_tokens=3, do_sample=False) as tracer:
        kept = nnsight.list().save()
        for step in tracer.iter[:]:
            block.output[0][:] = 0
            kept.append(block.output[0].abs().sum())
    assert [float(each) for each in kept] == [0, 0, 0]


def test_scans_calls_and_errors():
    _, lm, block = block_of("llama")
    with lm.scan(torch.tensor([IDS])):
        width = block.output[0].shape[-1]
    assert width == 16
    assert str(block.scanned.output[0]).startswith("float32[1, 4, 16]")
    with torch.no_grad(), lm.trace(IDS):
        hidden = block.call[0].output[0].save()
        block.call[0].output = (block.output[0] * 0,)
        zero = block.output[0].abs().sum().save()
    assert hidden.shape == (1, 4, 16)
    assert zero == 0
    with torch.no_grad(), lm.trace(IDS):
        block.output = block.output[0] * 0  # a tensor is fine, too
        zero = block.output[0].abs().sum().save()
    assert zero == 0
    with pytest.raises(TypeError, match=r"returns a tensor: its output takes \(tensor,\), not a tuple of Tensor, int"), lm.trace(IDS):
        block.output = (block.output[0], 1)


def test_only_blocks():
    net = tiny_model("llama")
    lm = LanguageModel(net, tuple_outputs=True)
    with torch.no_grad(), lm.trace(IDS):
        mlp, block = lm.model.layers[0].mlp.output.save(), lm.model.layers[-1].output.save()
    assert isinstance(mlp.value, torch.Tensor)
    assert isinstance(block.value, tuple)
    with torch.no_grad(), LanguageModel(net).trace(IDS):
        pass
    plain = LanguageModel(net)
    with torch.no_grad(), plain.trace(IDS):
        block = plain.model.layers[0].output.save()
    assert isinstance(block.value, torch.Tensor)


@pytest.mark.parametrize(("family", "count"), [("t5", 4), ("bert", 2), ("bart", 2), ("opt", 2), ("gpt_neox", 2)])
def test_blocks_of_other_families(family, count):
    lm = LanguageModel(tiny_model(family), tuple_outputs=True)
    assert len(lm._tree.shown) == count
    assert all(lm.get(path)._module is lm._module.get_submodule(path) for path in lm._tree.shown)


def test_caches(tmp_path: Path):
    _, lm, block = block_of("gpt2")
    with torch.no_grad(), lm.trace(IDS) as tracer:
        cache = tracer.cache()
        hidden = block.hidden_states.save()
    assert torch.equal(cache.model.transformer.h[0].output[0], hidden.value)
    assert isinstance(cache.model.transformer.h[0].mlp.output, torch.Tensor)
    with torch.no_grad(), lm.trace(IDS) as tracer:
        tracer.cache(to=tmp_path / "kept")
    assert torch.equal(CacheDict.load(tmp_path / "kept").model.transformer.h[0].output[0], hidden.value)


def test_with_further_names_and_weights_that_come_later():
    lm = LanguageModel("nnsight-graph/capitals", rename="standard", tuple_outputs=True)
    early = lm.layers[5]
    with torch.no_grad(), lm.trace("The Eiffel Tower is in the city of"):
        hidden = lm.layers[5].output[0][:, -1].save()
        old = lm.transformer.h[5].output[0].save()
    assert torch.equal(hidden.value, old[:, -1])
    assert lm.layers[5] is early


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_writes_in_steps(family, write):
    _, lm, block = block_of(family)
    kept = {}
    for name in ("plain", "open", "bounded"):
        with torch.no_grad(), lm.generate(IDS, max_new_tokens=3, do_sample=False) as tracer:
            seen, logits = nnsight.list().save(), nnsight.list().save()
            for step in tracer.iter[:] if name == "open" else tracer.iter[0:3]:
                if name == "plain":
                    block.hidden_states = zeroed(block.hidden_states)
                else:
                    write(block)
                seen.append(block.output[0][:, 0].abs().sum())
                logits.append(lm.lm_head.output)
        assert [float(each) for each in seen] == [0, 0, 0], name
        kept[name] = [each.clone() for each in logits]
    for one, other, plain in zip(kept["open"], kept["bounded"], kept["plain"], strict=True):
        torch.testing.assert_close(one, plain)
        torch.testing.assert_close(other, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_that_stay_and_skips(family):
    net, lm, block = block_of(family)
    with lm.edit() as edited:
        block.output[0][:, 0] = 0
    with torch.no_grad(), edited.trace(IDS):
        logits = edited.output.logits.save()
    torch.testing.assert_close(logits.value, hooked(net, family, zeroed))
    with torch.no_grad(), lm.trace(IDS):
        given = block.input if family != "bloom" else (block.input, None)
        block.skip(given)
        hidden = block.output[0].save()
        before = block.input.save()
    assert torch.equal(hidden.value, before.value)


def test_an_assignment_stands_on_its_own_line() -> None:
    _, lm, block = block_of("gpt2")
    with lm.trace([IDS]) as tracer:
        block.output = (block.output[0] + 1,)
    places = {line.rpartition("# ")[2] for line in str(tracer.graph).splitlines()}
    assert places == {f"test_tuple_outputs.py:{test_an_assignment_stands_on_its_own_line.__code__.co_firstlineno + 3}"}


@pytest.mark.parametrize("family", ["JambaForCausalLM", "ZambaForCausalLM", "OlmoHybridForCausalLM"])
def test_blocks_of_several_classes(family):
    if not hasattr(transformers, "OlmoHybridForCausalLM"):
        pytest.skip("transformers 4 runs Mamba blocks on a GPU alone")
    torch.manual_seed(0)
    net, ids, right = build(family).eval(), torch.tensor([[3, 4, 5], [6, 7, 8]]), []
    hooks = [
        block.register_forward_hook(lambda _module, _args, output: right.append(output[0] if isinstance(output, tuple) else output))
        for block in net.model.layers
    ]
    with torch.no_grad():
        net(input_ids=ids)
    for hook in hooks:
        hook.remove()
    assert len({type(block) for block in net.model.layers}) > 1
    lm = LanguageModel(net, tuple_outputs=True)
    with torch.no_grad(), lm.trace(ids):
        found = [block.output[0].save() for block in lm.model.layers]
    assert [tuple(h.shape) for h in found] == [tuple(h.shape) for h in right]
    assert all(torch.allclose(h, by_hand, atol=1e-5) for h, by_hand in zip(found, right, strict=True))


def test_a_model_without_blocks_is_refused():
    class Flat(transformers.PreTrainedModel):
        config_class = transformers.GPT2Config

        def __init__(self, config):
            super().__init__(config)
            self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)])

    with pytest.raises(ValueError, match="Flat has no list of blocks") as caught:
        LanguageModel(Flat(transformers.GPT2Config()), tuple_outputs=True)
    assert isinstance(caught.value, NNsightError)
