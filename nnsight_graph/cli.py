"""``nnsight-graph``: look at graph files, compare them, check them against a model, and run them."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nnsight_graph as library

from .disk import target_of
from .errors import NNsightError

_EXAMPLES = """examples:
  nnsight-graph show patch.nng
  nnsight-graph diff patch.nng other.nng
  nnsight-graph check patch.nng --model openai-community/gpt2 --prompt "The Eiffel Tower is in"
  nnsight-graph run patch.nng --model openai-community/gpt2 --prompt "The Eiffel Tower is in" --out values.safetensors

A graph file holds data alone: nothing in it runs but the operations that `show` prints, and those only with `run`. There, it is kept
within limits on how many operations it executes and how large a value may be, unless you say --unlimited, and, with --seconds, on how
long it takes: that is asked between operations and modules, so end the process yourself where one operation must not go on for long.
Exit codes: 0 it went well (diff: no difference), 1 it did not (diff: there are differences), 2 the command line is wrong."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(
        prog="nnsight-graph", description="Look at graph files, compare them, check them against a model, and run them.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="print the program, the modules it names, its constants, size and hash")
    show.add_argument("file", type=Path)
    diff = commands.add_parser("diff", help="compare two programs and their constants")
    diff.add_argument("file", type=Path)
    diff.add_argument("other", type=Path)
    texts = {"check": "try it on a model, without weights: nothing runs", "run": "run it on a model, and print what it saves"}
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path)
        command.add_argument(
            "--model", required=True, action="append", metavar="NAME", help="a name on the hub, or a folder; once for each of a session"
        )
        command.add_argument("--prompt", action="append", default=[], help="the input; once for each invoke of the program")
        command.add_argument("--parameter", action="append", default=[], metavar="NAME=NUMBER", help="another value for a named constant")
        command.add_argument("--max-new-tokens", type=int, metavar="N", help="for a program that generates")
        if name == "run":
            command.add_argument("--unlimited", action="store_true", help="run it without limits: it is your own, or of somebody you trust")
            command.add_argument("--seconds", type=_seconds, metavar="S", help="how long it may take; by default for ever")
            command.add_argument("--out", type=Path, metavar="FILE", help="write the saved tensors there, as safetensors")
    given, strange = parser.parse_known_args(argv)
    if strange:
        options = ["--" + name.replace("_", "-") for name in vars(given) if name not in ("command", "file", "other")]
        near = [f"; near: {name}" for name in difflib.get_close_matches(strange[0].partition("=")[0], options, 1)]
        parser.error(f"{given.command} does not take {' '.join(strange)}{''.join(near)}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code.
    """
    given = arguments(argv)
    try:
        return {"show": _show, "diff": _diff, "check": _check, "run": _run}[given.command](given)
    except (NNsightError, OSError, ValueError) as error:
        print(f"nnsight-graph: {error}", file=sys.stderr)
        return 1


def _show(given: argparse.Namespace) -> int:
    graph = library.load(given.file)
    print(graph)
    sites = ", ".join(dict.fromkeys(site.path or "the model" for site in graph.graph.sites))
    print(f"\n{graph.kind} of {len(graph)} nodes; modules: {sites or 'none'}")
    if graph.names:
        print(f"saves: {', '.join(graph.names)}")
    for name, value in graph.parameters.items():
        print(f"parameter {name}: {_described(value)}")
    for place, value in enumerate(graph.graph.constants):
        if hasattr(value, "shape") or len(repr(value)) > 40:  # the others stand in the program
            print(f"constant {place}: {_described(value)}")
    print(f"{given.file.stat().st_size} bytes, {graph.digest}")
    return 0


def _described(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _diff(given: argparse.Namespace) -> int:
    one, other = library.load(given.file), library.load(given.other)
    if one == other:
        print("no difference")
        return 0
    lines = difflib.unified_diff(str(one).splitlines(), str(other).splitlines(), str(given.file), str(given.other), lineterm="")
    print("\n".join(lines) or "the lines are the same")
    if one.names != other.names:
        print(f"they save {', '.join(one.names) or 'nothing'} and {', '.join(other.names) or 'nothing'}")
    pairs = list(zip(one.graph.constants, other.graph.constants, strict=False))
    for place, (left, right) in enumerate(pairs):
        if not _equal(left, right):
            print(f"constant {place}: {_described(left)} and {_described(right)} differ{_by(left, right)}")
    return 1


def _equal(left: Any, right: Any) -> bool:
    if type(left) is not type(right) or not hasattr(left, "shape"):
        return type(left) is type(right) and bool(left == right)
    return left.shape == right.shape and left.dtype == right.dtype and bool((left == right).all())


def _by(left: Any, right: Any) -> str:
    if not hasattr(left, "shape") or not hasattr(right, "shape") or left.shape != right.shape:
        return ""
    return f" by at most {float(abs(left - right).max()):g}" if left.dtype == right.dtype and left.dtype.is_floating_point else ""


def _inputs(given: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    graph = library.load(given.file)
    options: dict[str, Any] = {"parameters": dict(_parameter(text) for text in given.parameter)}
    if given.max_new_tokens is not None:
        options["max_new_tokens"] = given.max_new_tokens
    models = [library.LanguageModel(name) for name in given.model]
    return graph, models[0] if len(models) == 1 else models, options


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise ValueError(text)
    return seconds


def _parameter(text: str) -> tuple[str, float | int]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--parameter takes NAME=NUMBER, not {text!r}")
    try:
        return name, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise ValueError(f"--parameter takes NAME=NUMBER, not {text!r}") from None


def _check(given: argparse.Namespace) -> int:
    graph, model, options = _inputs(given)
    if given.prompt and graph.kind != "session":
        graph.check(model, *given.prompt, **options)
    elif lacking := graph.missing(model):
        print(f"nnsight-graph: {', '.join(given.model)} has no {', '.join(lacking)}", file=sys.stderr)
        return 1
    tried = "every line works on fake tensors" if given.prompt else "nothing was tried, since there is no --prompt"
    print(f"all modules are there; {'the lines of a session are not tried' if graph.kind == 'session' else tried}")
    return 0


def _run(given: argparse.Namespace) -> int:
    graph, model, options = _inputs(given)
    if given.out is not None:
        target_of(given.out)  # before anything is computed
    if given.unlimited and given.seconds is not None:
        raise ValueError("--seconds is a limit: leave out --unlimited")
    limits = None if given.unlimited else library.Limits(seconds=given.seconds)
    values = graph.run(model, *given.prompt, limits=limits, **options)
    for name, value in values.items():
        large = hasattr(value, "numel") and value.numel() > 8
        print(f"{name}: {_described(value) if large else value}")
    if given.out is not None:
        left = graph.write_values(values, given.out)
        print(f"{len(values) - len(left)} tensors in {given.out}" + (f"; no tensors: {', '.join(left)}" if left else ""))
    return 0
