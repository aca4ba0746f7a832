"""The table of families in docs/batches.md, and the list in padded_alike.py, from what running every family gave.

``python -m tests.huggingface.family_table --write`` runs them all, which takes a quarter of an hour, and writes both.
"""

from __future__ import annotations

import re
import sys
import textwrap
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import transformers

from tests.huggingface.every_family import is_alike, parts
from tests.huggingface.tiny_families import LeftOut, families

ROOT = Path(__file__).parents[2]
PAGE, LIST = ROOT / "docs" / "batches.md", ROOT / "nnsight_graph" / "huggingface" / "padded_alike.py"
START, END = "<!-- families: written by python -m tests.huggingface.family_table --write -->", "<!-- end of families -->"

# The reason of a refusal in a few words: the first that fits. A refusal that none fits fails the tests.
REASONS = {
    r"takes no attention_mask": "takes no attention mask",
    r"cannot be padded on the left": "numbers columns, and cannot be told otherwise",
    r"gives a padded prompt other numbers .* state": "what it returns of its state counts the padding",
    r"gives a padded prompt other numbers": "its layers mix tokens with padding",
    r"which of its dimensions, if any, holds": "the tokens of all prompts in one dimension, or a scan that ends before",
}
_INSIDE = (
    "routers, experts and what else sees the tokens of all prompts in one dimension, or what comes after a choice that depends on data. "
    "`model.path.rows = dim` says which dimension has rows."
)
Outcome = Mapping[str, str]


def reason(outcome: str) -> str:
    """A refusal's reason in a few words."""
    return next((words for pattern, words in REASONS.items() if re.search(pattern, outcome)), outcome)


def row(part: str) -> str:
    """The row of the table to which a part of an examination belongs."""
    if part.startswith("padded"):
        return f"prompts of unequal lengths, {part}"
    if part.endswith(" read"):
        return "sites"
    return "a block read and " + ("edited in place" if part.endswith("edited") else "replaced")


def refusals(found: Outcome) -> set[str]:
    """Why, and where, a class is refused: sites inside blocks are left to their own line."""
    return {f"{row(part)}: {reason(outcome)}" for part, outcome in found.items() if outcome.startswith("refused") and row(part) != "sites"}


def wrong(found: Outcome) -> list[str]:
    """What of a class is wrong, or refused with no known reason."""
    bad = [f"{part}: {outcome}" for part, outcome in found.items() if outcome.startswith("WRONG")]
    return bad + [f"{part}: {outcome}" for part, outcome in found.items() if outcome.startswith("refused") and reason(outcome) == outcome]


def table(every: Mapping[str, Outcome], left_out: Mapping[str, str]) -> str:
    """The section of the page, between its two marks."""
    rows: dict[str, list[str]] = {}
    for found in every.values():
        for part, outcome in found.items():
            rows.setdefault(row(part), []).append(outcome.split(":")[0])
    names = {"sites": "one module of each kind read, inside blocks and around them"}
    built = f"{len(every)} classes of transformers {transformers.__version__} were built tiny"
    lines = [
        f"{built}, with random weights, and each was compared with the same model run plainly:", "",
        "| In one invoke of several | right | refused |", "|---|---|---|",
        *(f"| {names.get(name, name)} | {outcomes.count('right')} | {outcomes.count('refused')} |" for name, outcomes in rows.items()),
        "", "Refused are:", "",
    ]  # fmt: skip
    why: dict[str, list[str]] = {}
    for name, found in every.items():
        for each in refusals(found):
            why.setdefault(each, []).append(name)
    lines += [_item(each, why[each]) for each in sorted(why)]
    inside = [any(row(part) == "sites" and text.startswith("refused") for part, text in found.items()) for found in every.values()]
    lines += [
        f"- *modules inside blocks*, in {sum(inside)} classes, most of them mixtures of experts: {_INSIDE}", "",
        "Not built: " + "; ".join(f"`{name}` ({text})" for name, text in sorted(left_out.items())) + ".",
    ]  # fmt: skip
    return "\n".join(map(_wrapped, lines))


def _wrapped(line: str) -> str:
    return line if line.startswith("|") else textwrap.fill(line, 140, subsequent_indent="  " * line.startswith("- "))


def _item(why: str, names: Iterable[str]) -> str:
    return f"- {why}: " + ", ".join(f"`{name}`" for name in sorted(names))


def on_the_page() -> dict[str, set[str]]:
    """For each class that the page names as refused, where and why."""
    section = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    found: dict[str, set[str]] = {}
    for item in re.findall(r"^- ([^*].*?)(?=^- |^$)", section, re.MULTILINE | re.DOTALL):
        why, _, names = " ".join(item.split()).partition(": `")
        for name in re.findall(r"\w+", names.replace("`", " ")):
            found.setdefault(name, set()).add(why)
    return found


def write(every: Mapping[str, Outcome], left_out: Mapping[str, str], alike: Iterable[str]) -> None:
    """Put what was found into the page and the list."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(START)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{table(every, left_out)}\n{END}{after}", encoding="utf-8")
    text = LIST.read_text(encoding="utf-8")
    classes = "\n".join(textwrap.wrap(" ".join(sorted(alike)), 124, initial_indent="    ", subsequent_indent="    ")).strip()
    LIST.write_text(re.sub(r'(PADDED_ALIKE = frozenset\(\n    """).*?(""")', rf"\g<1>{classes}\2", text, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    """Run every family; print what is wrong, or write what was found."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    every, left_out, alike, bad = {}, {}, [], []
    for name in families():
        try:
            every[name] = parts(name)
            alike += [name] * is_alike(name)
        except LeftOut as error:
            left_out[name] = str(error)
            continue
        bad += [f"{name}: {each}" for each in wrong(every[name])]
        print(name, *wrong(every[name]), sep="\n    ", flush=True)
    if bad:
        sys.exit("\n".join(bad))
    if "--write" in sys.argv:
        write(every, left_out, alike)


if __name__ == "__main__":
    main()
