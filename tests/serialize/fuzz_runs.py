"""Runs changed programs within tight limits, each in a process of its own: `python -m tests.serialize.fuzz_runs SECONDS [SEED]`.

Prints what no program may do: end the process, go on for long, take much memory, change the model, leave hooks. Such a program is written
to ``corpus``, whose files are tried by every test run.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nnsight_graph import GraphFormatError, LanguageModel, Limits, NNsightError
from nnsight_graph.model.saved import SavedGraph
from nnsight_graph.ops.portable import is_portable, keywords_of
from nnsight_graph.ops.table import names
from nnsight_graph.serialize.container import pack
from nnsight_graph.serialize.content import Content
from tests.serialize.programs import PROGRAMS

CORPUS = Path(__file__).parent / "corpus"
LIMITS = Limits(operations=3_000, value_bytes=16 << 20, integer_bits=512)
SECONDS, MEGABYTES = 15, 600
OPERATIONS = sorted(name for name in names() if is_portable(name))
PYTHON = [name for name in OPERATIONS if "." not in name and "@" not in name]
EDITS = [name for name in OPERATIONS if name.endswith("_") and name[0] == "."]
NUMBERS = [0, 1, 2, -1, 3, 7, 1_000, 10**6, 2**31, 2**62, 2**63 - 1, -(2**63), 10**30]
POINTS = ["output", "input", "inputs"]


def changed(document: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A document with a few changes that keep its form: other operations, operands, numbers, places."""
    for _ in range(rng.randint(1, 5)):
        rng.choice([_operation, _insert, _insert, _constant, _operand, _site, _modes])(document, rng)
    return document


def _nodes(document: dict[str, Any]) -> list[list[Any]]:
    found: list[list[Any]] = []
    pending = [document["body"][0]]
    while pending:
        for node in pending.pop():
            found.append(node)
            pending += [region[0] for region in (node[4] if len(node) > 4 else [])]
    return found


def _any_operation(rng: random.Random) -> str:
    return rng.choice(rng.choice([OPERATIONS, PYTHON, EDITS]))


def _operation(document: dict[str, Any], rng: random.Random) -> None:
    rng.choice(_nodes(document))[0] = _any_operation(rng)


def _new_operand(document: dict[str, Any], rng: random.Random, below: int) -> Any:
    kind = rng.randrange(8)
    if kind < 4 and below > 0:
        return rng.randrange(below)
    if kind < 6:
        document.setdefault("constants", []).append(["i", str(rng.choice(NUMBERS))])
        return ["c", len(document["constants"]) - 1]
    if kind == 6:
        return ["g", rng.choice(["tuple", "list"]), [_new_operand(document, rng, below) for _ in range(rng.randrange(4))]]
    return rng.choice(["True", "None", "torch.float32", "torch.int8", "..."])


def _insert(document: dict[str, Any], rng: random.Random) -> None:
    """A line at the end: no number changes."""
    body = document["body"][0]
    count = len(_nodes(document)) + sum(len(node[4]) for node in _nodes(document) if len(node) > 4)
    target = _any_operation(rng)
    keywords = [[word, _new_operand(document, rng, count)] for word in sorted(keywords_of(target)) if rng.random() < 0.2]
    body.append([target, [_new_operand(document, rng, count) for _ in range(rng.randint(1, 3))], None, keywords])
    document["saves"] = [*document.get("saves", []), [count, f"new_{count}"]]
    body.append(["save", [count]])


def _constant(document: dict[str, Any], rng: random.Random) -> None:
    if document.get("constants"):
        document["constants"][rng.randrange(len(document["constants"]))] = ["i", str(rng.choice(NUMBERS))]


def _operand(document: dict[str, Any], rng: random.Random) -> None:
    nodes = _nodes(document)
    place = rng.randrange(len(nodes))
    if len(nodes[place]) > 1 and nodes[place][1]:
        nodes[place][1][rng.randrange(len(nodes[place][1]))] = _new_operand(document, rng, place)


def _site(document: dict[str, Any], rng: random.Random) -> None:
    sites = [node[2] for node in _nodes(document) if len(node) > 2 and node[2]]
    if sites:
        site, other = rng.choice(sites), rng.choice(sites)
        site[0] = rng.choice([other[0], site[0].rpartition(".")[0], "transformer.wte", "transformer.h.3.attn"])
        site[1] = rng.choice([site[1], site[1], *POINTS])


def _modes(document: dict[str, Any], rng: random.Random) -> None:
    under = [node for node in _nodes(document) if node[0] == "under"]
    if under:
        rng.choice(under)[1] = [f"grad={rng.random() < 0.5}, inference={rng.random() < 0.3}"]


def state_of(module: torch.nn.Module) -> list[Any]:
    """What a run has to leave as it was."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    hooks = sum(len(one._forward_hooks) + len(one._forward_pre_hooks) + len(one._backward_hooks) for one in module.modules())
    forwards = [name for name, one in module.named_modules() if "forward" in one.__dict__]
    plain = [repr(getattr(module, "config", "")), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()]
    values = [(name, tensor.dtype, tensor.shape, tensor.requires_grad, tensor.grad is None, hash_of(tensor)) for name, tensor in tensors]
    return [values, hooks, forwards, *plain]


def hash_of(tensor: torch.Tensor) -> int:
    return hash(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())


Programs = list[tuple[Content, tuple[Any, ...], dict[str, Any]]]


def attempt(lm: LanguageModel, programs: Programs, before: list[Any], seed: int) -> str:
    """Run one changed program: what came of it, beginning with ``!`` where it may not come."""
    _, inputs, kwargs = programs[seed % len(programs)]
    return outcome_of(lm, made(programs, seed), inputs, kwargs, before)


def made(programs: Programs, seed: int) -> Content:
    """The program of a seed."""
    content, _, _ = programs[seed % len(programs)]
    document = changed(json.loads(content.text), random.Random(seed))
    return Content(json.dumps(document).encode(), content.tensors)


def outcome_of(lm: LanguageModel, content: Content, inputs: tuple[Any, ...], kwargs: dict[str, Any], before: list[Any]) -> str:
    """What comes of a program."""
    try:
        graph = SavedGraph(content)
    except GraphFormatError:
        return "refused"
    outcome = "ran"
    try:
        graph.run(lm, *inputs, limits=LIMITS, **kwargs)
    except NNsightError as error:
        outcome = type(error).__name__
    except MemoryError:
        outcome = "! MemoryError"
    except Exception as error:
        outcome = f"raised {type(error).__name__}"
    after = state_of(lm._module)
    if after == before:
        return outcome
    return f"! changed: {[one for one, other in zip(after[0], before[0], strict=False) if one != other][:2] or after[1:]}"


def child(lm: LanguageModel, programs: Programs, seeds: list[int], out: int) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = state_of(lm._module)
    for seed in seeds:
        os.write(out, f"{seed} begins\n".encode())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = attempt(lm, programs, before, seed)
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
        outcome = f"! {taken} megabytes" if taken > MEGABYTES else outcome
        os.write(out, f"{seed} {outcome}\n".encode())
        if outcome[0] == "!":
            break
    os._exit(0)


def watch(lm: LanguageModel, programs: Programs, seeds: list[int], told: Callable[[int, str], None]) -> int:
    """Run programs in a process of their own, until one does what it may not; how many were run."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        child(lm, programs, seeds, writing)
    os.close(writing)
    running, began, done, rest = -1, time.monotonic(), 0, b""
    while True:
        if select.select([reading], [], [], 0.5)[0]:
            more = os.read(reading, 1 << 16)
            if not more:
                break
            *lines, rest = (rest + more).split(b"\n")
            for line in lines:
                seed, _, outcome = line.decode().partition(" ")
                running, began = (int(seed), time.monotonic()) if outcome == "begins" else (-1, began)
                if outcome != "begins":
                    done += 1
                    told(int(seed), outcome)
        if running >= 0 and time.monotonic() - began > SECONDS:
            os.kill(pid, 9)
            break
    _, status = os.waitpid(pid, 0)
    os.close(reading)
    if running >= 0:
        done += 1
        told(running, f"! no end after {SECONDS} s" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9 else f"! status {status}")
    return done


def main(seconds: float, first: int) -> int:
    torch.set_num_threads(1)
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    recorded = [record(lm) for record in PROGRAMS.values()]
    programs = [(tracer.graph.detach()._content, inputs, kwargs) for tracer, inputs, kwargs in recorded]
    lm._module.zero_grad(set_to_none=True)
    counts: Counter[str] = Counter()

    def told(seed: int, outcome: str) -> None:
        counts[outcome.split(":")[0]] += 1
        if outcome[0] == "!":
            print(f"seed {seed}: {outcome}", flush=True)
            CORPUS.mkdir(exist_ok=True)
            (CORPUS / f"seed_{seed}.nng").write_bytes(pack(*made(programs, seed)))

    began, seed = time.monotonic(), first
    while time.monotonic() - began < seconds:
        seed += watch(lm, programs, list(range(seed, seed + 500)), told) or 1
    print(dict(counts.most_common()))
    return sum(count for outcome, count in counts.items() if outcome[0] == "!")


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) > 0)
