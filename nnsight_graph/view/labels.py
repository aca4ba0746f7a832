"""Labels as they can be shown: printable, and of a known width."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    r"""The text with everything that is not printable (newlines, control characters) escaped.

    >>> visible("a\n\x00")
    'a\\n\\x00'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def columns(text: str) -> int:
    """How many columns of a terminal the text takes.

    >>> columns("tower"), columns("塔")
    (5, 2)
    """
    return sum(0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def shortened(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits into ``width`` columns, with an ellipsis.

    >>> shortened("Charlottenburg", 6)
    'Charl…'
    """
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[:-1]
    return text + "…"
