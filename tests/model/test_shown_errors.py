"""An error of a run as pytest and a debugger show it: on the line at fault, with its variables, without the library's frames."""

from __future__ import annotations

import pytest
import torch

import nnsight_graph as nnsight

model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)))
x = torch.ones(1, 4)


def native() -> None:
    known = 3
    with model.trace(x):
        h = model[0].output
        h @ torch.ones(7, known)  # here
        model.output.save()


def rewritten() -> None:
    known = 3
    with model.trace(x):
        h = model[0].output
        if h.sum() > -1e9:
            h @ torch.ones(7, known)  # here


def in_a_session() -> None:
    known = 3
    with model.session():
        with model.trace(x):
            h = model[0].output
        (h @ torch.ones(7, known)).save()  # here


def in_an_edit() -> None:
    known = 3
    with model.edit():
        model[0].output[:, known + 7] = 0
        model.output.save()  # here


@pytest.mark.parametrize("program", [native, rewritten, in_a_session, in_an_edit])
@pytest.mark.parametrize("style", ["long", "short"])
def test_pytest_shows_the_line(program, style) -> None:
    with pytest.raises(nnsight.NNsightError) as caught:
        program()
    shown = str(caught.getrepr(style=style, showlocals=True, chain=False))
    marked = [line for line in shown.splitlines() if "# here" in line and (line.startswith(">") or style == "short")]
    assert len(marked) == 1, shown
    assert "known      = 3" in shown
    assert "block.py" not in shown
    assert "session.py" not in shown


def test_the_frame_says_the_same() -> None:
    with pytest.raises(RuntimeError) as caught:
        native()
    entry = caught.tb
    while entry.tb_next is not None:
        entry = entry.tb_next
    line = native.__code__.co_firstlineno + 4
    assert (entry.tb_lineno, entry.tb_frame.f_lineno, entry.tb_frame.f_code.co_firstlineno) == (line, line, line - 4)
    assert entry.tb_frame.f_locals["known"] == 3
