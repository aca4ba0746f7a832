"""Every mistake of the table gets its error, on its line; the page shows the same table."""

from __future__ import annotations

import re
import traceback

import pytest
import torch

from tests import mistakes


@pytest.mark.parametrize("one", mistakes.MISTAKES, ids=lambda one: one.program.__name__)
def test_a_mistake(one: mistakes.Mistake) -> None:
    torch.manual_seed(0)
    with pytest.raises(one.error, match=one.text) as caught:
        one.program()
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
