"""Cells of a notebook: what IPython calls them, and the text of those that a magic such as ``%%time`` compiles under a name of its own."""

from __future__ import annotations

import ast
import linecache
import re
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .parsing import parse

_MAGIC_FILES = ("<timed exec>", "<timed eval>", "<magic-timeit>", "<string>")
_NAMED = re.compile(r"(?:<|.*[\\/])ipython-input-(\d+)-\w+(?:>|\.py)")
_TEMPORARY = re.compile(r".*[\\/](?:ipykernel_\d+[\\/]|ipython-input-)\w+\.py")
_OPTIONS = re.compile(r"(?:-[nrpv]\s*\S+\s+|-[tcqo]+\s+)*")  # of %%timeit; a statement may follow them
_TIMEIT = """def inner(_it, _timer):
    setup
    _t0 = _timer()
    for _i in _it:
        stmt
    _t1 = _timer()
    return _t1 - _t0
"""


class Body(NamedTuple):
    """What a magic such as ``%%time`` compiled: the part of a cell below its first line.

    Attributes:
        file: The name under which IPython shows the cell.
        above: How many lines stand above it there.
        lines: The lines of the body, as Python reads them.
        whole: The name of code that is the body as a whole.
    """

    file: str
    above: int
    lines: list[str]
    whole: str

    def name(self, code: CodeType) -> str:
        """The name of code of it: of all of it, the same as of any cell's."""
        return "<module>" if code.co_name == self.whole else code.co_name


def _shell() -> Any:
    """The IPython that runs in this process, if one does."""
    ipython = sys.modules.get("IPython")
    get = getattr(ipython, "get_ipython", None)
    return None if get is None else get()


def cell_name(file: str) -> str:
    """``Cell In[5]`` where IPython compiled a cell under that file name; else nothing."""
    if file.startswith("Cell In["):
        return file
    shell = _shell()
    named = getattr(getattr(shell, "compile", None), "format_code_name", None)
    found = None if named is None else named(file)
    if found is not None:
        return " ".join(found)
    number = plain[1] if (plain := _NAMED.fullmatch(file)) else _number(file, shell)
    return f"Cell In[{number}]" if number else ""


def _number(file: str, shell: Any) -> str:
    """The number of a cell, by its text, where IPython is too old to tell."""
    if shell is None or not _TEMPORARY.fullmatch(file):
        return ""
    text = "".join(linecache.getlines(file)).rstrip()
    history = _history(shell)
    same = (number for number in range(len(history) - 1, 0, -1) if text == "\n".join(_python(history[number], shell)).rstrip())
    return str(next(same, ""))


def _history(shell: Any) -> list[str]:
    """The texts of all cells, by number."""
    return list(getattr(getattr(shell, "history_manager", None), "input_hist_raw", ()))


def restore(code: CodeType) -> None:
    """Give ``linecache`` the text of the cell that ``code`` is of, if it was taken out and IPython's history has it."""
    name, shell = cell_name(code.co_filename), _shell()
    number = re.fullmatch(r"Cell In\[(\d+)\]", name)
    history = _history(shell)
    if number is None or int(number[1]) >= len(history) or linecache.getlines(code.co_filename):
        return
    lines = _python(history[int(number[1])], shell)
    if any(_holds(made, code) for made in _statements(lines)):
        text = [line + "\n" for line in lines]
        linecache.cache[code.co_filename] = (sum(map(len, text)), None, text, code.co_filename)


_known: WeakKeyDictionary[CodeType, Body | None] = WeakKeyDictionary()


def body_of(code: CodeType, anew: bool = False) -> Body | None:
    """The cell whose body a magic compiled to ``code``; ``None`` where IPython's history has no text that compiles to the same.

    Args:
        code: The code of the body, or of a function that is defined in it.
        anew: Whether it is running: then the newest cell of that text is meant, whatever was found before.
    """
    if code.co_filename not in _MAGIC_FILES or (shell := _shell()) is None:
        return None
    if anew or code not in _known:
        _known[code] = _search(code, shell)
    return _known[code]


def _search(code: CodeType, shell: Any) -> Body | None:
    history = _history(shell)
    oldest = len(history) - 1 if code.co_filename == "<string>" else 0  # an `exec` of your own is no cell: only one that runs is meant
    for number in range(len(history) - 1, max(oldest, 0) - 1, -1):
        for head, rest in _parts(history[number]):
            lines = _python(rest, shell)
            if any(_holds(made, code) for made in _compiled(head[-1], lines, shell)):
                above = [*head, *[""] * _blank(rest)]
                text = "\n".join([*["#" * bool(line) + line for line in above], *lines])
                file = shell.compile.cache(text, number, text)  # as IPython names the cells that it compiles itself
                whole = "inner" if code.co_filename == "<magic-timeit>" else "<module>"
                return Body(file, len(above), [line + "\n" for line in lines], whole)
    return None


def _parts(cell: str) -> Iterator[tuple[list[str], str]]:
    """For each of a cell's first lines that begins with ``%%``: the lines down to it, and the text below."""
    lines = cell.split("\n")
    for number, line in enumerate(lines, 1):
        if line.startswith("%%"):
            yield lines[:number], "\n".join(lines[number:])
        elif line.strip():
            return


def _python(text: str, shell: Any) -> list[str]:
    """The lines of a cell as Python has them: without magics, and without the blank lines above the first."""
    try:
        return str(shell.transform_cell(text)).rstrip("\n").split("\n")
    except SyntaxError:
        return []


def _blank(text: str) -> int:
    return next((number for number, line in enumerate(text.split("\n")) if line.strip()), 0)


def _compiled(magic: str, lines: list[str], shell: Any) -> Iterator[CodeType]:
    """What a magic may have compiled of the lines below it."""
    try:
        tree = parse("\n".join(lines))
        if magic.startswith("%%timeit"):
            setup = parse("\n".join(_python(magic.removeprefix("%%timeit").strip()[_after_options(magic) :], shell)))
            wholes: Iterator[Any] = iter([_timeit(setup, tree)])
        else:
            wholes = _pieces(tree)
        for whole in wholes:
            yield shell.compile(whole, "<cell>", "eval" if isinstance(whole, ast.Expression) else "exec")
    except (SyntaxError, ValueError):
        return


def _statements(lines: list[str]) -> Iterator[CodeType]:
    """What IPython compiles of a cell: each statement by itself."""
    try:
        for node in parse("\n".join(lines)).body:
            for tree, mode in ((ast.Module([node], []), "exec"), (ast.Interactive([node]), "single")):
                yield compile(tree, "<cell>", mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError):
        return


def _after_options(magic: str) -> int:
    found = _OPTIONS.match(magic.removeprefix("%%timeit").strip() + " ")
    return found.end() if found else 0


def _pieces(tree: ast.Module) -> Iterator[ast.Module | ast.Expression]:
    """The body as a whole; or, as for ``%%time``, without its last line, which shows a value."""
    yield tree
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        yield ast.Module(tree.body[:-1], [])
        yield ast.Expression(last.value)


def _timeit(setup: ast.Module, tree: ast.Module) -> ast.Module:
    """The function that ``%%timeit`` makes."""
    whole: ast.Module = parse(_TIMEIT)
    inner = whole.body[0]
    assert isinstance(inner, ast.FunctionDef)
    loop = inner.body[2]
    assert isinstance(loop, ast.For)
    loop.body, inner.body[:1] = tree.body, setup.body
    return ast.fix_missing_locations(whole)


def _holds(made: CodeType, code: CodeType) -> bool:
    """Whether ``made``, or a function in it, is ``code`` but for the file's name."""
    return _same(made, code) or any(_holds(inner, code) for inner in made.co_consts if isinstance(inner, CodeType))


def _same(made: CodeType, code: CodeType) -> bool:
    return made == code and made.co_code == code.co_code and _positions(made) == _positions(code)


def _positions(code: CodeType) -> list[Any]:
    return list(code.co_positions()) if sys.version_info >= (3, 11) else list(code.co_lines())

