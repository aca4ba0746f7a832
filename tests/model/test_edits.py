"""Persistent edits against the same lines written in every trace, and by hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, NNsight, RecordError
from tests.huggingface.families import tiny_model
from tests.run.untouched import state

EIFFEL, COLOSSEUM = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
X = torch.linspace(-1, 1, 12).reshape(3, 4)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def model(net: nn.Sequential) -> NNsight:
    return NNsight(net)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


def hooked(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None], run: Callable[[], Any]) -> Any:
    handle = module.register_forward_hook(lambda _module, _args, output: change(output))
    try:
        with torch.no_grad():
            return run()
    finally:
        handle.remove()


def direction(lm: LanguageModel) -> torch.Tensor:
    with lm.trace(EIFFEL):
        last = lm.transformer.h[7].mlp.output[:, -1].save()
    return last.value.detach() * 3


def answer(lm: Any, model: Any, prompt: str = COLOSSEUM) -> str:
    with model.trace(prompt):
        token = lm.lm_head.output[0, -1].argmax().save()
    return str(lm.tokenizer.decode(token))


@pytest.mark.parametrize("name", ["model", "edited"])
def test_a_view_is_edited_and_the_model_is_not(net: nn.Sequential, model: NNsight, name: str) -> None:
    before = state(net)
    with model.edit() as edited:
        {"model": model, "edited": edited}[name][0].output[:, 0] = 0
    with edited.trace(X):
        changed = edited.output.save()
    with model.trace(X):
        plain = model.output.save()
    hidden = net[0](X)
    assert torch.equal(changed, net[1:](torch.cat([hidden[:, :1] * 0, hidden[:, 1:]], 1)))
    assert torch.equal(plain, net(X))
    assert edited._module is model._module
    assert state(net) == before
    assert torch.equal(edited(X), changed.value)
    assert torch.equal(edited.trace(X, trace=False), changed.value)


def test_in_place_until_it_is_cleared(net: nn.Sequential, model: NNsight) -> None:
    with model.edit(inplace=True) as edited:
        model.output = model.output * 2
    assert edited is model
    with model.trace(X):
        doubled = model.output.save()
    model.clear_edits()
    with model.trace(X):
        plain = model.output.save()
    assert torch.equal(doubled, net(X) * 2)
    assert torch.equal(plain, net(X))


def test_edits_compose_in_order_and_traces_see_them(net: nn.Sequential, model: NNsight) -> None:
    with model.edit() as first:
        model[0].output = model[0].output + 1
    with first.edit() as second:
        first[0].output = first[0].output * 2
    with second.trace(X):
        seen = model[0].output.clone().save()
        model[0].output = model[0].output - 3
        out = model.output.save()
    hidden = (net[0](X) + 1) * 2
    assert torch.equal(seen, hidden)
    assert torch.equal(out, net[1:](hidden - 3))
    with first.trace(X):
        once = model[0].output.save()
    assert torch.equal(once, net[0](X) + 1)


def test_it_is_a_program_not_its_values(net: nn.Sequential, model: NNsight) -> None:
    with model.edit() as edited:
        model[1].output = model[0].output.abs() + model[1].output.mean()
    for scale in (1.0, -2.0):
        with edited.trace(X * scale):
            out = edited.output.save()
        hidden = net[0](X * scale)
        assert torch.equal(out, net[2](hidden.abs() + net[1](hidden).mean()))


def test_with_attached_modules_and_python_control(net: nn.Sequential, model: NNsight) -> None:
    model[0].probe = nn.Linear(4, 4)
    with model.edit() as edited:
        hidden = model[0].output
        if hidden.sum() > 0:
            model[0].output = model[0].probe(hidden)
        else:
            model[0].output = hidden * 0
    for scale in (1.0, -1.0):
        x = X + scale * 5
        with edited.trace(x):
            out = edited.output.save()
        hidden = net[0](x)
        assert torch.equal(out, net[1:3](model[0].probe._module(hidden) if hidden.sum() > 0 else hidden * 0))


def test_every_step_of_a_generation(lm: LanguageModel) -> None:
    vector = direction(lm)
    with lm.edit() as edited:
        lm.transformer.h[7].mlp.output[:, -1] += vector
    mlp, inputs = lm._module.transformer.h[7].mlp, lm.tokenizer(COLOSSEUM, return_tensors="pt")

    def change(output: torch.Tensor) -> None:
        output[:, -1] += vector

    expected = hooked(mlp, change, lambda: lm._module.generate(**inputs, max_new_tokens=4, do_sample=False))
    with edited.generate(COLOSSEUM, max_new_tokens=4) as tracer:
        seen = nnsight.list().save()
        for _ in tracer.iter[:]:
            seen.append(lm.lm_head.output[0, -1].argmax())
        ids = tracer.result.save()
    assert ids.tolist() == expected.tolist()
    assert torch.stack(list(seen)).tolist() == expected[0, inputs["input_ids"].shape[1] :].tolist()
    with lm.edit() as first_step_only:
        vector_now = vector * 1
        lm.transformer.h[7].mlp.output[:, -1] = vector_now
    with first_step_only.generate(COLOSSEUM, max_new_tokens=1) as tracer:
        one = tracer.result.save()
    def put(output: torch.Tensor) -> None:
        output[:, -1] = vector

    assert one.tolist() == hooked(mlp, put, lambda: lm._module.generate(**inputs, max_new_tokens=1, do_sample=False)).tolist()


def test_steps_that_an_edit_names(lm: LanguageModel) -> None:
    vector = direction(lm)
    editor = lm.edit()
    with editor as edited:
        with editor.iter[1]:
            lm.transformer.h[7].mlp.output[:, -1] += vector
    mlp, inputs, calls = lm._module.transformer.h[7].mlp, lm.tokenizer(COLOSSEUM, return_tensors="pt"), []

    def change(output: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) == 2:
            output[:, -1] += vector

    expected = hooked(mlp, change, lambda: lm._module.generate(**inputs, max_new_tokens=3, do_sample=False))
    with edited.generate(COLOSSEUM, max_new_tokens=3) as tracer:
        ids = tracer.result.save()
    assert ids.tolist() == expected.tolist()


def test_invokes_sessions_scans_and_gradients(lm: LanguageModel) -> None:
    vector = direction(lm)
    with lm.edit() as edited:
        lm.transformer.h[7].mlp.output[:, -1] = vector
    alone = [answer(lm, edited, prompt) for prompt in (EIFFEL, COLOSSEUM)]
    with edited.trace() as tracer:
        tokens = []
        for prompt in (EIFFEL, COLOSSEUM):
            with tracer.invoke(prompt):
                tokens.append(lm.lm_head.output[0, -1].argmax().save())
    assert [lm.tokenizer.decode(token.value) for token in tokens] == alone
    with lm.session():
        with edited.trace(COLOSSEUM):
            first = lm.lm_head.output[0, -1].argmax().save()
        with lm.trace(COLOSSEUM):
            second = lm.lm_head.output[0, -1].argmax().save()
    assert [lm.tokenizer.decode(first), lm.tokenizer.decode(second)] == [alone[1], answer(lm, lm)]
    with edited.scan(COLOSSEUM):
        shape = edited.transformer.h[7].mlp.output.shape
    assert shape[-1] == 96
    with edited.trace(COLOSSEUM):
        gradient = lm.transformer.h[7].mlp.output.grad.save()
        inner = lm.transformer.h[7].mlp.c_fc.output.grad.save()
        lm.lm_head.output[0, -1].logsumexp(0).backward()
    assert gradient[0, -1].any()
    assert not inner[0, -1].any()


def test_it_is_loaded_once() -> None:
    lm = LanguageModel("nnsight-graph/capitals")
    with lm.edit() as edited:
        lm.transformer.h[0].mlp.output[:] = 0
    assert not edited.dispatched
    answer(lm, edited)
    assert lm.dispatched
    assert lm._module is edited._module is lm._tree.index.root
    plain = answer(lm, lm)
    lm.clear_edits()
    assert plain == answer(lm, lm) == " Rome"


def test_the_graph_shows_both(model: NNsight) -> None:
    editor = model.edit()
    with editor as edited:
        model[0].output[:] = 1
    with edited.trace(X) as tracer:
        model[1].output.save()
    assert str(editor.graph).splitlines()[1].startswith("%0[:] = 1")
    assert str(tracer.graph).splitlines()[1].startswith("%0[:] = 1")
    assert len(str(tracer.graph).splitlines()) == 4


def test_an_error_of_an_edit_names_its_line(model: NNsight) -> None:
    with model.edit() as edited:
        model[0].output[:, 9] = 0
    with pytest.raises(IndexError) as caught:
        with edited.trace(X):
            edited.output.save()
    entries = caught.traceback
    assert "model[0].output[:, 9] = 0" in str(entries[-1].statement)


@pytest.mark.parametrize("line", ["model.output.save()", "model[0].output.grad[:] = 0", "model.output.sum().backward()", "nnsight.stop()"])
def test_what_belongs_to_traces_is_refused(model: NNsight, line: str) -> None:
    with pytest.raises(RecordError, match="belongs to a trace of the edited model"):
        with model.edit():
            exec(line, {"model": model, "nnsight": nnsight})
    assert model._edits == ()


def test_a_block_that_fails_edits_nothing(model: NNsight) -> None:
    with pytest.raises(ZeroDivisionError):
        with model.edit(inplace=True):
            model[0].output[:] = 0
            1 / 0
    assert model._edits == ()
    editor = model.edit()
    with editor:
        pass
    with pytest.raises(RecordError, match="was written already"):
        with editor:
            pass


def test_threads_with_and_without_edits(net: nn.Sequential, model: NNsight) -> None:
    with model.edit() as edited:
        model[1].output[:] = 0
    right = {id(model): net(X), id(edited): net[2](torch.zeros(3, 4))}
    wrong: list[int] = []

    def run(one: NNsight) -> None:
        for _ in range(40):
            with one.trace(X):
                out = one.output.save()
            if not torch.equal(out, right[id(one)]):
                wrong.append(1)

    threads = [threading.Thread(target=run, args=(one,)) for one in (model, edited, model, edited)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_families(family: str) -> None:
    module = tiny_model(family)
    model = LanguageModel(module)
    path, mlp = next((path, child) for path, child in module.named_modules() if path.endswith((".mlp", ".output", ".DenseReluDense")))
    kwargs = {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    if family == "t5":
        kwargs["decoder_input_ids"] = torch.tensor([[3, 4]])
    with model.edit() as edited:
        model.get(path).output[:, -1] = 0

    def zero(output: torch.Tensor) -> None:
        output[:, -1] = 0

    with torch.no_grad(), edited.trace(**kwargs):
        logits = model.output.logits.save()
    torch.testing.assert_close(logits.value, hooked(mlp, zero, lambda: module(**kwargs).logits), rtol=0, atol=0)
