"""``python -m benchmarks``: measures, then prints Markdown tables."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from nnsight_graph import CONFIG

from .measure import CLOCKS, Budget, Estimate, interleave, paired
from .peers import Peer, installed_peers
from .report import Row, as_data, figure_table, machine, scenario_table
from .scenarios import FIGURES, SCENARIOS, Figure, Reading, Scenario, Variants

Named = TypeVar("Named", Scenario, Figure)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("text", nargs="*", help="only scenarios and figures whose name contains one of these")
    parser.add_argument("-k", action="append", default=[], metavar="TEXT", help="the same")
    parser.add_argument("--rounds", type=int, default=Budget.rounds, help="at most so many rounds per scenario (%(default)s)")
    parser.add_argument("--seconds", type=float, default=Budget.seconds, help="at most so long per scenario (%(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="cpu: without what other processes took (%(default)s)")
    parser.add_argument("--no-grad", action="store_true", help="with autograd switched off")
    parser.add_argument("--large", action="store_true", help="scenarios of 124M parameters too")
    parser.add_argument("--peers", action="store_true", help="other libraries too, those that are installed")
    parser.add_argument("--target", action="store_true", help="put the targets beside what was measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    return parser.parse_args(argv)


def measure_scenario(scenario: Scenario, budget: Budget) -> Row:
    """Check that all variants agree, then time them in turns."""
    variants = scenario.build()
    variants.check()
    ways = {"hooks": variants.hooks, "hooks again": variants.hooks, "traced": variants.traced}
    if variants.replayed is not None:
        ways["replayed"] = variants.replayed
    taken = interleave(ways, budget)
    hooks = taken["hooks"]
    return Row(
        name=scenario.name,
        hooks=statistics.median(hooks),
        control=paired(taken["hooks again"], hooks),
        traced=paired(taken["traced"], hooks),
        replayed=paired(taken["replayed"], hooks) if "replayed" in taken else None,
        target=scenario.target,
        replay_target=scenario.replay_target,
        rounds=len(hooks),
    )


def with_peers(row: Row, peers: Sequence[Peer], budget: Budget) -> Row:
    """The row with the peers that have an adapter for its scenario; one that fails costs a line."""
    ratios = {}
    for peer in peers:
        if row.name in peer.scenarios:
            try:
                ratios[peer.title] = measure_peer(peer.scenarios[row.name](SCENARIOS[row.name].build()), budget)
            except Exception as error:
                print(f"{peer.title} is left out of {row.name!r}: {type(error).__name__}: {error}", file=sys.stderr)
    return replace(row, peers=ratios)


def measure_peer(variants: Variants, budget: Budget) -> Estimate:
    """A peer over hooks, once both agree."""
    variants.check()
    taken = interleave({"hooks": variants.hooks, "peer": variants.traced}, budget)
    return paired(taken["peer"], taken["hooks"])


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    texts = [*args.text, *args.k]
    chosen = [one for one in SCENARIOS.values() if _picked(one.name, texts) and (args.large or not one.large)]
    figures = [one for one in FIGURES.values() if _picked(one.name, texts)]
    if args.list or not (chosen or figures):
        names = [one.name for one in chosen] + [one.name for one in figures]
        print("\n".join(names) or "no scenario has such a name")
        return 0 if args.list else 2
    torch.set_num_threads(1)
    CONFIG.APP.AUTO_STOP = False  # hooks run forwards to their end; what ending them saves is measured by scenarios of its own
    budget = Budget(rounds=args.rounds, seconds=args.seconds, clock=CLOCKS[args.clock])
    peers = installed_peers() if args.peers else []
    with torch.set_grad_enabled(not args.no_grad):
        rows = [measure_scenario(_announced(one), budget) for one in chosen]
        readings = [reading for one in figures for reading in _announced(one).measure(budget)]
        rows = [with_peers(row, peers, budget) for row in rows]  # last: importing some of them changes torch
    show(rows, readings, [peer.title for peer in peers], args)
    if args.json is not None:
        args.json.write_text(json.dumps(as_data(rows, readings), indent=1) + "\n", encoding="utf-8")
    return 0


def show(rows: Sequence[Row], readings: Sequence[Reading], peers: Sequence[str], args: argparse.Namespace) -> None:
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(f"Ratios over hand-written hooks: medians of paired rounds (95 % interval); {args.clock} time; {about}.\n")
    tables = [scenario_table(rows, peers, args.target)] if rows else []
    tables += [figure_table(readings, args.target)] if readings else []
    print("\n\n".join(tables))


def _picked(name: str, texts: Sequence[str]) -> bool:
    return not texts or any(text.lower() in name.lower() for text in texts)


def _announced(one: Named) -> Named:
    print(one.name, file=sys.stderr, flush=True)
    return one


if __name__ == "__main__":
    sys.exit(main())
