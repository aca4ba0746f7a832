"""The kernel of the tests of cells."""

import sys

import pytest

from tests.kernel import Kernel

pytestmark = pytest.mark.slow


def test_what_a_cell_writes_and_shows(kernel: Kernel) -> None:
    reply = kernel.run("import sys\nprint('hello')\nprint('there', file=sys.stderr)\nx = 20 + 1\nx", "2 * x", "nothing")
    assert (reply.stdout, reply.stderr, reply.text, reply.error) == ("hello\n", "there\n", "21", None)
    assert reply.values == {"2 * x": 42, "nothing": "NameError: name 'nothing' is not defined"}


def test_what_is_shown_as_html(kernel: Kernel) -> None:
    reply = kernel.run("class A:\n    def _repr_html_(self):\n        return '<b>a</b>'\nA()")
    assert reply.html == "<b>a</b>"


def test_an_error(kernel: Kernel) -> None:
    reply = kernel.run("x = 1\n\nx / 0\n")
    assert (reply.error, reply.message, reply.arrows) == ("ZeroDivisionError", "division by zero", ["x / 0"])
    assert f"Cell In[{reply.number}], line 3" in reply.traceback
    assert "\x1b" not in reply.traceback


def test_a_cell_that_takes_too_long(kernel: Kernel) -> None:
    kernel.run("kept = 1")
    with pytest.raises(TimeoutError):
        kernel.run("import time\ntime.sleep(600)", seconds=1)
    assert kernel.value("'kept' in globals()") is False


def test_a_restart(kernel: Kernel) -> None:
    kernel.run("kept = 1")
    assert kernel.value("kept") == 1
    kernel.restart()
    assert (kernel.value("'kept' in globals()"), kernel.run("1").number) == (False, 1)


def test_it_is_this_python_and_reads_no_settings(kernel: Kernel) -> None:
    found = kernel.run("import os, sys\nhistory = get_ipython().history_manager.hist_file", "sys.executable", "history")
    assert found.values == {"sys.executable": sys.executable, "history": ":memory:"}
