"""How a traceback that stands on a place is shown by a notebook's kernel; needs no torch."""

from __future__ import annotations

import pytest

from tests.kernel import Kernel

pytestmark = pytest.mark.slow

SETUP = """
import sys
from nnsight_graph.source_location import locate, traceback_at

class Block:
    def __enter__(self):
        return self

    def note(self):
        self.place = sys._getframe(1).f_code, sys._getframe(1).f_lasti

    def __exit__(self, *_):
        __tracebackhide__ = True
        raise ValueError(str(locate(self.place))).with_traceback(traceback_at(self.place, sys._getframe(1)))
"""


@pytest.mark.parametrize("magic", ["", "%%time\n", "%%timeit -n1 -r1 -q x = 1\n", "import asyncio\nawait asyncio.sleep(0)\n"])
@pytest.mark.parametrize("function", [False, True])
def test_the_arrow_stands_on_the_place(kernel: Kernel, magic: str, function: bool) -> None:
    kernel.run(SETUP)
    body = "k = [1]\nwith Block() as block:\n    k += [2]\n    block.note()  # here\n    k += [3]\n"
    if function:
        body = "def program():\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "program()\n"
    cell = magic + body
    reply = kernel.run(cell)
    line = 1 + next(number for number, text in enumerate(cell.split("\n")) if "# here" in text)
    assert (reply.error, reply.message) == ("ValueError", f"Cell In[{reply.number}], line {line}")
    assert reply.arrows[-1] == "block.note()  # here"
    found = kernel.run("entry = sys.last_value.__traceback__\nwhile entry.tb_next:\n    entry = entry.tb_next",
                       "entry.tb_lineno", "entry.tb_frame.f_lineno", "entry.tb_frame.f_locals['k']")  # fmt: skip
    assert list(found.values.values()) == [line, line, [1, 2, 3]]
