"""Every mistake of the table gets its error, on its line; the page shows the same table."""

from __future__ import annotations

import re
import traceback

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import NNsight, NNsightError
from tests import mistakes


@pytest.mark.parametrize("one", mistakes.MISTAKES, ids=lambda one: one.program.__name__)
def test_a_mistake(one: mistakes.Mistake) -> None:
    torch.manual_seed(0)
    with pytest.raises(one.error, match=one.text) as caught:
        one.program()
    assert isinstance(caught.value, NNsightError) or one.program is mistakes.wrong_dtype  # an error of the model's
    lines = [entry.line or "" for entry in traceback.extract_tb(caught.value.__traceback__) if entry.filename == mistakes.__file__]
    assert lines[-1].removesuffix(mistakes.HERE.strip()).strip() == one.line
    with mistakes.model.trace(mistakes.x):
        fine = mistakes.model.layer2.output.save()
    assert torch.equal(fine.value, mistakes.net(mistakes.x))


def test_there_are_enough() -> None:
    assert len(mistakes.MISTAKES) >= 40


def test_the_page_shows_them() -> None:
    text = mistakes.PAGE.read_text()
    shown = text.partition(mistakes.BEGIN)[2].partition(mistakes.END)[0]
    titles = [re.split(r" \| ", row)[0] for row in shown.splitlines()]
    assert titles == [re.split(r" \| ", row)[0] for row in mistakes.section().splitlines()]


def test_text_given_to_a_plain_module_is_told_of_a_tokenizer() -> None:
    with pytest.raises(TypeError) as caught, mistakes.model.trace("hello"):
        mistakes.model.output.save()
    assert any("LanguageModel" in note for note in caught.value.__notes__)


def test_errors_of_a_module_are_not_explained_where_it_was_given_no_text() -> None:
    with pytest.raises(RuntimeError) as caught, mistakes.model.trace(torch.ones(1, 3)):
        mistakes.model.output.save()
    assert not any("tokenizer" in note for note in getattr(caught.value, "__notes__", []))


def test_an_error_in_the_block_that_has_nothing_to_do_with_traced_values_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught, mistakes.model.trace(mistakes.x):
        int("seven")
    assert not isinstance(caught.value, NNsightError)


def test_a_list_of_modules_with_a_forward_of_its_own_has_an_output() -> None:
    class Chain(torch.nn.ModuleList):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self:
                x = layer(x)
            return x

    chain = Chain([torch.nn.Linear(2, 2), torch.nn.ReLU()])
    model = NNsight(chain)
    with model.trace(torch.ones(1, 2)):
        out = model.output.save()
    assert torch.equal(out.value, chain(torch.ones(1, 2)))


@pytest.mark.parametrize(
    "make",
    [
        lambda b, s: torch.zeros(b, s),
        lambda b, s: torch.ones(b, s, 2),
        lambda b, s: torch.zeros(b * s, s),
        lambda b, s: torch.zeros(b // 1, s - 1),
        lambda b, s: torch.full((b, s), 2.0),
        lambda b, s: torch.arange(s),
        lambda b, s: torch.eye(b, s),
        lambda b, s: torch.zeros(2 * b + 1, -s % 3),
        lambda b, s: torch.ones(b, s, dtype=torch.int64),
        lambda b, s: torch.arange(b * s).view(b, s),
        lambda b, s: torch.tensor([b, s]),
    ],
)
def test_sizes_of_traced_tensors_are_sizes_for_torch(make) -> None:
    model, right = NNsight(torch.nn.Linear(4, 4)), make(2, 4)
    with model.trace(torch.ones(2, 4)):
        b, s = model.output.shape
        first = nnsight.save(make(b, s))
        second = nnsight.save(make(model.output.shape[0], model.output.shape[-1]))
    assert torch.equal(first.value, right)
    assert torch.equal(second.value, right)
    assert first.value.dtype == right.dtype


def test_sizes_draw_random_numbers_in_the_run() -> None:
    model = NNsight(torch.nn.Linear(4, 4))
    torch.manual_seed(3)
    right = torch.randn(2, 4)
    torch.manual_seed(3)
    with model.trace(torch.ones(2, 4)):
        rows, width = model.output.shape
        noise = nnsight.save(torch.randn(rows, width))
    assert torch.equal(noise.value, right)


def test_a_list_of_modules_can_be_switched_to_every_step() -> None:
    lm = mistakes.lm
    with lm.generate(mistakes.prompt, max_new_tokens=2):
        found = nnsight.list().save()
        lm.transformer.h.all()
        found.append(lm.transformer.h[0].output[0, -1, 0])
    assert len(found) == 2
    with pytest.raises(nnsight.RecordError, match="is a list of modules"), lm.trace(mistakes.prompt):
        lm.transformer.h.output = 0
    with pytest.raises(nnsight.RecordError, match="is a list of modules"), lm.trace(mistakes.prompt):
        lm.transformer.h.skip(0)


def test_a_value_of_a_scan_that_had_to_end_says_where_and_why() -> None:
    class Picks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[: int(x.sum())]

    model = NNsight(torch.nn.Sequential(torch.nn.Linear(2, 2), Picks()))
    with model.scan(torch.ones(3, 2)):
        before = model[0].output.shape
        after = model[1].output.shape
    assert tuple(before) == (3, 2)
    with pytest.raises(nnsight.UnsetValueError, match=r"a scan cannot know it: the scan ended in 1: "):
        tuple(after)


def test_arguments_of_a_wrong_type_are_type_errors_and_misuse_is_a_value_error() -> None:
    model, x = NNsight(torch.nn.Identity()), torch.ones(1)
    with model.trace(x) as over:
        model.output.save()

    def in_a_trace(line) -> None:
        with model.trace(x) as tracer:
            line(tracer)

    for line in (lambda t: t.iter["a"], lambda t: t.cache([3]), lambda t: t.cache(dtype="float16"), lambda t: over.graph.run(3)):
        with pytest.raises(TypeError) as caught:
            in_a_trace(line)
        assert isinstance(caught.value, nnsight.WrongTypeError)
        assert isinstance(caught.value, nnsight.RecordError)
    for line in (lambda t: t.iter[-1], lambda t: model.call[-1], lambda t: over.stop(), lambda t: over.__enter__()):
        with pytest.raises(ValueError) as caught:
            in_a_trace(line)
        assert isinstance(caught.value, nnsight.MisuseError)


@pytest.mark.parametrize(
    "line",
    [
        lambda h, tracer: h + 1,
        lambda h, tracer: h.shape,
        lambda h, tracer: torch.sum(h),
        lambda h, tracer: f"{h:.2f}",
        lambda h, tracer: tracer.stop(),
        lambda h, tracer: tracer.cache(),
        lambda h, tracer: NNsight(mistakes.net, rename=3),
        lambda h, tracer: NNsight(mistakes.net, rename={"layer1": 3}),
        lambda h, tracer: NNsight("gpt2"),
        lambda h, tracer: nnsight.LanguageModel(3),
        lambda h, tracer: mistakes.model.layer1.output,
        lambda h, tracer: nnsight.save(3),
    ],
)
def test_errors_outside_of_blocks_end_on_the_users_line(line) -> None:
    with mistakes.model.trace(mistakes.x) as tracer:
        hidden = mistakes.model.layer1.output
    with pytest.raises(NNsightError) as caught:
        line(hidden, tracer)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (__file__, line.__code__.co_firstlineno)
