"""Functions whose lines are no longer those of their file; needs no torch."""

from __future__ import annotations

import ast
import importlib.util
import linecache
import sys
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from nnsight_graph.reloaded import as_in_file
from nnsight_graph.source_location import locate, traceback_at

pytestmark = pytest.mark.torch_free

TEXT = """
def program(x, y=0.0):
    # a comment
    total = 1

    def inner():
        return total + x + 0.0
    return inner() * 2


class Kept:
    def program(self):
        return [self for _ in range(3)]
"""


def loaded(file: Path, text: str) -> ModuleType:
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line_of(code: CodeType, text: str, file: Path) -> bool:
    """Whether one of the code's lines is that text of the file."""
    return any(linecache.getline(str(file), line or 0).strip() == text for _, _, line in code.co_lines())


def by_itself(text: str, file: str) -> CodeType:
    """The first function of a text, as `%autoreload` compiles it."""
    alone = ast.parse(ast.unparse(ast.parse(text).body[0]))
    return next(constant for constant in compile(alone, file, "exec").co_consts if isinstance(constant, CodeType))


def test_lines_were_put_above(tmp_path: Path) -> None:
    file = tmp_path / "moved.py"
    module = loaded(file, TEXT)
    file.write_text("# one\n# two\n" + TEXT.replace("# a comment", "# a comment\n    # and another"))
    found = as_in_file(module.program.__code__)
    assert found is not None
    assert (found.co_firstlineno, line_of(found, "return inner() * 2", file)) == (4, True)
    method = as_in_file(module.Kept.program.__code__)
    assert method is not None
    assert method.co_firstlineno == 15


@pytest.mark.parametrize("change", [("* 2", "* 3"), ("total = 1", "total = True"), ("+ 0.0", "+ -0.0"), ("+ x", "- x"), ("y=0.0", "z=0.0"),
                                    ("def program", "def other"), ("return inner() * 2", "return inner( * 2")])  # fmt: skip
def test_a_file_that_says_something_else(tmp_path: Path, change: tuple[str, str]) -> None:
    file = tmp_path / "changed.py"
    module = loaded(file, TEXT)
    file.write_text("# longer\n" + TEXT.replace(*change))
    assert as_in_file(module.program.__code__) is None


def test_a_function_that_was_compiled_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "alone.py"
    file.write_text("from __future__ import annotations\n" + TEXT)
    code = by_itself(TEXT, str(file))
    offset = max(start for start, _, line in code.co_lines() if line == 6)
    assert locate((code, offset)).line == 6
    monkeypatch.setitem(sys.modules, "IPython.extensions.autoreload", ModuleType("autoreload"))
    at = locate((code, offset))
    assert (at.line, at.text) == (9, "return inner() * 2")
    made = traceback_at((code, offset), None)
    assert made is not None
    assert (made.tb_lineno, made.tb_frame.f_lineno, made.tb_frame.f_code.co_firstlineno) == (9, 9, 3)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    module = loaded(tmp_path / "gone.py", TEXT)
    (tmp_path / "gone.py").unlink()
    assert as_in_file(module.program.__code__) is None
