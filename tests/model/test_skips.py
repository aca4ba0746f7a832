"""Skipped modules against modules whose forward was replaced by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, MissedSiteError, NNsight, NNsightError, OutOfOrderError, RecordError, UnsetValueError
from tests.huggingface.families import tiny_model

X = torch.linspace(-1, 1, 12).reshape(3, 4)
EIFFEL, COLOSSEUM = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2))


@pytest.fixture
def model(net: nn.Sequential) -> NNsight:
    return NNsight(net)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


def replaced(module: nn.Module, forward: Callable[..., Any], run: Callable[[], Any]) -> Any:
    """What ``run`` gives while a module's forward is another."""
    module.forward = forward  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            return run()
    finally:
        del module.forward


def runs_of(module: nn.Module) -> list[int]:
    ran: list[int] = []
    module.register_forward_hook(lambda *_: ran.append(1))
    return ran


def test_a_value_passes_in_place_of_a_module(net: nn.Sequential, model: NNsight) -> None:
    ran = runs_of(net[2][0])
    with model.trace(X):
        taken = model[2].input.save()
        model[2].skip(model[2].input * 2)
        passed = model[2].output.save()
        out = model.output.save()
    hidden = net[:2](X)
    assert ran == []
    assert torch.equal(taken, hidden)
    assert torch.equal(passed, hidden * 2)
    assert torch.equal(out, net[3](hidden * 2))
    assert "forward" not in net[2].__dict__


def test_a_tensor_from_outside_and_an_edit_of_what_passes(net: nn.Sequential, model: NNsight) -> None:
    outside = torch.ones(3, 4)
    with model.trace(X):
        model[2].skip(outside)
        model[2].output[:, 0] = 5
        model[2].output = model[2].output + 1
        out = model.output.save()
    assert torch.equal(outside, torch.ones(3, 4))
    assert torch.equal(out, net[3](torch.tensor([6.0, 2, 2, 2]).expand(3, 4)))


def test_the_model_itself(model: NNsight) -> None:
    with model.trace(X):
        model.skip(X * 3)
        out = model.output.save()
    assert torch.equal(out, X * 3)


def test_what_is_inside_does_not_run(model: NNsight) -> None:
    with pytest.raises(MissedSiteError, match=r"2\.0 does not run: 2 is skipped"):
        with model.trace(X):
            model[2][0].output.save()
            model[2].skip(model[2].input)
            model.output.save()


def test_a_value_that_comes_too_late(model: NNsight) -> None:
    with pytest.raises(OutOfOrderError, match=r"skips 0, but needs 3\.output"):
        with model.trace(X):
            model[0].skip(model[3].output)
            model.output.save()


@pytest.mark.parametrize("all_of_them", [True, False])
def test_rows(net: nn.Sequential, model: NNsight, all_of_them: bool) -> None:
    inner = runs_of(net[2][0])
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            model[2].skip(model[2].input * 2)
            first = model.output.save()
        with tracer.invoke(X[1:]):
            if all_of_them:
                model[2].skip(model[2].input * 3)
            else:
                inside = model[2][0].output.save()
            second = model.output.save()
    count = len(inner)
    hidden = net[:2](X)
    torch.testing.assert_close(first.value, net[3](hidden[:1] * 2))
    torch.testing.assert_close(second.value, net[3](hidden[1:] * 3) if all_of_them else net(X[1:]))
    assert count == (0 if all_of_them else 1)
    if not all_of_them:
        torch.testing.assert_close(inside.value, net[2][0](hidden)[1:])


def test_rows_that_do_not_fit(model: NNsight) -> None:
    with pytest.raises(NNsightError, match="the rows of this invoke are"):
        with model.trace() as tracer:
            with tracer.invoke(X[:1]):
                model[2].skip(torch.zeros(2, 4))
            with tracer.invoke(X[1:]):
                model.output.save()


@pytest.mark.parametrize("taken", [True, False])
def test_in_a_branch(net: nn.Sequential, model: NNsight, taken: bool) -> None:
    with model.trace(X) as tracer:
        with tracer.cond((model[0].output.sum() > -1000) == taken):
            model[2].skip(model[2].input)
        out = model.output.save()
    assert torch.equal(out, net[3](net[:2](X)) if taken else net(X))
    if taken:
        with pytest.raises(MissedSiteError, match="was never reached: 2 was skipped"):
            with model.trace(X) as tracer:
                with tracer.cond(model[0].output.sum() > -1000):
                    model[2].skip(model[2].input)
                model[2][1].output.save()


def test_with_gradients(net: nn.Sequential, model: NNsight) -> None:
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            model[2].skip(model[2].input * 2)
            one = model.output.sum()
        with tracer.invoke(X[1:]):
            two = model.output.sum()
        gradient = model[1].output.grad.save()
        (one + two).backward()
    hidden = net[:2](X).detach().requires_grad_()
    (net[3](hidden[:1] * 2).sum() + net[3](net[2](hidden[1:])).sum()).backward()
    torch.testing.assert_close(gradient.value, hidden.grad)


def test_blocks_of_language_models_step_by_step(lm: LanguageModel) -> None:
    block = lm._module.transformer.h[3]
    inputs = lm.tokenizer(EIFFEL, return_tensors="pt")
    is_tuple = isinstance(block(torch.zeros(1, 1, 96)), tuple)
    steps: list[int] = []

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 1:
            return type(block).forward(block, hidden, *args, **kwargs)
        return (hidden,) if is_tuple else hidden

    expected = replaced(block, forward, lambda: lm._module.generate(**inputs, max_new_tokens=3, do_sample=False))
    with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
        for _ in tracer.iter[1:]:
            hidden = lm.transformer.h[3].input
            lm.transformer.h[3].skip((hidden,) if is_tuple else hidden)
        ids = lm.generator.output.save()
    assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_families(family: str) -> None:
    module = tiny_model(family)
    model = LanguageModel(module)
    path, mlp = next((path, child) for path, child in module.named_modules() if path.endswith((".mlp", ".output", ".DenseReluDense")))
    kwargs = {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    if family == "t5":
        kwargs["decoder_input_ids"] = torch.tensor([[3, 4]])
    expected = replaced(mlp, lambda hidden, *_args: hidden * 0.5, lambda: module(**kwargs).logits)
    with torch.no_grad(), model.trace(**kwargs, validate=True):
        model.get(path).skip(model.get(path).input * 0.5)
        logits = model.output.logits.save()
    torch.testing.assert_close(logits.value, expected, rtol=0, atol=0)


def test_prompts_of_one_batch(lm: LanguageModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(EIFFEL):
            lm.transformer.h[2].mlp.skip(lm.transformer.h[2].mlp.input * 0)
            skipped = lm.lm_head.output[:, -1].save()
        with tracer.invoke(COLOSSEUM):
            plain = lm.lm_head.output[:, -1].save()
    mlp = lm._module.transformer.h[2].mlp
    ids = [lm.tokenizer(prompt, return_tensors="pt") for prompt in (EIFFEL, COLOSSEUM)]
    expected = replaced(mlp, lambda hidden: hidden * 0, lambda: lm._module(**ids[0]).logits[:, -1])
    torch.testing.assert_close(skipped.value, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.value, lm._module(**ids[1]).logits[:, -1], rtol=1e-4, atol=1e-4)


def test_two_threads_skip_one_module(net: nn.Sequential, model: NNsight) -> None:
    hidden, wrong = net[:2](X), []

    def skip(scale: float) -> None:
        for _ in range(30):
            with model.trace(X):
                model[2].skip(model[2].input * scale)
                out = model.output.save()
            if not torch.equal(out, net[3](hidden * scale)):
                wrong.append(scale)

    threads = [threading.Thread(target=skip, args=(scale,)) for scale in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert "forward" not in net[2].__dict__


def test_an_error_leaves_the_forward_as_it_was(net: nn.Sequential, model: NNsight) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        with model.trace(X):
            model[2].skip(torch.zeros(3, 7))
            model.output.save()
    assert "forward" not in net[2].__dict__
    with pytest.raises(RecordError, match="only inside a trace"):
        model[2].skip(X)
    with pytest.raises(RecordError, match="is a skip in a loop over values"):
        with model.trace(X):
            for row in model[0].output:
                model[2].skip(row)
            nnsight.save(model.output)


def test_a_skip_in_a_step_that_never_comes(lm: LanguageModel) -> None:
    with lm.generate(EIFFEL, max_new_tokens=1) as tracer:
        with tracer.iter[4]:
            lm.transformer.h[3].mlp.skip(lm.transformer.h[3].mlp.input)
            never = lm.lm_head.output.save()
        ids = lm.generator.output.save()
    assert ids.tolist() == lm._module.generate(**lm.tokenizer(EIFFEL, return_tensors="pt"), max_new_tokens=1).tolist()
    with pytest.raises(UnsetValueError, match="step 4 never came"):
        never.value


def test_two_skips_of_one_module_the_last_counts(net: nn.Sequential, model: NNsight) -> None:
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            model[2].skip(model[2].input * 2)
            model[2].skip(model[2].input * 3)
            first = model.output.save()
        with tracer.invoke(X[1:]):
            second = model.output.save()
    hidden = net[:2](X)
    torch.testing.assert_close(first.value, net[3](hidden[:1] * 3))
    torch.testing.assert_close(second.value, net(X)[1:])


@pytest.mark.parametrize("rows", [(3, 1), (1, 2), (2, 2)])
def test_rows_that_do_not_fit_where_all_are_skipped(model: NNsight, rows: tuple[int, int]) -> None:
    with pytest.raises(NNsightError, match="the rows of this invoke are"):
        with model.trace() as tracer:
            with tracer.invoke(X[:2]):
                model[2].skip(torch.zeros(rows[0], 4))
                model.output.save()
            with tracer.invoke(X[2:]):
                model[2].skip(torch.zeros(rows[1], 4))
                model.output.save()


def test_one_call_of_a_module() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.act(x))

    model = NNsight(Twice())
    with model.trace(X):
        model.act.call[1].skip(model.act.call[1].input * 2)
        out = model.output.save()
    assert torch.equal(out, X.tanh() * 2)


@pytest.mark.parametrize("line", ["attn.output = zeros", "attn.skip(zeros)"])
@pytest.mark.parametrize("validate", [True, False])
def test_another_structure_names_the_line(lm: LanguageModel, line: str, validate: bool) -> None:
    with pytest.raises(ValueError, match="not enough values to unpack") as caught:
        with lm.trace(EIFFEL, validate=validate):
            exec(line, {"attn": lm.transformer.h[3].attn, "zeros": torch.zeros(1, 11, 96)})
            lm.lm_head.output.save()
    told = "\n".join(getattr(caught.value, "__notes__", [])) + str(caught.value)
    assert "(float32[1, 11, 96] on cpu, None)" in told
    assert "float32[1, 11, 96] on cpu" in told
    assert "fails in transformer.h.3" in told
