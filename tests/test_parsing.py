"""Source is parsed while other threads parse, too."""

from __future__ import annotations

import ast

import pytest

from nnsight_graph.parsing import parse

pytestmark = pytest.mark.torch_free


def test_a_parse_that_another_thread_disturbed_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = ast.parse, []

    def disturbed(text: str, mode: str) -> ast.AST:
        calls.append(text)
        if len(calls) < 4:
            raise SystemError("AST constructor recursion depth mismatch (before=42, after=38)")
        return plain(text, mode=mode)

    monkeypatch.setattr(ast, "parse", disturbed)
    assert ast.unparse(parse("x  +  1", mode="eval")) == "x + 1"
    assert len(calls) == 4


def test_what_is_no_python_is_said() -> None:
    with pytest.raises(SyntaxError):
        parse("x +")
