#!/usr/bin/env python3
"""Writes nnsight_graph/ops/portable.tsv: which operations may stand in a graph that came from somebody else.

A name is denied by a rule of tools/portable_rules.py. What no rule denies is allowed if it has a row already, or stands in ALLOW
there; anything else is new, and a person has to decide: it is listed, and nothing is written, until it is accepted or denied.
The keywords of what is allowed are those of torch's signatures, stubs and schemas.

Usage: portable_table.py                    rewrite the table
       portable_table.py --check            print differences; exit status 1 if there are any
       portable_table.py --accept NAME ...  allow these names, which are new
"""
from __future__ import annotations

import argparse
import ast
import fnmatch
import inspect
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from nnsight_graph.ops.table import effect_of, function_of, names  # noqa: E402  (this tree's, wherever it is called from)
from tools.portable_rules import ALLOCATES, ALLOW, CLOSED_KEYWORDS, DENY, SIGNATURES, TRAPS  # noqa: E402

TABLE = ROOT / "nnsight_graph" / "ops" / "portable.tsv"

VERSION = 1
"""To be raised by one whenever a name that was allowed is denied, or takes fewer keywords: older files may then fail to load."""

TORCH = "2.13.0"
"""With which the table was last written, and has to be written again."""

HEADER = f"""\
# version: {VERSION}
# Operations in files of strangers: name, tab, `allow` or `deny`, tab, what it takes or why not, tab, notes. Sorted. Written by
# tools/portable_table.py; what a person decided stands in tools/portable_rules.py. A name without a row is denied.
#
# Names are those of table.tsv. Allowed: the keyword arguments that a file may give, separated by blanks, never `out`; positional
# arguments are torch's to check. Denied: a word for the reason; ops/portable.py says it in a sentence.
# Notes: allocates (the result may be larger than all arguments together, by numbers or as a product of shapes: measure before it
# runs) | broadcasts (as large as its arguments broadcast together) | most:3 (takes at most 3 positional arguments, the object of
# a method included; more is refused) | traps (with the smallest integers it may end the process: look at the numbers before it runs).
"""

SPACES = {
    "torch": torch,
    "torch.nn.functional": torch.nn.functional,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
    "torch.special": torch.special,
}
PREFIXES = {"torch.fft": "fft_", "torch.linalg": "linalg_", "torch.special": "special_", "torch.nn.functional": ""}
SECOND = {"dim": "axis", "keepdim": "keepdims"}  # numpy's words, which torch takes for its own everywhere


class Takes(NamedTuple):
    """What a function takes: parameters by name, and how many by position at most (None: any number)."""

    keywords: frozenset[str]
    most: int | None


def public() -> dict[str, Any]:
    """Every public function and type of torch's namespaces, and every public member of Tensor."""
    found: dict[str, Any] = {}
    for space, module in SPACES.items():
        for name in dir(module):
            value = getattr(module, name)
            if name[0] != "_" and callable(value):
                found[f"{space}.{name}"] = value
    for name, value in inspect.getmembers(torch.Tensor):
        if name[0] != "_":
            found[("." if callable(value) else "@") + name] = value
    return found


def written(words: str) -> Iterator[str]:
    """The patterns of a rule."""
    for word in words.split():
        prefixes = (".", "@", "torch.", "torch.nn.functional.", "torch.linalg.")
        yield from [prefix + word[1:] for prefix in prefixes] if word[0] == "~" else [word]


def reason(name: str, value: Any) -> str:
    """Why a name is denied, empty where no rule denies it."""
    for why, words in DENY.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in written(words)):
            return why
    if isinstance(value, type) and "." in name[1:]:
        return "type"
    return ""


@cache
def stubs() -> dict[str, list[ast.FunctionDef]]:
    """The overloads of torch's own type stubs, by our names."""
    found = defaultdict(list)
    folder = Path(torch.__file__).parent / "_C"
    for prefix, name in ("torch.", "_VariableFunctions.pyi"), (".", "__init__.pyi"):
        tree: Any = ast.parse((folder / name).read_text(encoding="utf-8"))
        if prefix == ".":
            tree = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TensorBase")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                found[prefix + node.name].append(node)
    return found


@cache
def schemas() -> dict[str, list[Any]]:
    """aten's schemas by name, without overloads with results to write into."""
    found = defaultdict(list)
    for schema in torch._C._jit_get_all_schemas():
        out = any(a.kwarg_only and a.alias_info and a.alias_info.is_write for a in schema.arguments)
        if schema.name.startswith("aten::") and not out:
            found[schema.name[6:]].append(schema)
    return found


def signatures(name: str) -> Iterator[Takes]:
    """What each overload of a function takes, as far as torch says."""
    space, _, short = name.rpartition(".")
    function = getattr(torch.Tensor, short, None) if not space else function_of(name)
    if space and isinstance(getattr(SPACES.get(space), f"{short}_with_indices", None), Callable):
        function = getattr(SPACES[space], f"{short}_with_indices")  # which the dispatcher of both has for a signature
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):  # else a wrapper, which says nothing
        yield described(
            ("" if p.kind is p.POSITIONAL_ONLY else p.name, p.kind.name.startswith("POSITIONAL"), p.kind is p.VAR_POSITIONAL)
            for p in parameters
        )
        return
    for node in stubs().get(name, ()):
        a = node.args
        positional = [*(("", True, False) for _ in a.posonlyargs), *((p.arg, True, False) for p in a.args)]
        yield described([*positional, *((p.arg, False, True) for p in [a.vararg] if p), *((p.arg, False, False) for p in a.kwonlyargs)])
    if name not in stubs():
        for schema in schemas().get(PREFIXES.get(space, "") + short, ()):
            yield described([("input" if a.name == "self" and space else a.name, not a.kwarg_only, False) for a in schema.arguments])


def described(parameters: Iterable[tuple[str, bool, bool]]) -> Takes:
    """From names (empty: by position only), whether each may come by position, and whether it stands for any number."""
    keywords, most, counting, variable = set[str](), 0, True, False
    for name, positional, any_number in parameters:
        closed = name in CLOSED_KEYWORDS or name.startswith("_")
        counting &= not closed
        variable |= any_number
        most += positional and counting
        if name and name != "self" and not closed and not any_number:
            keywords |= {name}
    return Takes(frozenset(keywords), None if variable else most)


@cache
def by_hand() -> dict[str, Takes]:
    """SIGNATURES by name; the last one holds."""
    found = {}
    for text, words in SIGNATURES.items():
        keywords, _, most = text.partition("/")
        found.update((name, Takes(frozenset(keywords.split()), int(most) if most.strip() else None)) for name in words.split())
    return found


def takes(name: str) -> Takes:
    """The keywords that a file may give to a function, and how many positional arguments."""
    if name in by_hand() or name[0] == "@":
        return by_hand().get(name, Takes(frozenset(), 1))
    found = list(signatures(name))
    closed = {word.partition("@")[0] for word in CLOSED_KEYWORDS if word.endswith("@" + name.rpartition(".")[2])}
    keywords = frozenset().union(*(one.keywords for one in found)) - closed
    if not inspect.isfunction(getattr(torch.Tensor, name[1:], None) if name[0] == "." else function_of(name)):
        keywords |= {SECOND[word] for word in keywords & SECOND.keys()}
    counts = [one.most for one in found]
    return Takes(keywords, None if None in counts or not counts else max(count for count in counts if count is not None))


def broadcasts(name: str) -> bool:
    """Whether two arguments that broadcast give a result larger than both, as a run shows."""
    one, two = torch.rand(31, 1) + 0.1, torch.rand(1, 37) + 0.1
    function = function_of(name)
    shapes: list[list[Any]] = [[one, two], [one, two, one], [one, one, two], [one > 0.5, two, one], [one, two > 0.5, 1.0]]
    for cast in (lambda t: t, lambda t: (t * 3).to(torch.int64), lambda t: t > 0.5):
        for arguments in shapes:
            given = [cast(a.clone()) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
            try:
                result = function(*given)
            except Exception:  # arguments that this operation does not take
                continue
            leaves = result if isinstance(result, (tuple, list)) else [result]
            limit = sum(a.numel() for a in given if isinstance(a, torch.Tensor))
            if any(isinstance(leaf, torch.Tensor) and leaf.numel() > limit for leaf in leaves):
                return True
    return False


def grows(name: str) -> str:
    """The note on the size of the results."""
    found = []
    if any(fnmatch.fnmatchcase(name, pattern) for word in ALLOCATES for pattern in written(word)):
        found.append("allocates")
    in_place = name[0] == "@" or (name[0] == "." and effect_of(name).mutates)
    if not in_place and ("." not in name or not found) and broadcasts(name):
        found.append("broadcasts")
    return " ".join(found)


def row(name: str, value: Any) -> str:
    """The text of a row behind its name."""
    if why := reason(name, value):
        return f"deny\t{why}\t"
    keywords, most = takes(name)
    traps = any(name == pattern for word in TRAPS for pattern in written(word))
    notes = [grows(name), "" if most is None else f"most:{most}", "traps" if traps else ""]
    return f"allow\t{' '.join(sorted(keywords))}\t{' '.join(filter(None, notes))}"


def read() -> dict[str, str]:
    """The rows that there are."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    return dict(line.split("\t", 1) for line in lines if line and line[0] != "#")  # type: ignore[misc]


def rows(accepted: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The table as it should be, and the names on which nobody has decided."""
    present, known = read(), public()
    denied = [word for words in DENY.values() for word in words.split() if word[0] != "~" and "*" not in word]
    every = {**dict.fromkeys([*names(), *ALLOW, *denied, *present]), **known}
    decided = {*present, *ALLOW, *accepted}
    new = [name for name, value in every.items() if name not in decided and not reason(name, value)]
    found = {}
    for name in sorted(every):
        lacking = name not in known and name[:5] == "torch"
        if name in present and lacking and not reason(name, None):
            found[name] = present[name]  # this torch lacks it
        elif name not in new:
            found[name] = row(name, every[name])
    return found, sorted(new)


def main() -> int:
    """Runs the command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments.add_argument("--accept", nargs="+", metavar="NAME", default=[], help="new names that may stand in files")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    accepted = [*names()] if options.accept == ["table.tsv"] else options.accept
    with torch.random.fork_rng():
        suggested, new = rows(accepted)
    if new:
        print(f"new, decide on each (--accept NAME, or a rule in tools/portable_rules.py): {' '.join(new)}")
        return 1
    if options.check:
        present = read()
        differing = [name for name in sorted({*present, *suggested}) if present.get(name) != suggested.get(name)]
        for name in differing:
            print(f"differs: {name}: table {present.get(name)!r}, torch {torch.__version__} {suggested.get(name)!r}")
        return 1 if differing else 0
    TABLE.write_text(HEADER + "".join(f"{name}\t{text}\n" for name, text in suggested.items()), encoding="utf-8")
    print(f"{len(suggested)} rows written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
