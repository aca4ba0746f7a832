"""What is not code gets into the wheel and the source distribution; what is no part of the package stays out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nnsight_graph"

builders = pytest.importorskip("hatchling.builders.plugin.interface")
if not (PACKAGE / "__init__.py").exists():
    pytest.skip("there is no package yet", allow_module_level=True)

from hatchling.builders.sdist import SdistBuilder  # noqa: E402
from hatchling.builders.wheel import WheelBuilder  # noqa: E402

pytestmark = pytest.mark.slow


def data_files() -> set[str]:
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    return {p.relative_to(ROOT).as_posix() for p in files}


@pytest.fixture(scope="module")
def wheel() -> set[str]:
    return {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}


@pytest.fixture(scope="module")
def source() -> set[str]:
    return {file.distribution_path.replace("\\", "/") for file in SdistBuilder(str(ROOT)).recurse_included_files()}


def test_all_data_is_in_the_wheel(wheel: set[str]) -> None:
    assert data_files() <= wheel


def test_nothing_else_is_in_the_wheel(wheel: set[str]) -> None:
    assert {path.split("/")[0] for path in wheel} == {"nnsight_graph"}
    assert [path for path in wheel if path.endswith(".pyc")] == []


@pytest.mark.parametrize("path", ["py.typed", "ops/table.tsv", "ops/portable.tsv", "huggingface/models"])
def test_the_known_data_is_there(path: str, wheel: set[str]) -> None:
    assert [file for file in wheel if f"{file}/".startswith(f"nnsight_graph/{path}/")] != []


def test_the_source_distribution_has_the_tests_and_the_data_too(source: set[str]) -> None:
    assert data_files() <= source
    assert {"Makefile", "tests/conftest.py", "tools/house.py", "LICENSE"} <= source
    assert [path for path in source if path.startswith((".venv", ".git/"))] == []


def test_the_version_stands_in_one_place() -> None:
    text = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    versions = re.findall(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert len(versions) == 1
    assert f"## [{versions[0]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert versions[0] not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
