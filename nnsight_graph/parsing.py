"""Python source as a syntax tree, also while other threads parse."""

from __future__ import annotations

import ast
from typing import Any


def parse(text: str, mode: str = "exec") -> Any:
    """What :func:`ast.parse` gives.

    The threads of CPython 3.11 count the depth of the trees that they make in one place. Where two parse at the same time, one may meet a
    ``SystemError`` ("AST constructor recursion depth mismatch"), whatever its text is.

    Args:
        text: The source.
        mode: ``"exec"`` or ``"eval"``.

    Raises:
        SyntaxError: The text is no Python.

    Example:
        >>> parse("1 + 2", mode="eval").body.right.value
        2
    """
    for _ in range(100):
        try:
            return ast.parse(text, mode=mode)
        except SystemError:
            continue
    return ast.parse(text, mode=mode)
