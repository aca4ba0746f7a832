"""Traces in the cells of a real notebook's kernel: errors point at the faulty line, places read as IPython's own, magics work."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.kernel import Kernel, Reply

pytestmark = pytest.mark.slow

SETUP = """
import torch
import nnsight_graph as nnsight
from nnsight_graph import NNsight
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
model, x = NNsight(net), torch.ones(1, 4)
"""
TEMPORARY = re.compile(r"ipykernel_|/tmp/|\b\d{6,}\.py|<timed|<magic|<string>")


@pytest.fixture(scope="module", autouse=True)
def prepared(kernel: Kernel) -> None:
    reply = kernel.run(SETUP)
    assert (reply.error, reply.stderr) == (None, "")


def faulty(cell: str) -> int:
    return 1 + next(number for number, line in enumerate(cell.split("\n")) if "# faulty" in line)


def stands_on_its_line(reply: Reply, cell: str) -> None:
    """The traceback ends on the line that is marked, and what the error says names it as IPython does."""
    assert reply.error is not None
    entries = re.findall(r"^Cell In\[(\d+)\], line (\d+)", reply.traceback, re.MULTILINE)
    assert entries[-1] == (str(reply.number), str(faulty(cell))), reply.traceback
    assert reply.arrows[-1].endswith("# faulty"), reply.traceback
    shown = reply.traceback.rpartition("\n\n")[2] + reply.message
    assert not TEMPORARY.search(shown), shown
    assert "nnsight_graph" not in reply.traceback.replace("import nnsight_graph", ""), reply.traceback


ERRORS = {
    "a trace": """
        with model.trace(x) as tracer:
            h = model[0].output
            bad = h @ torch.ones(7, 7)  # faulty
            out = model.output.save()
        """,
    "over several lines": """
        y = x

        with model.trace(y) as tracer:
            h = model[0].output.relu()
            bad = (
                h  # faulty
                @ torch.ones(7, 7)
            )
            out = model.output.save()
        """,
    "an invoke": """
        with model.trace() as tracer:
            with tracer.invoke(x):
                h = model[0].output
                h @ torch.ones(7, 7)  # faulty
            with tracer.invoke(x):
                out = model.output.save()
        """,
    "a session": """
        with model.session():
            with model.trace(x):
                h = model[0].output
                h @ torch.ones(7, 7)  # faulty
            out = (h * 2).save()
        """,
    "between the traces of a session": """
        with model.session():
            with model.trace(x):
                h = model[0].output
            out = (h @ torch.ones(7, 7)).save()  # faulty
            with model.trace(x):
                model.output.save()
        """,
    "a loop over steps": """
        with model.trace(x) as tracer:
            for step in tracer.iter[:]:
                h = model[0].output
                h @ torch.ones(7, 7)  # faulty
        """,
    "an edit": """
        with model.trace(x):
            h = model[0].output
            h[:, 9] = 0  # faulty
            out = model.output.save()
        """,
    "an edited model": """
        with model.edit() as edited:
            model[0].output[:] = torch.ones(7)  # faulty
        with edited.trace(x):
            out = model.output.save()
        """,
    "a backward": """
        with model.trace(x):
            h = model[0].output
            with model.output.sum().backward():
                h.grad @ torch.ones(7, 7)  # faulty
        """,
    "a branch": """
        with model.trace(x):
            h = model[0].output
            if h.sum() > -1e9:
                h @ torch.ones(7, 7)  # faulty
        """,
    "a scan": """
        with model.scan(x):
            h = model[0].output
            h @ torch.ones(7, 7)  # faulty
        """,
    "recording": """
        with model.trace(x):
            h = model[0].output
            f"{h:.2f}"  # faulty
        """,
    "too late": """
        with model.trace(x):
            model[0].output[:, :2] = model[1].output  # faulty
        """,
    "no backward": """
        with model.trace(x):
            h = model[0].output
            h.grad.save()  # faulty
        """,
    "below an await": """
        import asyncio
        await asyncio.sleep(0)
        with model.trace(x):
            h = model[0].output
            h @ torch.ones(7, 7)  # faulty
        await asyncio.sleep(0)
        """,
    "in a function": """
        def program():
            scale = 3
            with model.trace(x):
                h = model[0].output
                if h.sum() > -1e9:
                    h @ torch.ones(7, 7)  # faulty
        program()
        """,
    "a function that the block calls": """
        def inner(h):
            return h @ torch.ones(7, 7)  # faulty
        with model.trace(x):
            inner(model[0].output)
        """,
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_stands_on_its_line(kernel: Kernel, name: str) -> None:
    cell = textwrap.dedent(ERRORS[name]).strip("\n")
    stands_on_its_line(kernel.run(cell), cell)


@pytest.mark.parametrize("magic", ["%%time", "%%timeit -n1 -r1 -q", "%%prun -q", "%%timeit -n 1 -r 1 -q y = x"])
@pytest.mark.parametrize("name", ["a trace", "a branch", "in a function"])
def test_an_error_below_a_magic(kernel: Kernel, magic: str, name: str) -> None:
    cell = f"{magic}\n\n# as it was\n{textwrap.dedent(ERRORS[name]).strip()}\n"
    stands_on_its_line(kernel.run(cell), cell)


def test_a_generation(kernel: Kernel) -> None:
    kernel.run("lm = nnsight.LanguageModel('nnsight-graph/capitals')")
    cell = """with lm.generate("The Eiffel Tower is in", max_new_tokens=3) as tracer:
    for step in tracer.iter[1:3]:
        h = lm.transformer.h[0].mlp.output
        if h.sum() > -1e9:
            h @ torch.ones(7, 7)  # faulty
"""
    stands_on_its_line(kernel.run(cell), cell)


def test_a_function_of_another_cell(kernel: Kernel) -> None:
    cell = "\ndef project(h):\n    return h @ torch.ones(7, 7)  # faulty\n"
    number = kernel.run(cell).number
    reply = kernel.run("with model.trace(x):\n    project(model[0].output)\n")
    assert f"Cell In[{number}], line 2, in project" in reply.traceback  # IPython leaves out the blank line on top
    assert reply.arrows[-1] == "return h @ torch.ones(7, 7)  # faulty"


def test_a_function_of_a_timed_cell(kernel: Kernel) -> None:
    text = """%%time
def {}():
    with model.trace(x):
        y = model[0].output
        if y.sum() {} -1e9:
            y = y * 2
        y.save()
        {}
    return y
"""
    kernel.run(text.format("doubled", ">", ""))
    kernel.run(text.format("same", "<", ""))
    number = kernel.run(text.format("wrong", ">", "y @ torch.ones(7, 7)")).number
    wanted = {"torch.equal(doubled(), 2 * net[0](x))": True, "torch.equal(same(), net[0](x))": True}
    assert kernel.run("", *wanted).values == wanted
    reply = kernel.run("wrong()")
    assert f"Cell In[{number}], line 8, in wrong" in reply.traceback.rpartition("skipping hidden")[2]
    assert reply.arrows[-1] == "y @ torch.ones(7, 7)"


def test_a_function_in_a_file(kernel: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "module_of_a_test.py"
    file.write_text("import torch\n\ndef project(h):\n    return h @ torch.ones(7, 7)\n")
    reply = kernel.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom module_of_a_test import project\n"
                       "with model.trace(x):\n    project(model[0].output)\n")  # fmt: skip
    assert "module_of_a_test.py:4, in project" in reply.traceback
    assert reply.arrows[-1] == "return h @ torch.ones(7, 7)"


def test_a_reloaded_file(kernel: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "module_that_changes.py"
    text = """
def program(model, x):{}
    with model.trace(x):
        y = model[0].output
        if y.sum() > -1e9:
            y = y * {}
        y.save()
    return y

def wrong(model, x):
    with model.trace(x):
        model[0].output @ model[{}].weight
"""
    file.write_text(text.format("", 2, 0))
    kernel.run(f"import sys\n%load_ext autoreload\n%autoreload 2\nsys.path.insert(0, {str(tmp_path)!r})\nimport module_that_changes")
    kernel.run("once = module_that_changes.program(model, x)")
    file.write_text("# a line on top\n" + text.format("\n    # longer than before\n", 300, "1"))
    found = kernel.run("again = module_that_changes.program(model, x)", "torch.equal(again, once * 150)")
    reply = kernel.run("module_that_changes.wrong(model, x)")
    kernel.run("%autoreload 0")
    assert found.values == {"torch.equal(again, once * 150)": True}
    assert "module_that_changes.py:15, in wrong" in reply.traceback.rpartition("skipping hidden")[2]
    assert reply.arrows[-1] == "model[0].output @ model[1].weight"


def test_a_script(kernel: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "script_of_a_test.py"
    file.write_text("with model.trace(x):\n    h = model[0].output\n    if h.sum() > -1e9:\n        h @ torch.ones(7, 7)\n")
    reply = kernel.run(f"%run -i {file}")
    assert "script_of_a_test.py:4" in reply.traceback
    assert reply.arrows[-1] == "h @ torch.ones(7, 7)"


def test_an_exec(kernel: Kernel) -> None:
    reply = kernel.run('exec("""with model.trace(x):\n    h = model[0].output\n    h @ torch.ones(7, 7)\n""")')
    assert "File <string>:3" in reply.traceback.rpartition("skipping hidden")[2]


BRANCH = "with model.trace(x):\n    h = model[0].output\n    y = h\n    if h.sum() > {}:\n        y = h * 2\n    y.save()\n"


MAGICS = ["%%time", "%%capture", "%%prun -q", "%%capture\n%%time", "%%time\n\n# as it was\nshown = 0\n%whos"]


@pytest.mark.parametrize("magic", MAGICS)
def test_branches_below_a_magic(kernel: Kernel, magic: str) -> None:
    for bound, factor in ((-1e9, 2), (1e9, 1)):
        reply = kernel.run(f"{magic}\n{BRANCH.format(bound)}", "(y / net[0](x)).unique().round().tolist()")
        assert (reply.error, list(reply.values.values())) == (None, [[float(factor)]]), reply.traceback


def test_branches_that_are_timed_many_times(kernel: Kernel) -> None:
    kernel.run("kept = []")
    body = BRANCH.format(-1e9) + "kept.append(y)\n"
    reply = kernel.run(f"%%timeit -n3 -r2 -q y = 1\n{body}", "len(kept), all(torch.equal(one, 2 * net[0](x)) for one in kept)")
    assert (reply.error, list(reply.values.values())) == (None, [(6, True)]), reply.traceback


def test_a_timed_cell_that_shows_its_last_line(kernel: Kernel) -> None:
    reply = kernel.run(f"%%time\n{BRANCH.format(-1e9)}float(y.sum() / net[0](x).sum())")
    assert (reply.error, float(reply.text)) == (None, pytest.approx(2))


def test_a_cell_that_linecache_has_forgotten(kernel: Kernel) -> None:
    reply = kernel.run(f"import linecache\nlinecache.clearcache()\n{BRANCH.format(-1e9)}", "torch.equal(y, 2 * net[0](x))")
    assert (reply.error, list(reply.values.values())) == (None, [True]), reply.traceback


def test_a_cell_that_is_run_again_and_one_that_is_changed(kernel: Kernel) -> None:
    cell = "with model.trace(x):\n    h = model[0].output\n    h @ torch.ones(7, 7)  # faulty"
    first = kernel.run(cell)
    again = kernel.run(cell)
    changed = kernel.run("\n\n".join(cell.split("\n")))
    assert first.number < again.number
    stands_on_its_line(again, cell)
    stands_on_its_line(changed, "\n\n".join(cell.split("\n")))


def test_what_is_shown_names_cells(kernel: Kernel) -> None:
    number = kernel.run("def twice(h):\n    return h * 2").number
    reply = kernel.run("with model.trace(x) as tracer:\n    y = twice(model[0].output).save()\ntracer.graph")
    places = [line.partition("# ")[2] for line in reply.text.split("\n")]
    assert places == [f"Cell In[{reply.number}], line 2", f"Cell In[{number}], line 2", f"Cell In[{reply.number}], line 2"]


def test_a_value_that_was_not_saved(kernel: Kernel) -> None:
    reply = kernel.run("with model.trace(x):\n    h = model[0].output\nh + 1")
    assert reply.error == "UnsetValueError"
    assert f"Cell In[{reply.number}], line 2 `h = model[0].output`: it was not saved" in reply.message
    assert reply.arrows[0] == "h + 1"


def test_a_graph_that_travelled(kernel: Kernel) -> None:
    cell = "import copy\nwith model.trace(x, run=False) as tracer:\n    y = model[0].output.save()\nprint(copy.deepcopy(tracer.graph))"
    reply = kernel.run(cell)
    assert reply.stdout.count(f"# Cell In[{reply.number}], line 3") == 2


def test_a_debugger_sees_the_variables(kernel: Kernel) -> None:
    kernel.run("def program():\n    scale = 3\n    with model.trace(x):\n        model[0].output @ torch.ones(7, 7)\nprogram()")
    reply = kernel.run("import sys\nentry = sys.last_value.__traceback__\nwhile entry.tb_next:\n    entry = entry.tb_next",
                       "entry.tb_frame.f_locals['scale']", "(entry.tb_lineno, entry.tb_frame.f_lineno)")  # fmt: skip
    assert list(reply.values.values()) == [3, (4, 4)]
