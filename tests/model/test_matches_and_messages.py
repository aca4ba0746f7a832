"""`match` on traced values, and texts of errors that come while the model runs."""

from __future__ import annotations

import traceback

import pytest
import torch

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2.0]])


@pytest.fixture
def model():
    return nnsight.NNsight(torch.nn.Identity())


def arm(value):
    match value:
        case 1:
            return "one"
        case [first, second]:
            return f"{first} and {second}"
        case {"key": inner}:
            return inner
        case str() as text:
            return text
        case other if other is not None:
            return "another"
        case _:
            return "none"


@pytest.mark.parametrize("value", [1, [2, 3], {"key": 4}, "text", 2.5, None])
def test_plain_subjects_keep_pythons_patterns(model, value):
    with model.trace(X):
        match value:
            case 1:
                found = "one"
            case [first, second]:
                found = f"{first} and {second}"
            case {"key": inner}:
                found = inner
            case str() as text:
                found = text
            case other if other is not None:
                found = "another"
            case _:
                found = "none"
        model.output.save()
    assert found == arm(value)


@pytest.mark.parametrize("start", [1.0, 2.0, 6.0])
def test_edits_in_the_arm_that_is_taken(model, start):
    with model.trace(torch.tensor([start])):
        match model.output.item():
            case 1.0:
                model.output[:] = 10
            case large if large > 5:
                model.output[:] = large * 2
        out = model.output.save()
    assert out.tolist() == [{1.0: 10, 2.0: 2, 6.0: 12}[start]]


def test_a_name_of_an_arm_that_is_not_taken_stays(model):
    with model.trace(torch.tensor([3])):
        kept = "before"
        match model.output.item():
            case 4 as kept:
                pass
        nnsight.save(kept)
    assert kept == "before"


def test_patterns_that_look_inside_are_refused(model):
    with pytest.raises(nnsight.RecordError, match=r"look inside a value decides at once.*write the others as if") as caught:
        with model.trace(X):
            match model.output:
                case torch.Tensor():
                    pass
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "match model.output:"


@pytest.mark.parametrize("form", ["f-string", "percent", "value", "raise"])
def test_a_message_is_made_where_the_error_is_raised(model, form):
    with pytest.raises((AssertionError, KeyError)) as caught:
        with model.trace(X):
            total, width = model.output.sum(), 2
            if form == "f-string":
                assert total > 5, f"{total:.2f} of {width:>3} {{columns}} {'text'!r}"
            elif form == "percent":
                assert total > 5, "%.2f of %d" % (total, width)  # noqa: UP031
            elif form == "value":
                assert total > 5, total.item()
            elif total < 5:
                raise KeyError(f"{total.item()}")
    expected = {"f-string": "3.00 of   2 {columns} 'text'", "percent": "3.00 of 2", "value": 3.0, "raise": "3.0"}
    assert caught.value.args == (expected[form],)


def test_a_message_of_an_error_that_does_not_come_costs_nothing(model):
    with model.trace(X):
        assert model.output.sum() < 5, f"{model.output.reshape(7):.2f}"  # would fail itself
        out = model.output.save()
    assert out.tolist() == X.tolist()


def test_an_error_while_the_block_is_written_describes_the_value(model):
    with pytest.raises(AssertionError, match=r"InterventionProxy\(sum"):
        with model.trace(X):
            assert 1 > 2, f"{model.output.sum()}"


def test_what_is_printed_in_a_branch(model, capsys):
    with model.trace(X):
        if model.output.sum() > 2:
            print(f"{model.output.sum():.1f}", "large")
        else:
            print(f"{model.output.sum():.1f}", "small")
    assert capsys.readouterr().out == "3.0 large\n"


def test_what_is_printed_at_once_has_no_text_yet(model):
    with pytest.raises(nnsight.RecordError, match="no text yet"):
        with model.trace(X):
            if model.output.sum() > 2:
                pass
            print(f"{model.output.sum():.1f}")
