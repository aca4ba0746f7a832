"""A program that is traced computes what the same program computes as plain Python."""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.record.control.programs import Writer
from tests.record.control.toy import UNBOUND, Trace, plain

pytestmark = pytest.mark.torch_free

COUNT = {"LONG": 400, "TINY": 6}.get(next((name for name in ("LONG", "TINY") if os.environ.get("NNSIGHT_GRAPH_" + name) == "1"), ""), 40)
GROUPS = 8


class Plainly:
    """The same block, as plain Python would run it: steps and collections loop by hand, so programs without them only."""

    steps = None

    def __enter__(self) -> Plainly:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def compiled(source: str, name: str) -> Callable[..., dict[str, Any]]:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {}
    exec(compile(source, name, "exec"), namespace)
    function: Callable[..., dict[str, Any]] = namespace["program"]
    return function


def as_loops(source: str) -> str:
    """Blocks over steps and collections as the loops that they stand for."""
    return "\n".join(_as_loop(line) for line in source.split("\n"))


def _as_loop(line: str) -> str:
    if line.lstrip().startswith("with t."):
        margin, (head, name) = line[: len(line) - len(line.lstrip())], line.strip()[:-1].split(" as ")
        return f"{margin}for {name} in {'range(3)' if 'all()' in head else 'xs'}:"
    return line


def outcome(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any] | str:
    try:
        return function(*arguments)
    except (NameError, TypeError, IndexError, ValueError) as error:
        return type(error).__name__


def difference(seed: int) -> str:
    source = Writer(seed).program()
    name = f"<program {seed}>"
    try:
        expected = outcome(compiled(as_loops(source), name + " plain"), Plainly(), lambda value: value)
        trace = Trace()
        found = outcome(compiled(source, name), trace, trace.input)
    finally:
        linecache.cache.pop(name, None), linecache.cache.pop(name + " plain", None)
    if isinstance(expected, str) or isinstance(found, str):
        same = isinstance(expected, str) and isinstance(found, str)
        return "" if same else f"{source}\nplain: {expected}\ntraced: {found}"
    names = [key for key in {**expected, **found} if key not in ("t", "trace", "make")]
    wrong = [key for key in names if plain(found.get(key, UNBOUND)) != expected.get(key, UNBOUND)]
    different = "".join(f"{key}: {expected.get(key)} != {plain(found.get(key))}\n" for key in wrong)
    return different and f"{source}\n{wrong}\n{expected}\n" + str(
        {key: plain(value) for key, value in found.items()}
    )




@pytest.mark.parametrize("group", range(GROUPS))
def test_a_traced_program_computes_what_the_plain_one_does(group: int) -> None:
    for seed in range(group * COUNT, (group + 1) * COUNT):
        assert difference(seed) == ""


def test_the_programs_are_rewritten() -> None:
    rewritten = 0
    for seed in range(20):
        trace = Trace()
        with suppress(Exception):
            compiled(Writer(seed).program(), f"<rewritten {seed}>")(trace, trace.input)
        rewritten += trace.rewritten
        linecache.cache.pop(f"<rewritten {seed}>")
    assert rewritten >= 15
