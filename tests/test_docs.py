"""The code blocks of README.md and docs/, and the examples of the docstrings, do what they say.

A page is one program: its ```python blocks run from top to bottom in one namespace, in an empty folder. A line right above a block says
what is different about it: `<!-- not run -->` (also as ```python no-run), or `<!-- expect: SomeError -->` for a block that has to raise.
A ```text block under `<!-- output -->` right after a block is what that block prints; `...` stands for anything.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
SOURCES = [path for path in sorted((ROOT / "nnsight_graph").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*(.*?)\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block: the lines between its fences, counted from 1 for the first of them."""

    info: str
    first: int
    lines: list[str]
    remark: str = ""
    output: str | None = None

    @property
    def runs(self) -> bool:
        return self.info.split()[:1] == ["python"] and "no-run" not in self.info and self.remark != "not run"

    @property
    def error(self) -> str:
        return self.remark.removeprefix("expect:").strip() if self.remark.startswith("expect:") else ""

    @property
    def end(self) -> int:
        return self.first + len(self.lines)


def fenced_blocks(text: str) -> list[Block]:
    found: list[Block] = []
    fence, info, first = "", "", 0
    lines = text.splitlines()
    for at, line in enumerate(lines):
        match = FENCE.match(line)
        if match and not fence:
            fence, info, first = match[1], match[2], at + 1
        elif match and match[1].startswith(fence) and not match[2]:
            found.append(Block(info, first + 1, lines[first:at], remark_above(lines, first - 1)))
            fence = ""
    return found


def remark_above(lines: list[str], fence_at: int) -> str:
    match = re.fullmatch(r"\s*<!--\s*(.*?)\s*-->\s*", lines[fence_at - 1]) if fence_at else None
    return match[1] if match else ""


def blocks_to_run(text: str) -> list[Block]:
    """The blocks that run, each with the output that the page shows for it."""
    found = fenced_blocks(text)
    lines = text.splitlines()
    for at, (block, following) in enumerate(itertools.pairwise(found)):
        between = [line for line in lines[block.end : following.first - 2] if line.strip()]
        if following.remark == "output" and following.info == "text" and between == between[-1:]:
            found[at] = replace(block, output="\n".join(following.lines) + "\n")
    return [block for block in found if block.runs]


def as_module(text: str, blocks: list[Block]) -> str:
    """The page as a Python file with every line of code where it stands on the page; the rest is empty."""
    lines = [""] * len(text.splitlines())
    for block in blocks:
        lines[block.first - 1 : block.end - 1] = block.lines
    return "\n".join(lines) + "\n"


def run_page(page: Path, folder: Path) -> None:
    """Raises where a block does not do what the page says. The code is a file of its own, so that tracebacks and source show its lines."""
    text = page.read_text(encoding="utf-8")
    blocks = blocks_to_run(text)
    source = folder / f"{page.stem.replace('-', '_')}_page.py"
    source.write_text(as_module(text, blocks), encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__", "__file__": str(source)}
    for block in blocks:
        printed = run_block(block, source, namespace, f"{page.name}:{block.first}")
        if block.output is not None and not doctest.OutputChecker().check_output(block.output, printed, OPTIONS):
            pytest.fail(f"{page.name}:{block.first} prints\n{printed}\nand not\n{block.output}", pytrace=False)


def run_block(block: Block, source: Path, namespace: dict[str, object], where: str) -> str:
    code = compile("\n" * (block.first - 1) + "\n".join(block.lines) + "\n", str(source), "exec", dont_inherit=True)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
    except Exception as error:
        if block.error and block.error in {cls.__name__ for cls in type(error).__mro__}:
            return printed.getvalue()
        error.args = (f"[{where}] {error}",)
        raise
    if block.error:
        pytest.fail(f"{where} does not raise {block.error}", pytrace=False)
    return printed.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, folder: Path) -> None:
    run_page(page, folder)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_docstrings(source: Path, folder: Path) -> None:
    name = ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    runner, report = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS), io.StringIO()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        torch.manual_seed(0)
        runner.run(example, out=report.write)
    assert runner.failures == 0, report.getvalue()
    assert runner.tries > 0, f"no example of {name} was found"


PAGE = """# A page
<!-- not run -->
```python
install()
```
```python no-run
install()
```
```python
x = 1
print("one", x)
```
<!-- output -->
```text
one ...
```
<!-- expect: LookupError -->
```python
{}[x]
```
"""


def test_a_page_runs(folder: Path) -> None:
    (folder / "page.md").write_text(PAGE, encoding="utf-8")
    run_page(folder / "page.md", folder)
    assert (folder / "page_page.py").read_text(encoding="utf-8").splitlines()[9] == PAGE.splitlines()[9] == "x = 1"


@pytest.mark.parametrize(("old", "new"), [("one ...", "two"), ("{}[x]", "x"), ("x = 1", "x = 1 / 0"), ("<!-- not run -->", "")])
def test_a_page_that_says_something_wrong_fails(folder: Path, old: str, new: str) -> None:
    (folder / "page.md").write_text(PAGE.replace(old, new), encoding="utf-8")
    with pytest.raises((pytest.fail.Exception, ZeroDivisionError, NameError)):
        run_page(folder / "page.md", folder)
