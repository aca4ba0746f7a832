"""Where a line was written; needs no torch."""

from __future__ import annotations

import gc
import inspect
import io
import json
import pdb  # noqa: T100
import sys
import traceback
import weakref
from pathlib import Path

import pytest

from nnsight_graph import source_location
from nnsight_graph.source_location import assigned_name, is_users, locate, place_of, traceback_at, user_place

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
    known = [1]
    place = here()
    made = traceback_at(place, sys._getframe())
    assert [entry.line for entry in traceback.extract_tb(made)] == ["place = here()"]
    assert made.tb_frame.f_locals["known"] is known
    assert made.tb_frame.f_globals is globals()


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("place = here()\nmade = at(place)\n", "<module>"),
        ("def inner():\n    x = 1\n    place = here()\n    return at(place)\nmade = inner()\n", "inner"),
        ("@plain\ndef inner():\n    place = here()\n\n\n    return at(place)\nmade = inner()\n", "inner"),
        ("class Inner:\n    x = 1\n    place = here()\n    made = at(place)\nmade = Inner.made\n", "Inner"),
        ("def inner():\n    place = here(\n        1,\n    )\n    yield at(place)\nmade = next(inner())\n", "inner"),
    ],
)
def test_each_way_to_ask_for_the_line(text, function):
    names = {
        "here": lambda *_: (sys._getframe(1).f_code, sys._getframe(1).f_lasti),
        "at": lambda place: traceback_at(place, sys._getframe(1)), "plain": lambda function: function,
    }  # fmt: skip
    exec(compile(text, "<a cell>", "exec"), names)
    made, line = names["made"], 1 + next(number for number, line in enumerate(text.splitlines()) if "here(" in line)
    assert (made.tb_lineno, made.tb_frame.f_lineno, made.tb_next) == (line, line, None)
    assert (made.tb_frame.f_code.co_filename, made.tb_frame.f_code.co_name) == ("<a cell>", function)
    assert locate(made.tb_frame.f_locals["place"]).line == line


def test_the_function_begins_where_it_begins():
    """Pytest, IPython and `inspect` show the lines from there on."""
    made = traceback_at(here(), sys._getframe())
    code = made.tb_frame.f_code
    assert code.co_firstlineno == sys._getframe().f_code.co_firstlineno
    assert inspect.getsource(made.tb_frame) == inspect.getsource(test_the_function_begins_where_it_begins)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no columns")
def test_the_columns_are_marked():
    place, other = (here(), 1 + 1)
    line, marks = "".join(traceback.format_tb(traceback_at(place, sys._getframe()))).splitlines()[1:]
    assert line[marks.index(marks.strip()) :][: len(marks.strip())] == "here()"
    assert other == 2


def test_a_place_without_columns_marks_nothing():
    at = locate(here())
    text = "".join(traceback.format_tb(traceback_at(place_of(at), None)))
    assert "at = locate(here())" in text
    assert "^" not in text


def test_variables_are_those_of_that_moment():
    number = 1
    made = traceback_at(here(), sys._getframe())
    number += 1
    assert (made.tb_frame.f_locals["number"], number) == (1, 2)


def test_nothing_is_kept_of_a_function_that_goes_on():
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    made = traceback_at(here(), sys._getframe())
    del large, made
    gc.collect()
    assert gone() is None


def test_a_debugger_after_the_error():
    known = [1, 2]
    written = io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("p known\nwhere\nq\n"), stdout=written, nosigint=True, readrc=False)
    debugger.use_rawinput = False
    debugger.reset()
    debugger.interaction(None, traceback_at(here(), sys._getframe()))
    assert "[1, 2]" in written.getvalue()
    assert "-> debugger.interaction(None, traceback_at(here()" in written.getvalue()
    assert known


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
