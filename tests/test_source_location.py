"""Where a line was written; needs no torch."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import pytest

from nnsight_graph import source_location
from nnsight_graph.source_location import assigned_name, is_users, locate, traceback_at, user_place

pytestmark = pytest.mark.torch_free


def code_in(name):
    """Code like no other, in a file of that name."""
    return compile(repr(name), name, "exec")


def here():
    frame = sys._getframe(1)
    return frame.f_code, frame.f_lasti


def test_a_place_is_a_line():
    at = locate(here())
    assert (Path(at.file).name, at.line, at.function) == ("test_source_location.py", sys._getframe().f_lineno - 1, "test_a_place_is_a_line")
    assert at.text == "at = locate(here())"
    assert str(at) == f"test_source_location.py:{at.line}"


def test_a_call_over_several_lines():
    at = locate(
        here(
        ),
    )  # fmt: skip
    first = test_a_call_over_several_lines.__code__.co_firstlineno
    assert at.line == first + 2


def test_code_without_source():
    scope = {"here": here}
    exec("\n\nplace = here()", scope)
    at = locate(scope["place"])
    assert (at.file, at.line, at.text) == ("<string>", 3, "")


@pytest.mark.parametrize(
    "name", ["<string>", "<stdin>", "<ipython-input-3-abc>", "/home/me/work.py", "work.py", "/tmp/ipykernel_1/123.py", __file__]
)
def test_the_users_own(name):
    assert is_users(code_in(name))


@pytest.mark.parametrize(
    "name", ["<frozen importlib._bootstrap>", json.__file__, source_location.__file__, "/opt/env/lib/python3.11/site-packages/a/b.py"]
)
def test_what_belongs_to_others(name):
    assert not is_users(code_in(name))


def test_the_same_code_in_two_files():
    mine, theirs = (compile("answer = 42", name, "exec") for name in ("/home/me/work.py", "/opt/env/lib/python3.11/site-packages/a/b.py"))
    assert (is_users(mine), is_users(theirs)) == (True, False)


def test_the_nearest_place_of_the_users():
    found = []
    json.dumps({"a": Path}, default=lambda _: found.append(user_place(sys._getframe(1))) or 1)
    at = locate(found[0])
    assert at.function == "test_the_nearest_place_of_the_users"
    assert at.text.startswith("json.dumps")


def test_a_traceback_on_a_frame_that_is_there():
    place = here()
    made = traceback_at(place, sys._getframe())
    entries = traceback.extract_tb(made)
    assert [entry.line for entry in entries] == ["place = here()"]
    assert made.tb_frame is sys._getframe()


def test_a_traceback_on_a_frame_that_is_gone():
    def inner():
        return here()

    place = inner()
    (entry,) = traceback.extract_tb(traceback_at(place, sys._getframe()))
    assert (entry.line, entry.name, Path(entry.filename).name) == ("return here()", "inner", "test_source_location.py")


def test_windows_and_relative_paths_do_not_break():
    for name in ("C:\\work\\a.py", "./a.py", "a b.py", ""):
        assert is_users(code_in(name)) in (True, False)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("x = save()", "x"), ("x = save(); y = x", "x"), ("a[0] = save()", None), ("a.b = save()", None), ("save()", None),
        ("print(save())", None), ("[save() for _ in a]", None), ("x: int = save()", "x"),
        ("y = 1; save(y)", "y"), ("y = a; y.save()", "y"), ("b = a; b.c.save()", None), ("y = 1; save(y, y)", None), ("save(1)", None),
    ],
)  # fmt: skip
def test_the_variable_that_a_value_is_assigned_to(line: str, name: str | None) -> None:
    places = []

    def save(*_: object) -> int:
        frame = sys._getframe(1)
        places.append((frame.f_code, frame.f_lasti))
        return 1

    kind = type("A", (dict,), {"save": save})
    scope = {"save": save, "a": kind({0: 1})}
    scope["a"].c = kind()
    exec(f"def function():\n    {line}\nfunction()", scope)
    assert assigned_name(places[0]) == name
