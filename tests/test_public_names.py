"""The public names and their signatures are those of `golden/public_names.txt`.

After a change that is meant: `python -m tests.test_public_names --write`, and a line in CHANGELOG.md.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = "nnsight_graph"
GOLDEN = Path(__file__).parent / "golden" / "public_names.txt"
WRITE = "python -m tests.test_public_names --write"


def describe(package: ModuleType) -> list[str]:
    """A line for each public name, and an indented one for each public method or property of a class."""
    return [line for name in sorted(package.__all__) for line in describe_name(name, getattr(package, name))]


def describe_name(name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}{signature(value)}" + (f": {bases}" if bases else "")
        yield from (f"    {describe_member(key, member)}" for key, member in sorted(own_members(value).items()))
    elif isinstance(value, ModuleType):
        yield f"module {name}"
    elif inspect.isroutine(value):
        yield f"def {name}{signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def describe_member(name: str, member: object) -> str:
    if isinstance(member, classmethod | staticmethod):
        return f"{type(member).__name__} {name}{signature(member.__func__)}"
    if inspect.isfunction(member):
        return f"def {name}{signature(member)}"
    return f"{'property' if inspect.isdatadescriptor(member) else 'attribute'} {name}"


def own_members(cls: type) -> dict[str, object]:
    """What a class and its parents inside the package define under a public name."""
    found: dict[str, object] = {}
    for part in cls.__mro__:
        if part.__module__.split(".")[0] == PACKAGE:
            found = {name: member for name, member in vars(part).items() if not name.startswith("_")} | found
    return found


def signature(callable_: object) -> str:
    """Names, kinds and defaults of the parameters; not their types, which print otherwise on every Python."""
    try:
        found = inspect.signature(callable_)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(?)"
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return re.sub(r"<(.+?)(?: object)? at 0x[0-9a-f]+>", r"<\1>", str(inspect.Signature(bare)))


def undocumented(package: ModuleType) -> Iterator[str]:
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            if not value.__doc__:
                yield name
            methods = [key for key, member in own_members(value).items() if inspect.isfunction(member)] if inspect.isclass(value) else []
            yield from (f"{name}.{key}" for key in methods if not inspect.getdoc(getattr(value, key)))


@pytest.fixture
def package() -> ModuleType:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("there is no package yet")
    return importlib.import_module(PACKAGE)


def test_names_and_signatures_are_the_recorded_ones(package: ModuleType) -> None:
    recorded = GOLDEN.read_text(encoding="utf-8").splitlines()
    changes = "\n".join(difflib.unified_diff(recorded, describe(package), "recorded", "found", lineterm=""))
    assert not changes, f"the public names changed; if that is meant: {WRITE}\n{changes}"


def test_every_public_name_is_documented(package: ModuleType) -> None:
    assert list(undocumented(package)) == []


def test_every_public_name_is_listed_by_dir(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {WRITE}")
    GOLDEN.write_text("".join(line + "\n" for line in describe(importlib.import_module(PACKAGE))), encoding="utf-8")
