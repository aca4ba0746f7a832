"""Cells of a notebook and what magics compile of them, with a small IPython of our own; needs no torch."""

from __future__ import annotations

import ast
import dis
import linecache
import sys
import textwrap
from types import CodeType, SimpleNamespace
from typing import Any

import pytest

from nnsight_graph.cells import body_of, cell_name, restore
from nnsight_graph.source_location import locate, traceback_at

pytestmark = pytest.mark.torch_free


class Shell:
    """The parts of IPython's shell that matter: its compiler, its history, `%%time`, `%%timeit` and `%%prun`."""

    def __init__(self) -> None:
        self.history_manager = SimpleNamespace(input_hist_raw=[""])
        self.compile = self
        self.files: dict[str, int] = {}

    def __call__(self, tree: Any, file: str, mode: str) -> CodeType:
        return compile(tree, file, mode, dont_inherit=True)

    def transform_cell(self, text: str) -> str:
        lines = text.split("\n")
        while lines and not lines[0].strip():
            del lines[0]
        return "\n".join(["hidden()" if line.startswith("%") else line for line in lines]) + "\n"

    def cache(self, transformed: str, number: int, raw: str) -> str:
        name = f"/tmp/{abs(hash(raw))}.py"
        self.files[name] = number
        linecache.cache[name] = (len(transformed), None, [line + "\n" for line in transformed.splitlines()], name)
        return name

    def format_code_name(self, name: str) -> tuple[str, str] | None:
        return ("Cell", f"In[{self.files[name]}]") if name in self.files else None

    def run(self, cell: str, file: str, shows: bool = False) -> CodeType:
        """Note a cell, and compile what its magic would; with `shows`, without the last line."""
        self.history_manager.input_hist_raw.append(cell)
        head, _, rest = cell.partition("\n")
        tree = ast.parse(self.transform_cell(rest))
        if shows:
            del tree.body[-1]
        if head.startswith("%%timeit"):
            whole = ast.parse(
                "def inner(_it, _timer):\n    setup\n    _t0 = _timer()\n    for _i in _it:\n        stmt\n"
                "    _t1 = _timer()\n    return _t1 - _t0\n"
            )
            whole.body[0].body[:1] = ast.parse(head.partition(" -q")[2].strip()).body  # type: ignore[attr-defined]
            whole.body[0].body[-3].body = tree.body  # type: ignore[attr-defined]
            return only(self(ast.fix_missing_locations(whole), file, "exec"))
        return self(tree, file, "exec")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    made = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: made))
    monkeypatch.setattr(linecache, "cache", {})
    return made


def only(code: CodeType) -> CodeType:
    return next(constant for constant in code.co_consts if isinstance(constant, CodeType))


def entering(code: CodeType, line: int) -> int:
    """The last instruction of a line: near enough to the one that enters a `with`."""
    return max(start for start, _, number in code.co_lines() if number == line)


WITH = "with block() as b:\n    if x > 0:\n        y = {}\nshown(y)\n"


@pytest.mark.parametrize(
    ("cell", "file", "shows"),
    [
        ("%%time\n" + WITH, "<timed exec>", False),
        ("%%time\n" + WITH, "<timed exec>", True),
        ("%%time --no-raise-error\n\n\n# a note\n%magic\n" + WITH, "<timed exec>", True),
        ("\n%%time\n" + WITH, "<timed exec>", False),
        ("%%prun -l 3\n" + WITH, "<string>", False),
        ("%%timeit -n1 -r1 -q\n" + WITH, "<magic-timeit>", False),
        ("%%timeit -n 10 -r 3 -p 4 -q x = 1\n" + WITH, "<magic-timeit>", False),
    ],
)
def test_the_text_is_in_the_history(shell: Shell, cell: str, file: str, shows: bool) -> None:
    cell = cell.replace("{}", "1")
    made = shell.run(cell.lstrip("\n"), file, shows)
    shell.history_manager.input_hist_raw[-1] = cell
    body = body_of(made, anew=True)
    assert body is not None
    line = cell.split("\n").index("with block() as b:") + 1
    assert body.lines[line - body.above - 1] == "with block() as b:\n"
    assert linecache.getline(body.file, line + 2) == "        y = 1\n"
    at = locate((made, entering(made, line - body.above + 2)))
    assert (str(at), at.full, at.text, at.function) == (f"Cell In[1], line {line + 2}", f"Cell In[1], line {line + 2}", "y = 1", "<module>")


def test_the_block_is_found(shell: Shell) -> None:
    found = statement(shell.run("%%time\nk = 1\nwith block():\n    if x > 0:\n        y = 1\n", "<timed exec>"))
    assert ast.unparse(found.node) == "with block():\n    if x > 0:\n        y = 1"
    assert (found.above, cell_name(found.file)) == (1, "Cell In[1]")


def statement(code: CodeType) -> Any:
    """The `with` that the code enters."""
    pytest.importorskip("torch")
    from nnsight_graph.record.control.source import find_statement

    enters = {"BEFORE_WITH", "SETUP_WITH"} if sys.version_info < (3, 14) else {"LOAD_SPECIAL"}
    return find_statement(code, next(one.offset for one in dis.get_instructions(code) if one.opname in enters), {})


COLUMNS = pytest.mark.skipif(sys.version_info < (3, 11), reason="code has no columns")


CHANGES = [("> 0", "< 0"), ("1", "2"), ("y", "z"), ("block()", "block(0)"), pytest.param(("x > 0", "x  > 0"), marks=COLUMNS)]


@pytest.mark.parametrize("change", CHANGES)
def test_another_text_is_never_taken(shell: Shell, change: tuple[str, str]) -> None:
    cell = "%%time\n" + WITH.replace("{}", "1")
    made = shell.run(cell, "<timed exec>")
    shell.history_manager.input_hist_raw[-1] = cell.replace(*change)
    assert body_of(made, anew=True) is None
    assert str(locate((made, entering(made, 3)))) == "<timed exec>:3"
    assert statement(made) == "the block has no source (exec, stdin)"


def test_a_function_of_an_earlier_cell(shell: Shell) -> None:
    text = "%%time\n\ndef f(x):\n    with block():\n        if x > {}:\n            return 1\n"
    first = only(shell.run(text.format(0), "<timed exec>"))
    shell.run(text.format(1), "<timed exec>")
    shell.history_manager.input_hist_raw.append("f(1)")
    assert str(locate((first, entering(first, 3)))) == "Cell In[1], line 5"
    made = traceback_at((first, entering(first, 3)), None)
    assert made is not None
    assert (made.tb_lineno, made.tb_frame.f_lineno, made.tb_frame.f_code.co_firstlineno) == (5, 5, 3)


def test_the_same_cell_again(shell: Shell) -> None:
    cell = "%%time\nfirst()\nsecond()\n"
    one, other = shell.run(cell, "<timed exec>"), shell.run(cell, "<timed exec>")
    assert body_of(one, anew=True) == body_of(other, anew=True)
    assert str(locate((other, entering(other, 2)))) == "Cell In[2], line 3"


def test_an_exec_is_no_cell(shell: Shell) -> None:
    text = "first()\nsecond()\n"
    code = shell.run("%%prun\n" + text, "<string>")
    shell.history_manager.input_hist_raw.append(f"exec({text!r})")
    assert body_of(code, anew=True) is None
    assert str(locate((code, entering(code, 2)))) == "<string>:2"


@pytest.mark.parametrize("cell", ["%%time\nif x", "%%time\n", "%%html\n<b>", "x = 1", "%%timeit x y\n1", ""])
def test_cells_that_are_something_else(shell: Shell, cell: str) -> None:
    shell.history_manager.input_hist_raw.append(cell)
    assert body_of(compile("a = 1\nb = 2", "<timed exec>", "exec"), anew=True) is None


def test_without_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert body_of(compile("a = 1", "<timed exec>", "exec")) is None
    assert (cell_name("/work/a.py"), cell_name("<ipython-input-7-abc123>"), cell_name("Cell In[3]")) == ("", "Cell In[7]", "Cell In[3]")


def test_an_old_ipython(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not say how it calls a cell: the text tells the number."""
    monkeypatch.delattr(Shell, "format_code_name")
    shell.history_manager.input_hist_raw += ["first()", "%magic\nsecond()", "first()"]
    for number, text in enumerate(["first()\n", "hidden()\nsecond()\n"]):
        file = f"/tmp/ipykernel_77/{number}.py"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    assert [cell_name(f"/tmp/ipykernel_77/{number}.py") for number in range(3)] == ["Cell In[3]", "Cell In[2]", ""]
    assert (cell_name("/tmp/ipython-input-4-12345.py"), cell_name("/work/0.py")) == ("Cell In[4]", "")


def test_a_cell_that_linecache_forgot(shell: Shell) -> None:
    text = "k = 1\nwith block():\n    y = k\nf(await g())\n"
    shell.history_manager.input_hist_raw.append(text.rstrip())
    file = shell.cache(text, 1, text)
    tree = ast.parse(text)
    codes = [shell(ast.Module([node], []), file, "exec") for node in tree.body[:2]]
    linecache.cache.clear()
    restore(codes[1])
    assert linecache.getlines(file) == text.splitlines(keepends=True)
    linecache.cache.clear()
    restore(compile("\nwith block(): z = k", file, "exec"))
    assert linecache.getlines(file) == []


def test_how_places_read(shell: Shell) -> None:
    file = shell.cache("a\nb\n", 5, "a\nb\n")
    code = compile(textwrap.dedent("\nf(x)"), file, "exec")
    at = locate((code, entering(code, 2)))
    assert (str(at), at.address, at.full, at.named.file) == (*["Cell In[5], line 2"] * 3, "Cell In[5]")
    assert str(at.named) == "Cell In[5], line 2"
    other = at._replace(file="/work/a.py")
    assert (str(other), other.address, other.full, other.named) == ("a.py:2", "/work/a.py:2", "line 2 of /work/a.py", other)
