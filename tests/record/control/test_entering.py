"""Which block is meant, how its native body is skipped, where its source comes from."""

from __future__ import annotations

import doctest
import importlib.util
import linecache
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nnsight_graph.errors import RecordError
from nnsight_graph.record import control
from nnsight_graph.record.control import block
from tests.record.control.toy import Trace, plain

pytestmark = pytest.mark.torch_free


class Other:
    """Some other context manager."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __enter__(self) -> str:
        self.events.append("enter")
        return "entered"

    def __exit__(self, *error: object) -> None:
        self.events.append(f"exit {error[0]}")


def loaded(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_native_block_is_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def enter() -> Any:
        with Trace() as t:
            x = t.input(1) + 1
        return t.rewritten

    assert enter() is False
    monkeypatch.setattr(block, "_decide", None)
    monkeypatch.setattr(block, "Block", None)
    assert enter() is False


def test_a_rewritten_block_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def enter(value: int) -> Any:
        with Trace() as t:
            x = 1 if t.input(value) else 2
        return t.rewritten, plain(x)

    assert enter(1) == (True, 1)
    monkeypatch.setattr(block, "_decide", None)
    assert enter(0) == (True, 2)


def test_a_block_on_one_line() -> None:
    with Trace() as t: x = 1 if t.input(0) else 2
    assert plain(x) == 2


def test_try_first_and_no_target() -> None:
    t = Trace()
    with t:
        try:
            x = 1 if t.input(0) else 2
        except BaseException:
            x = 3
    assert plain(x) == 2


def test_the_item_stands_first_in_the_middle_last() -> None:
    others = [Other() for _ in range(6)]
    with Trace() as t, others[0] as a, others[1]:
        x = a if t.input(1) else 2
    with others[2] as b, Trace() as t, others[3] as c:
        y = b + c if t.input(1) else 2
    with others[4], others[5] as d, Trace() as t:
        z = d if t.input(1) else 2
    assert [plain(v) for v in (x, y, z)] == ["entered", "enteredentered", "entered"]
    assert all(other.events == ["enter", "exit None"] for other in others)


def test_a_parenthesized_statement() -> None:
    with (
        Other() as a,
        Trace() as t,
        Other(),
    ):
        x = a if t.input(1) else 2
    assert plain(x) == "entered"


@pytest.mark.parametrize("failing", [False, True])
def test_in_a_finally(failing: bool) -> None:
    try:
        if failing:
            raise ValueError
    except ValueError:
        pass
    finally:
        with Other(), Trace() as t:
            x = 1 if t.input(0) else 2
    assert plain(x) == 2


def test_in_a_finally_on_the_way_out() -> None:
    seen = []

    def leave() -> None:
        try:
            raise KeyError
        finally:
            with Other(), Trace() as t:
                x = 1 if t.input(0) else 2
            seen.append(plain(x))

    with pytest.raises(KeyError):
        leave()
    assert seen == [2]


def test_targets_of_all_kinds() -> None:
    class Holder:
        trace: Any = None

    holder, table = Holder(), {}
    with Trace() as holder.trace:
        x = 1 if holder.trace.input(0) else 2
    with Trace() as table["t"]:
        y = 1 if table["t"].input(0) else 2
    assert (plain(x), plain(y)) == (2, 2)
    assert holder.trace.rewritten


def test_the_target_is_there_afterwards() -> None:
    trace = Trace()
    with trace as t:
        x = 1 if t.input(0) else 2
    assert t is trace


def test_a_block_within_a_rewritten_block_runs_in_it() -> None:
    with Trace(run=False) as outer:
        x = 1 if outer.input(0) else 2
        with Trace() as inner:
            y = inner.input(3) + 1
    assert (outer.rewritten, inner.rewritten, plain(y)) == (True, False, 4)


# ---------------------------------------------------------------------- refusals by form


def refused(text: str, program: Any) -> None:
    with pytest.raises(RecordError, match=text):
        program()


def test_return() -> None:
    def program() -> Any:
        with Trace() as t:
            if t.input(1):
                return 1
        return 2

    refused("contains `return`", program)


def test_yield() -> None:
    def program() -> Iterator[int]:
        with Trace() as t:
            if t.input(1):
                yield 1

    refused("contains `yield`", lambda: list(program()))


def test_await() -> None:
    async def program() -> None:
        with Trace() as t:
            if t.input(1):
                await program()

    refused("contains `await`", lambda: program().send(None))


def test_leaving_an_outer_loop() -> None:
    def program() -> None:
        for _ in range(2):
            with Trace() as t:
                if t.input(1):
                    break

    refused("leaves a loop", program)


def test_break_in_finally() -> None:
    def program() -> None:
        with Trace() as t:
            for _ in t.input([1]):
                try:
                    pass
                finally:
                    break  # noqa: B012

    refused("`break` or `continue` in a `finally`", lambda: loaded_without_warning(program))


def loaded_without_warning(program: Any) -> None:
    try:
        program()
    except RecordError as error:  # a loop, not a condition: the toy's proxy says so itself
        raise RecordError(f"{error}: {control.why_native(innermost(error))}") from None


def innermost(error: BaseException) -> Any:
    trace: Any = error.__traceback__
    while trace.tb_next is not None and trace.tb_next.tb_frame.f_code.co_name != "__iter__":
        trace = trace.tb_next
    return trace.tb_frame


def test_in_a_function_that_the_block_calls() -> None:
    def decide(x: Any) -> int:
        return 1 if x else 2

    def program() -> None:
        with Trace() as t:
            y = decide(t.input(1)) if t.input(1) else 0

    refused("a function that it calls", program)


def test_plain_values_in_such_blocks_are_no_matter() -> None:
    def program(flag: bool) -> int:
        with Trace() as t:
            x = t.input(1) + 1
            if flag:
                return 1
        return 2

    assert (program(True), program(False)) == (1, 2)


# ---------------------------------------------------------------------- where the source comes from

SCRIPT = """
from tests.record.control.toy import Trace, plain
with Trace() as t:
    x = 1 if t.input(0) else 2
print(plain(x), t.rewritten)
"""


def test_exec_has_no_source() -> None:
    refused("no source", lambda: exec(SCRIPT, {}))


@pytest.mark.parametrize("how", ["-c", "-"])
def test_command_line_and_stdin_have_no_source(how: str) -> None:
    given = {"args": [SCRIPT]} if how == "-c" else {"args": [], "input": SCRIPT}
    done = subprocess.run([sys.executable, how, *given.pop("args")], capture_output=True, text=True, check=False, **given)
    assert "no source" in done.stderr or done.stdout == "2 True\n"


def test_a_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = loaded(tmp_path / "script_of_a_test.py", SCRIPT)
    assert capsys.readouterr().out == "2 True\n"
    assert plain(module.x) == 2
    assert not [name for name in vars(module) if name.startswith("@")]


CELLS = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
shell.run_cell(sys.argv[1])
shell.run_cell("%%time\\n" + sys.argv[1])
"""


def test_a_cell_of_ipython() -> None:
    pytest.importorskip("IPython")
    done = subprocess.run([sys.executable, "-c", CELLS, SCRIPT], capture_output=True, text=True, check=False)
    assert "2 True" in done.stdout
    assert "no source" in done.stdout + done.stderr


def with_a_doctest() -> None:
    """An example.

    >>> from tests.record.control.toy import Trace, plain
    >>> with Trace() as t:
    ...     x = 1 if t.input(0) else 2
    >>> plain(x), t.rewritten
    (2, True)
    """


def test_a_doctest() -> None:
    found = doctest.DocTestFinder().find(with_a_doctest, globs={})
    assert doctest.DocTestRunner().run(found[0]).failed == 0


EDITED = """
from tests.record.control.toy import Trace, plain
def program(value):
    with Trace() as t:
        x = {} if t.input(value) > {} else 2
    return plain(x)
"""


@pytest.mark.parametrize("change", [("value", "0"), ("1", "3")])
def test_a_source_that_was_edited_after_import_is_noticed(tmp_path: Path, change: tuple[str, str]) -> None:
    path = tmp_path / "edited_after_import.py"
    module = loaded(path, EDITED.format(1, 0))
    path.write_text(EDITED.format(*change))
    linecache.checkcache(str(path))
    refused("changed after it was loaded", lambda: module.program(1))


def test_lines_that_were_put_above_after_import(tmp_path: Path) -> None:
    path = tmp_path / "commented_after_import.py"
    module = loaded(path, EDITED.format(1, 0))
    path.write_text("# one\n" + EDITED.format(1, 0).replace("with", "# a line\n    with"))
    linecache.checkcache(str(path))
    assert (module.program(1), module.program(0)) == (1, 2)


def test_a_source_that_was_read_before_the_edit_still_serves(tmp_path: Path) -> None:
    path = tmp_path / "read_before_edit.py"
    module = loaded(path, EDITED.format(1, 0))
    linecache.getlines(str(path))
    path.write_text("")
    assert module.program(1) == 1


# ---------------------------------------------------------------------- skipping


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
def test_without_a_free_tool_id() -> None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    taken = [number for number in range(6) if monitoring.get_tool(number) is None]
    for number in taken:
        monitoring.use_tool_id(number, "a test")
    try:
        test_a_block_on_one_line()
        test_try_first_and_no_target()
        test_in_a_finally(True)
    finally:
        for number in taken:
            monitoring.free_tool_id(number)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
def test_the_tool_id_is_given_back() -> None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    before = [monitoring.get_tool(number) for number in range(6)]
    test_a_block_on_one_line()
    assert [monitoring.get_tool(number) for number in range(6)] == before


def test_ten_threads_one_block() -> None:
    found: list[Any] = []

    def work(number: int) -> None:
        for turn in range(50):
            with Trace() as t:
                x = number if t.input(turn % 2) else -number
            found.append(plain(x) == (number if turn % 2 else -number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 500


def test_a_recursion_through_one_block() -> None:
    def nested(depth: int) -> Any:
        with Trace() as t:
            x = depth if t.input(depth) > 1 else 0
            below = nested(depth - 1) if depth else []
        return [plain(x), *below]

    assert nested(3) == [3, 2, 0, 0]


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
@pytest.mark.parametrize("kind", ["Trace", "Deeper"])
def test_coverage_is_undisturbed(core: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    if core == "sysmon" and sys.version_info < (3, 12):
        pytest.skip("there is no sys.monitoring")
    script = tmp_path / "covered.py"
    script.write_text(
        "import coverage, sys\n"
        f"cov = coverage.Coverage(data_file=None, include=[{str(tmp_path / 'traced.py')!r}])\n"
        "cov.start()\n"
        "import traced\n"
        "cov.stop()\n"
        "print(sorted(cov.get_data().lines(traced.__file__)), sys.gettrace())\n"
    )
    (tmp_path / "traced.py").write_text(
        f"from tests.record.control.toy import {kind} as Trace\n"
        "def run():\n"
        "    with Trace() as t:\n"
        "        if t.input(1):\n"
        "            x = 1\n"
        "        else:\n"
        "            x = 2\n"
        "    y = 3\n"
        "    return y\n"
        "run()\n"
        "def unused():\n"
        "    return 1\n"
    )
    environment = {"COVERAGE_CORE": core, "PYTHONPATH": f".:{tmp_path}", "PATH": ""}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "[1, 2, 3, 4, 5, 7, 8, 9, 10, 11] None\n", done.stderr
