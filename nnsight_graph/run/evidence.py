"""Which dimension of what passes at each site holds the rows of a batch, as two scans with n and n + 1 rows tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..compile.plan import LayoutKey
from ..graph import Site
from ..ops.layout import Answer, Answers, Held, Layout, Rows, map_answers, with_declaration
from .modules import ModuleIndex
from .scan import Scan
from .specs import Spec

_POINTS = {"in": "inputs", "out": "output", "result": "result"}
_SHOWN = {"in": "input", "out": "output", "result": "result"}


def answers_of(one: Any, other: Any, rows: int) -> Answers:
    """What two values of a site tell, one with ``rows`` rows, the other with one more.

    >>> one, other = (Spec(torch.Size((7, n, 4)), torch.float32, torch.device("cpu")) for n in (2, 3))
    >>> answers_of(one, other, 2)
    Held(dim=1, tokens=False, rank=3)
    """
    if isinstance(one, Spec) and isinstance(other, Spec):
        if len(one.shape) != len(other.shape):
            return Answer.MIXED
        grown = [(dim, sizes) for dim, sizes in enumerate(zip(one.shape, other.shape, strict=True)) if sizes[0] != sizes[1]]
        if not grown:
            return Answer.NONE
        return Held(grown[0][0], rank=len(one.shape)) if len(grown) == 1 and grown[0][1] == (rows, rows + 1) else Answer.MIXED
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: answers_of(item, other[key], rows) for key, item in one.items() if key in other}
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        if len(one) != len(other):
            return Answer.MIXED
        return tuple([answers_of(a, b, rows) for a, b in zip(one, other, strict=True)])
    fields = getattr(type(one), "__dataclass_fields__", None)
    if fields is not None and type(one) is type(other):
        return {name: answers_of(getattr(one, name, None), getattr(other, name, None), rows) for name in fields}
    return None


def both(one: Answers, other: Answers) -> Answers:
    """What holds whichever of two ways the model takes."""
    if one == other:
        return one
    if type(one) is dict and type(other) is dict:
        return {**one, **other, **{key: both(item, other[key]) for key, item in one.items() if key in other}}
    if type(one) is tuple and type(other) is tuple and len(one) == len(other):
        return tuple(map(both, one, other))
    return other if one is None else one if other is None else Answer.UNKNOWN


class Evidence:
    """What is known of the rows at the sites of a model, for calls of one structure.

    Args:
        scans: For the first step, and perhaps for others, one or more pairs of scans: where truths depend on data, one for either.
        rows: How many rows the first of a pair has; the second has one more.
    """

    def __init__(self, scans: Sequence[Sequence[tuple[Scan, Scan]]] = (), rows: int = 2) -> None:
        self._known: list[dict[tuple[str, str], dict[int, Answers]]] = []
        self._ended = {scan.at for pairs in scans for pair in pairs for scan in pair if scan.stopped and scan.at}
        for pairs in scans:
            known: dict[tuple[str, str], dict[int, Answers]] = {}
            for one, other in pairs:
                for site, value in one.values.items():
                    if site in other.values:
                        calls = known.setdefault((site.path, site.point), {})
                        found = answers_of(value, other.values[site], rows)
                        calls[site.call] = both(calls[site.call], found) if site.call in calls else found
            self._known.append(known)

    def answers(self, path: str, point: str, step: int, call: int) -> Answers:
        """What is known of a site; ``UNKNOWN`` where no scan came there."""
        for known in (self._known[step:] + self._known[:step]) if step < len(self._known) else self._known:
            calls = known.get((path, point))
            if calls is not None:
                if call in calls:
                    return calls[call]
                first, *others = calls.values()
                if all(other == first for other in others):
                    return first
        return Answer.UNKNOWN

    def is_doubtful(self, path: str, modules: Mapping[str, torch.nn.Module]) -> bool:
        """Whether a module is, or stands in, one of a kind in which a scan ended: numbers may choose what passes (a mixture's experts)."""
        kinds = {type(modules.get(ended)) for ended in self._ended}
        parts = path.split(".")
        return any(type(modules.get(".".join(parts[:count]))) in kinds for count in range(1, len(parts) + 1))

    def beside(self, path: str, point: str, modules: Mapping[str, torch.nn.Module]) -> Answers:
        """What is known of other items of a list of modules, where all agree: which of them run may depend on data (experts)."""
        parts, kind, found = path.split("."), type(modules.get(path)), []
        for place in [place for place, part in enumerate(parts) if part.isdigit()]:
            pattern = re.compile(r"\.".join([*map(re.escape, parts[:place]), r"\d+", *map(re.escape, parts[place + 1 :])]))
            for known in self._known:
                alike = [key for key in known if key[1] == point and pattern.fullmatch(key[0]) and type(modules.get(key[0])) is kind]
                found += [answers for key in alike for answers in known[key].values()]
        if not found or any(answers != found[0] for answers in found):
            return Answer.UNKNOWN
        # What does not depend on the batch in one block may be something else in another: dense and sparse ones are of one class.
        return map_answers(found[0], lambda known: Answer.UNKNOWN if known is Answer.NONE else known)


class Layouts:
    """The layouts of what passes at sites, for calls of one structure.

    Args:
        evidence: What scans tell.
        modules: The model.
        declarations: What was declared, by path.
        given: Which arguments of the call hold rows, where the call is the model's own.
        result: Whether what the call returns is the result that was scanned.
    """

    def __init__(
        self, evidence: Evidence, modules: ModuleIndex, declarations: Mapping[str, Any], given: Answers = None, result: bool = True
    ) -> None:
        self._evidence, self._modules, self._declarations, self._given, self._result = evidence, modules, declarations, given, result
        self._made: dict[tuple[str, str, int, int], Layout] = {}
        self._of_keys: dict[LayoutKey, Layout] = {}

    def at(self, path: str, direction: str, step: int = 0, call: int = 0) -> Layout:
        """The layout of what passes there."""
        key = (path, direction, step, call)
        made = self._made.get(key)
        return self._made.setdefault(key, self._layout(*key)) if made is None else made

    def _layout(self, path: str, direction: str, step: int, call: int) -> Layout:
        answers: Answers = Answer.UNKNOWN
        if direction != "result" or self._result:
            answers = self._evidence.answers(path, _POINTS[direction], step, call)
        if not path and direction == "in" and self._given is not None:
            answers = self._given
        if answers is Answer.UNKNOWN and path in self._modules.modules and direction != "result":
            answers = self._evidence.beside(path, _POINTS[direction], self._modules.modules)
        if answers is Answer.UNKNOWN:
            answers = of_torch(self._modules.modules.get(path), direction)
        otherwise: Any = Answer.UNKNOWN
        if self._evidence.is_doubtful(path, self._modules.modules):
            otherwise = Answer.DOUBTFUL
            answers = map_answers(answers, lambda known: Answer.DOUBTFUL if known is Answer.UNKNOWN else known)
        if path in self._declarations:
            otherwise = self._declarations[path]
            answers = with_declaration(answers, otherwise)
        return Layout(str(Site(path, _SHOWN[direction], call)), self._way(path), answers, otherwise)

    def _way(self, path: str) -> str:
        """How rows are declared there."""
        if hasattr(self._modules.modules.get(path), "rows"):
            return f'model.declare_rows("{path}", {{}})'
        words = [f"[{word}]" if word.isdigit() else f".{word}" for word in path.split(".") if word]
        return f"model{''.join(words)}.rows = {{}}"

    def rows_in(self, key: LayoutKey, rows: Sequence[Rows]) -> Rows:
        """The rows of an invoke, or of all before it, at a visit."""
        start, stop, size, multiples, _ = mine = rows_in(key, rows)
        if (start == 0 and stop == size) or key[3] not in _POINTS:
            return mine
        layout = self._of_keys.get(key)
        if layout is None:
            layout = self._of_keys[key] = self.at(*key[2:])
        return Rows(start, stop, size, multiples, layout)


def rows_in(key: LayoutKey, rows: Sequence[Rows]) -> Rows:
    """The rows of an invoke (``"rows"``, number), or of all before it (``"before"``, count)."""
    kind, number = key[:2]
    return rows[number] if kind == "rows" else rows[number - 1]._replace(start=0)


def of_torch(module: torch.nn.Module | None, direction: str) -> Answers:
    """What torch says of its own modules: ``batch_first``."""
    nn = torch.nn
    if isinstance(module, nn.RNNBase):
        passing, state = Held(0 if module.batch_first else 1, rank=3), Held(1, rank=3)
        states = (state, state) if isinstance(module, nn.LSTM) else state
        return (passing, states) if direction == "out" else ((passing, states), {"input": passing, "hx": states})
    layers = module.layers[0] if isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)) else module
    attention: Any = getattr(layers, "self_attn", layers)
    if not isinstance(layers, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer, nn.MultiheadAttention)):
        return Answer.UNKNOWN
    passing = Held(0 if attention.batch_first else 1, rank=3)
    if isinstance(layers, nn.MultiheadAttention):
        return (passing, Held(0)) if direction == "out" else ((passing,) * 3, dict.fromkeys(("query", "key", "value"), passing))
    given = (passing,) if isinstance(layers, nn.TransformerEncoderLayer) else (passing, passing)
    return passing if direction == "out" else (given, dict.fromkeys(("src", "tgt", "memory"), passing))
