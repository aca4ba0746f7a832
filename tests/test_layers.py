"""The package's folders are layers: each imports from lower ones only, and nothing is imported by the way."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.house import Import, Module, imports_below, read_package

pytestmark = pytest.mark.torch_free

ROOT = Path(__file__).parents[1]
PACKAGE = "nnsight_graph"
LEVELS = {
    0: {"errors", "cells", "parsing", "reloaded", "source_location", "config", "disk"},
    1: {"graph"},
    2: {"ops"},
    3: {"record", "check", "compile", "serialize", "view"},
    4: {"run"},
    5: {"model"},
    6: {"huggingface", "remote"},
    7: {"cli", "__init__", "__main__"},
}
LEVEL_OF = {unit: level for level, units in LEVELS.items() for unit in units}
FLAT_LEVELS = (0, 7)  # single files, which may know each other; import cycles are another check's affair
TORCH_FREE = {"errors", "cells", "parsing", "reloaded", "source_location", "config", "disk", "graph"}

# What may be imported in a function: packages that need not be there, and those too slow to load before someone needs them.
OPTIONAL = {"accelerate", "diffusers", "huggingface_hub", "IPython", "pandas", "peft", "PIL", "transformers", "vllm"}
OPTIONAL |= {"fastapi", "httpx", "pydantic", "socketio", "starlette", "uvicorn", "websockets"}
SLOW = {"asyncio", "html", "http", "sqlite3", "urllib", "torch._dynamo", "torch._inductor", "torch.export", "torch.distributed"}

MODULES = read_package(ROOT / PACKAGE)


def unit_of(name: str) -> str:
    """The folder or file directly under the package that a dotted name lies in."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def inner_imports(module: Module) -> Iterator[tuple[Import, str]]:
    """A module's imports from the package, each with the unit it comes from."""
    for found in module.imports:
        if found.source.split(".")[0] == PACKAGE:
            yield found, unit_of(found.target if found.target in MODULES else found.source)


def allowed(unit: str, other: str) -> bool:
    mine, its = LEVEL_OF[unit], LEVEL_OF[other]
    return unit == other or its < mine or (its == mine and mine in FLAT_LEVELS)


def wrong_directions(module: Module) -> list[str]:
    unit = unit_of(module.name)
    return [
        f"{module.relative}:{found.line}: {unit} (level {LEVEL_OF[unit]}) imports {other} (level {LEVEL_OF[other]})"
        for found, other in inner_imports(module)
        if not found.for_types_only and not allowed(unit, other)
    ]


def belongs_to(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def test_every_file_has_a_level() -> None:
    assert {unit_of(name) for name in MODULES} <= LEVEL_OF.keys()


def test_imports_go_down() -> None:
    assert [line for module in MODULES.values() for line in wrong_directions(module)] == []


def test_functions_import_optional_and_slow_packages_only() -> None:
    hidden = [(m, i) for m in MODULES.values() for i in m.imports if i.in_function and not i.for_types_only]
    wrong = {f"{m.relative}:{i.line}: {i.source}" for m, i in hidden if not belongs_to(i.target, OPTIONAL | SLOW)}
    assert sorted(wrong) == []


def test_only_the_package_itself_imports_by_name() -> None:
    """`import_module` and `__import__` with a name inside the package would go around the layers."""
    lower = [m for m in MODULES.values() if LEVEL_OF[unit_of(m.name)] < 7]
    assert [f"{m.relative}:{node.lineno}" for m in lower for node in imports_by_name(m.tree)] == []


def imports_by_name(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0]
            if isinstance(name, ast.Constant) and str(name.value).startswith((PACKAGE, ".")):
                yield node


def test_the_lowest_levels_name_no_torch() -> None:
    low = [m for m in MODULES.values() if unit_of(m.name) in TORCH_FREE]
    assert [f"{m.relative}:{i.line}" for m in low for i in m.imports if belongs_to(i.target, {"torch"}) and not i.for_types_only] == []


@pytest.mark.parametrize("name", ["", *(f".{unit}" for unit in sorted(TORCH_FREE))])
def test_the_lowest_levels_load_without_torch(name: str) -> None:
    if PACKAGE + name not in MODULES:
        pytest.skip(f"there is no {PACKAGE}{name}")
    code = f"import sys; sys.modules['torch'] = sys.modules['transformers'] = None; import {PACKAGE}{name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SAMPLE = """
from typing import TYPE_CHECKING
from . import sibling
from ..graph import nodes
from nnsight_graph.run.local import run
if TYPE_CHECKING:
    from nnsight_graph.model import Envoy
else:
    import torch
def f():
    import transformers.generation as g
"""


def test_imports_are_read_right() -> None:
    found = list(imports_below(ast.parse(SAMPLE), "nnsight_graph.ops", in_function=False, for_types_only=False))
    assert [(i.target, i.in_function, i.for_types_only) for i in found] == [
        ("typing.TYPE_CHECKING", False, False),
        ("nnsight_graph.ops.sibling", False, False),
        ("nnsight_graph.graph.nodes", False, False),
        ("nnsight_graph.run.local.run", False, False),
        ("nnsight_graph.model.Envoy", False, True),
        ("torch", False, False),
        ("transformers.generation", True, False),
    ]


def test_an_import_upwards_or_sideways_is_found() -> None:
    assert allowed("run", "record")
    assert allowed("compile", "compile")
    assert allowed("errors", "config")
    assert not allowed("graph", "ops")
    assert not allowed("record", "compile")
    assert not allowed("ops", "__init__")
