"""Classes derived from an error's own type and from ours; needs no torch."""

from __future__ import annotations

import ast
import builtins
import copy
import pickle
import traceback
from pathlib import Path

import pytest

import nnsight_graph as nnsight
from nnsight_graph import errors
from nnsight_graph.errors import NNsightError, add_note, derived, derived_class

pytestmark = pytest.mark.torch_free


class Own(Exception):
    """With its own arguments."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a = a


KINDS = [
    ValueError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ZeroDivisionError,
    AttributeError,
    NotImplementedError,
    AssertionError,
    MemoryError,
    LookupError,
    Own,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_derived_class_is_both(kind):
    derived = derived_class(kind)
    error = derived("text", 3)
    assert isinstance(error, kind)
    assert isinstance(error, NNsightError)
    assert error.args == ("text", 3)
    assert (derived.__name__, derived.__module__, derived.__doc__) == (kind.__name__, kind.__module__, kind.__doc__)
    assert derived_class(kind) is derived
    assert str(kind("text") if kind is not Own else Exception("text")) == str(derived("text"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_a_derived_error_travels(kind, travel):
    error = travel(derived_class(kind)("text", 3))
    assert type(error) is derived_class(kind)
    assert error.args == ("text", 3)


@pytest.mark.parametrize(
    "kind",
    [
        errors.RecordError,
        errors.UnsetValueError,
        errors.CheckError,
        errors.MissedSiteError,
        errors.OutOfOrderError,
        errors.GraphFormatError,
    ],
)
def test_ours_stay_what_they_are(kind):
    assert derived_class(kind) is kind
    again = pickle.loads(pickle.dumps(kind("text")))
    assert (type(again), again.args) == (kind, ("text",))


def test_the_family():
    assert issubclass(errors.UnsetValueError, ValueError)
    assert issubclass(errors.OutOfOrderError, errors.MissedSiteError)
    assert errors.MissedProviderError is errors.MissedSiteError
    assert not any(issubclass(kind, NNsightError) for kind in (errors.EarlyStopException, errors.SkipException, errors.Cancelation))


def test_a_class_that_cannot_be_derived_from():
    class Final(Exception):
        def __init_subclass__(cls):
            raise TypeError("final")

    assert derived_class(Final) is NNsightError


def test_a_note_is_shown():
    error = derived_class(ValueError)("text")
    add_note(error, "a note")
    assert "a note" in "".join(traceback.format_exception(type(error), error, None))


def test_a_note_on_what_has_no_text():
    error = derived_class(KeyError)(3)
    add_note(error, "a note")
    assert error.args == (3,)


@pytest.mark.parametrize(
    ("fail", "names"),
    [
        (lambda: open("/no/such/file"), ("errno", "strerror", "filename")),
        (lambda: b"\xff".decode(), ("start", "end", "reason")),
        (lambda: exec("from os import nothing_of_the_kind"), ("name", "path")),
    ],
    ids=["OSError", "UnicodeDecodeError", "ImportError"],
)
def test_what_an_error_carries_beside_its_arguments(fail, names):
    try:
        fail()
    except Exception as raised:
        original = raised
    error = derived(original)
    assert [getattr(error, name) for name in names] == [getattr(original, name) for name in names]
    assert str(error) == str(original)


def test_names_of_nnsights_threads_say_where_to_look():
    import nnsight_graph

    with pytest.raises(AttributeError, match=r"has no attribute 'Interleaver': .*docs/migration\.md"):
        nnsight_graph.Interleaver
    with pytest.raises(AttributeError, match=r"has no attribute 'frobnicate'$"):
        nnsight_graph.frobnicate


_CAUGHT = {  # raised to be caught on the way: in a node, whose errors reach you as errors of this library, or where a file is read
    "cli.py", "ops", "run", "serialize", "compile", "graph",
}  # fmt: skip
_PROTOCOL = {  # what Python asks for, and answers itself
    ("record/proxy.py", "AttributeError"), ("record/__init__.py", "AttributeError"), ("__init__.py", "AttributeError"),

    ("model/tracer.py", "AttributeError"), ("model/handle.py", "AttributeError"),
    ("record/control/names.py", "ValueError"), ("errors.py", "AttributeError"),
}  # fmt: skip


def test_what_the_library_raises_is_an_error_of_its_own() -> None:
    package = Path(nnsight.__file__).parent
    found = []
    for file in sorted(package.rglob("*.py")):
        where = file.relative_to(package).as_posix()
        if where in _CAUGHT or where.partition("/")[0] in _CAUGHT:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                kind = getattr(builtins, node.exc.func.id, None)
                if isinstance(kind, type) and issubclass(kind, Exception) and (where, kind.__name__) not in _PROTOCOL:
                    found.append(f"{where}:{node.lineno} {kind.__name__}")
    assert not found
