"""`tools/house.py` counts what it says it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import house

pytestmark = pytest.mark.torch_free


def package(folder: Path, **files: str) -> dict[str, house.Module]:
    for name, text in {"__init__": "", **files}.items():
        path = folder / "pack" / f"{name}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
    return house.read_package(folder / "pack")


def test_a_small_package_has_no_faults(tmp_path: Path) -> None:
    modules = package(tmp_path, nouns="def verb():\n    return 1\n", verbs="from . import nouns\n")
    assert house.faults(modules) == []
    assert house.import_graph(modules)["pack.verbs"] == {"pack.nouns"}


def test_a_cycle_is_found_and_an_import_in_a_function_is_none(tmp_path: Path) -> None:
    late = "def f():\n    from . import a\n"
    assert house.faults(package(tmp_path / "1", a="from . import b\n", b="import pack.a\n")) == ["import cycle: pack.a -> pack.b"]
    assert house.faults(package(tmp_path / "2", a="from . import b\n", b=late)) == []


def test_long_files_and_functions_and_empty_names_are_found(tmp_path: Path) -> None:
    body = "    x = 1\n" * house.FUNCTION_MAX
    modules = package(tmp_path, utils="x = 1\n" * (house.FILE_MAX + 1), long="def f():\n" + body, short="def f(): ...\n" * 2)
    assert house.faults(modules) == [
        "file over 400 lines: utils.py (401)",
        "name says nothing: utils.py",
        "function over 60 lines: long.py:1 f (61)",
    ]


def test_the_docstring_does_not_count(tmp_path: Path) -> None:
    modules = package(tmp_path, doc='def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert [f.length for f in modules["pack.doc"].functions] == [2]


def test_the_command_answers_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package(tmp_path, helper="")
    assert house.main([str(tmp_path / "pack")]) == 1
    assert "name says nothing: helper.py" in capsys.readouterr().out
    assert house.main([str(tmp_path / "absent")]) == 2
