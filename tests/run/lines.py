"""Where an error stands, as a reader of its traceback sees it."""

from __future__ import annotations

import traceback
from pathlib import Path

import nnsight_graph

PACKAGE = str(Path(nnsight_graph.__file__).parent)


def ends_on(error: BaseException) -> tuple[str, str]:
    """File name and source text of the last entry of the traceback."""
    entry = traceback.extract_tb(error.__traceback__)[-1]
    return Path(entry.filename).name, entry.line or ""


def users_line(error: BaseException) -> tuple[str, str]:
    """The same for the last entry outside the package."""
    entry = [entry for entry in traceback.extract_tb(error.__traceback__) if not entry.filename.startswith(PACKAGE)][-1]
    return Path(entry.filename).name, entry.line or ""
