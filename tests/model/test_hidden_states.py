"""``module.hidden_states``: the residual stream, whether a block returns a tensor or a tuple."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, NNsight, OutOfOrderError, RecordError
from tests.huggingface.blocks import BLOCKS, call
from tests.huggingface.families import text, tiny_model, word_tokenizer

IDS, OTHER = [3, 4, 5, 6], [7, 8, 9, 10]
FAMILIES = ("gpt2", "bloom", "t5")
NAMES = {"t5": ("encoder.block.0", "encoder.block.1")}


def first_block(family: str) -> tuple[Any, LanguageModel, Any, dict[str, Any]]:
    net = tiny_model(family)
    named = {"decoder_input_ids": torch.tensor([[0]])} if family == "t5" else {}
    lm = LanguageModel(net, tokenizer=word_tokenizer())
    return net, lm, lm.get(BLOCKS[family]), named


def hooked(net: Any, family: str, change: Any) -> Any:
    """The model's logits where ``change(hidden)`` stands for what the first block passes on, by a hook of PyTorch."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return change(output) if isinstance(output, torch.Tensor) else (change(output[0]), *output[1:])

    handle = net.get_submodule(BLOCKS[family]).register_forward_hook(hook)
    try:
        return call(net, IDS).logits
    finally:
        handle.remove()


def halved(hidden: torch.Tensor) -> torch.Tensor:
    return torch.cat([hidden[:, :1] * 0.5, hidden[:, 1:]], 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_edits_and_assignments(family):
    net, lm, block, named = first_block(family)
    seen: list[Any] = []
    hooked(net, family, lambda hidden: seen.append(hidden.clone()) or hidden)
    with torch.no_grad(), lm.trace(IDS, **named):
        read = block.hidden_states.save()
        plain = lm.output.logits.save()
    assert torch.equal(read, seen[0])
    assert torch.equal(plain, call(net, IDS).logits)
    with torch.no_grad(), lm.trace(IDS, **named):
        block.hidden_states[:, 0] *= 0.5
        edited = lm.output.logits.save()
    with torch.no_grad(), lm.trace(IDS, **named):
        block.hidden_states = halved(block.hidden_states)
        kind = nnsight.apply(type, block.output).save()
        assigned = lm.output.logits.save()
    with torch.no_grad(), lm.trace(IDS, **named):
        block.hidden_states += 1
        augmented = lm.output.logits.save()
    expected = hooked(net, family, halved)
    assert not torch.allclose(expected, plain.value)
    torch.testing.assert_close(edited.value, expected)
    torch.testing.assert_close(assigned.value, expected)
    torch.testing.assert_close(augmented.value, hooked(net, family, lambda hidden: hidden + 1))
    assert kind is type(tiny_output(net, family))


@pytest.mark.parametrize("family", FAMILIES)
def test_lines_see_the_edits_above_them(family):
    _, lm, block, named = first_block(family)
    with torch.no_grad(), lm.trace(IDS, **named):
        before = block.hidden_states.clone().save()
        block.hidden_states[:] = 2
        between = block.hidden_states.clone().save()
        block.hidden_states = block.hidden_states * 2
        after = block.hidden_states.save()
    assert before.abs().max() != 2
    assert (between == 2).all()
    assert (after == 4).all()


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_after_an_element_was_replaced(family):
    net, lm, block, _ = first_block(family)
    if not isinstance(tiny_output(net, family), tuple):
        pytest.skip("this block returns a tensor")
    with torch.no_grad(), lm.trace(IDS):
        _ = block.hidden_states
        block.output[0] = torch.zeros(1, 4, 16)
        after = block.hidden_states.save()
    assert (after == 0).all()


def tiny_output(net: Any, family: str) -> Any:
    seen: list[Any] = []
    handle = net.get_submodule(BLOCKS[family]).register_forward_hook(lambda _m, _a, output: seen.append(output))
    call(net, IDS)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_an_invoke(family):
    net, lm, block, named = first_block(family)
    expected = hooked(net, family, lambda hidden: hidden + 1)
    for edit in (True, False):
        with torch.no_grad(), lm.trace() as tracer:
            with tracer.invoke(text(OTHER), **named):
                untouched = lm.output.logits.save()
            with tracer.invoke(text(IDS), **named):
                if edit:
                    block.hidden_states[:] += 1
                else:
                    block.hidden_states = block.hidden_states + 1
                rows = block.hidden_states.save()
                changed = lm.output.logits.save()
        assert rows.shape[0] == 1
        torch.testing.assert_close(changed.value, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(untouched.value, call(net, OTHER).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients(family):
    net, lm, block, named = first_block(family)
    kept: list[torch.Tensor] = []

    def hook(_module: Any, _args: Any, output: Any) -> None:
        kept.append(output if isinstance(output, torch.Tensor) else output[0])
        kept[0].retain_grad()

    handle = net.get_submodule(BLOCKS[family]).register_forward_hook(hook)
    with torch.enable_grad():
        net(torch.tensor([IDS]), **named).logits.sum().backward()
    handle.remove()
    with lm.trace(IDS, **named):
        gradient = block.hidden_states.grad.save()
        lm.output.logits.sum().backward()
    torch.testing.assert_close(gradient.value, kept[0].grad)
    net.zero_grad()
    with lm.trace(IDS, **named):
        with lm.output.logits.sum().backward():
            block.hidden_states.grad[:] = 0
            zero = block.hidden_states.grad.clone().save()
    assert (zero == 0).all()
    net.zero_grad()


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_gradients_of_rows(family):
    _, lm, block, _ = first_block(family)
    with lm.trace(IDS):
        alone = block.hidden_states.grad.save()
        lm.output.logits.sum().backward()
    with lm.trace() as tracer:
        with tracer.invoke(text(OTHER)):
            block.hidden_states[:] *= 2
        with tracer.invoke(text(IDS)):
            rows = block.hidden_states.grad.save()
            lm.output.logits.sum().backward()
    torch.testing.assert_close(rows.value, alone.value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_steps(family):
    _, lm, block, _ = first_block(family)
    with torch.no_grad(), lm.generate(IDS, max_new_tokens=3, do_sample=False) as tracer:
        shapes, kept = nnsight.list().save(), nnsight.list().save()
        for step in tracer.iter[:]:
            shapes.append(block.hidden_states.shape)
            block.hidden_states = block.hidden_states * 0
            kept.append(block.hidden_states.abs().sum())
        last = block.hidden_states.save()
    assert [tuple(shape) for shape in shapes] == [(1, 4, 16), (1, 1, 16), (1, 1, 16)]
    assert [float(each) for each in kept] == [0, 0, 0]
    assert last.shape == (1, 1, 16)
    with torch.no_grad(), lm.generate(IDS, max_new_tokens=3, do_sample=False) as tracer:
        with tracer.iter[1]:
            block.hidden_states[:] = 3
            one = block.hidden_states.save()
    assert one.shape == (1, 1, 16)
    assert (one == 3).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_scans_and_shapes(family):
    _, lm, block, named = first_block(family)
    ids = torch.tensor([IDS])
    with lm.scan(ids, **named):
        width = block.hidden_states.shape[-1]
    assert width == 16
    with lm.trace(ids, **named):
        for position in range(block.hidden_states.shape[1]):
            block.hidden_states[:, position] = position
        hidden = block.hidden_states.save()
    assert hidden[0, :, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_a_line_that_would_fail_is_refused_before_the_run(family):
    _, lm, block, _ = first_block(family)
    runs: list[int] = []
    handle = lm.register_forward_pre_hook(lambda *_: runs.append(1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), lm.trace(torch.tensor([IDS]), validate=True, scan=True):
        block.hidden_states = block.hidden_states @ torch.ones(3, 3)
    handle.remove()
    assert runs == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_write_that_comes_too_late(family):
    _, lm, block, named = first_block(family)
    later = lm.get(BLOCKS[family].removesuffix("0") + "1")
    with pytest.raises(OutOfOrderError), lm.trace(IDS, **named):
        block.hidden_states = later.hidden_states


def test_branches():
    _, lm, block, _ = first_block("bloom")
    for sign in (1, -1):
        with torch.no_grad(), lm.trace(IDS):
            if (block.hidden_states.abs().sum() * sign) > 0:
                block.hidden_states = block.hidden_states * 0
            hidden = block.hidden_states.save()
        assert bool((hidden == 0).all()) == (sign > 0)


class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.GRU(2, 2)

    def forward(self, x):
        return self.inner(self.inner(x)[0])


def test_calls():
    model = NNsight(Twice())
    with model.trace(torch.ones(3, 2)):
        model.inner.call[0].hidden_states = torch.zeros(3, 2)
        model.inner.call[1].hidden_states += 1
        first, second = model.inner.call[0].hidden_states.save(), model.inner.call[1].hidden_states.save()
    assert (first == 0).all()
    with torch.no_grad():
        torch.testing.assert_close(second.value, model.inner._module(torch.zeros(3, 2))[0] + 1)


class Other(torch.nn.Module):
    def forward(self, x):
        return {"text": "no tensor", "x": x}


def test_outputs_without_hidden_states():
    model = NNsight(Other())
    with pytest.raises(TypeError, match=r"this module returns a dict: it has no \.hidden_states"), model.trace(torch.ones(1)):
        model.hidden_states.save()
    model = NNsight(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"\.hidden_states takes a tensor, not a tuple of Tensor"), model.trace(torch.ones(1, 2)):
        model.hidden_states = (torch.ones(1, 2),)
    with pytest.raises(RecordError, match="inside a trace"):
        _ = model.hidden_states


@pytest.mark.parametrize("output", [{"a": 1, "b": 2}, [1, 2], (1, 2)])
def test_containers(output):
    class Made(torch.nn.Module):
        def forward(self, x):
            items = {key: x * number for key, number in output.items()} if isinstance(output, dict) else [x * n for n in output]
            return tuple(items) if isinstance(output, tuple) else items

    model = NNsight(Made())
    with model.trace(torch.ones(2)):
        first = model.hidden_states.clone().save()
        model.hidden_states = torch.zeros(2)
        whole = model.output.save()
    assert first.tolist() == [1, 1]
    values = list(whole.values()) if isinstance(output, dict) else list(whole)
    assert [value.tolist() for value in values] == [[0, 0], [2, 2]]


def test_a_submodule_of_that_name():
    net = torch.nn.Module()
    net.hidden_states = torch.nn.Linear(2, 2)
    assert NNsight(net).E_hidden_states.path == NNsight(net).get("hidden_states").path == "model.hidden_states"
