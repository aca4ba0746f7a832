"""Cells of a notebook, run in a real kernel: a process of its own with ipykernel, spoken to through jupyter_client.

The kernel runs this Python with this environment, keeps its history in memory and reads no settings of the person who tests. It is
reached through sockets in a temporary folder (on Windows through 127.0.0.1), and ends by itself when this process is gone.

A test takes the fixture `kernel`, one for each test module:

    def test_a_cell(kernel):
        reply = kernel.run("x = 20 + 1\nprint('hello')", "2 * x")
        assert (reply.stdout, reply.values) == ("hello\n", {"2 * x": 42})
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("ipykernel")  # without it, and in a module that imports this one, all tests are skipped
pytest.importorskip("jupyter_client")

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

START, CELL = 120.0, 120.0  # seconds: machines that test may be slow and busy
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Reply:
    """What came of one cell."""

    number: int = 0  # as in `In[number]`
    stdout: str = ""
    stderr: str = ""
    displayed: list[dict[str, Any]] = field(default_factory=list)  # by MIME type: of `display(…)` and of the cell's last line
    error: str | None = None  # the name of the class
    message: str = ""
    traceback: str = ""  # as the notebook shows it, without colours
    values: dict[str, Any] = field(default_factory=dict)  # of the expressions that were asked for: literals, else their text

    @property
    def text(self) -> str:
        """The last thing displayed, as plain text."""
        return str(self.displayed[-1].get("text/plain", "")) if self.displayed else ""

    @property
    def html(self) -> str:
        """The last thing displayed, as HTML."""
        return str(self.displayed[-1].get("text/html", "")) if self.displayed else ""

    @property
    def arrows(self) -> list[str]:
        """The lines that the traceback points at, outermost first."""
        return [line.split(maxsplit=2)[-1].strip() for line in self.traceback.splitlines() if re.match(r"-+> \d+ ", line)]

    def take(self, message: dict[str, Any]) -> None:
        """Keep what a message of the kernel says."""
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream" and content["name"] == "stdout":
            self.stdout += content["text"]
        elif kind == "stream":
            self.stderr += content["text"]
        elif kind == "error":  # of a cell, or shown by a magic that goes on
            self.error, self.message = content["ename"], COLOURS.sub("", content["evalue"])
            self.traceback = COLOURS.sub("", "\n".join(content["traceback"]))
        elif kind in ("display_data", "execute_result"):
            self.displayed.append(content["data"])


class _ThisPython(KernelSpecManager):  # type: ignore[misc]
    """Knows one kernel, this Python: none has to be installed in a home, and none that is installed there is taken."""

    folder = ""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        options = ["--HistoryManager.hist_file=:memory:", f"--BaseIPythonApplication.ipython_dir={self.folder}"]
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", *options]
        quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # else the debugger warns of frozen modules
        return KernelSpec(argv=argv, display_name=kernel_name, language="python", env=quiet)


class Kernel:
    """A running kernel; see the module."""

    def __init__(self, folder: str) -> None:
        local = {"transport": "ipc", "ip": f"{folder}/socket"} if os.name == "posix" else {"ip": "127.0.0.1"}
        specs = _ThisPython()
        specs.folder = folder
        self._process = KernelManager(kernel_spec_manager=specs, connection_file=f"{folder}/connection.json", **local)
        self._client: BlockingKernelClient | None = None

    def start(self) -> None:
        self._process.start_kernel()
        self._connect()

    def _connect(self) -> None:
        self._client = self._process.client()
        self._client.start_channels(hb=False)
        self._client.wait_for_ready(timeout=START)

    def run(self, cell: str, *expressions: str, seconds: float = CELL) -> Reply:
        """Run a cell as a notebook does; then evaluate the expressions, if it raised nothing."""
        return self._run(cell, expressions, seconds, silent=False)

    def value(self, expression: str) -> Any:
        """The value of an expression: a literal, else its text. No cell is counted."""
        return self._run("", (expression,), CELL, silent=True).values[expression]

    def _run(self, cell: str, expressions: tuple[str, ...], seconds: float, silent: bool) -> Reply:
        assert self._client is not None
        reply = Reply()
        wanted = {expression: expression for expression in expressions}
        options = {"silent": silent, "store_history": not silent, "allow_stdin": False, "user_expressions": wanted}
        try:
            content = self._client.execute_interactive(cell, timeout=seconds, output_hook=reply.take, **options)["content"]
        except TimeoutError:
            self.restart()  # or it would be busy with this cell in the next test, too
            raise
        reply.number = content["execution_count"]
        if content["status"] != "ok" and reply.error is None:
            reply.error = content["status"]  # aborted
        reply.values = {name: _value(found) for name, found in content.get("user_expressions", {}).items()}
        return reply

    def restart(self) -> None:
        """Begin anew: no names, no history, cells are counted from 1."""
        self._disconnect()
        self._process.restart_kernel(now=True)
        self._connect()

    def interrupt(self) -> None:
        """What the notebook's stop button does."""
        self._process.interrupt_kernel()

    def end(self) -> None:
        self._disconnect()
        if self._process.has_kernel:
            self._process.shutdown_kernel(now=True)
        self._process.context.destroy(linger=0)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
            self._client = None


def _value(found: dict[str, Any]) -> Any:
    if found["status"] != "ok":
        return f"{found['ename']}: {found['evalue']}"
    text = found["data"]["text/plain"]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@contextmanager
def running_kernel() -> Iterator[Kernel]:
    """A kernel that is killed in the end, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="cells") as folder:
        kernel = Kernel(folder)
        try:
            kernel.start()
            yield kernel
        finally:
            kernel.end()
