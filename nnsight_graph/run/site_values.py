"""What passes at sites in a rehearsal: fakes of what a scan found, and what lines put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch

from ..graph import Node, Site
from ..ops.evaluate import first_argument, put, put_inputs, with_first
from ..ops.layout import NOTHING_KNOWN, Layout, Rows
from ..ops.rows import first_of, join_rows, rows_of, rows_of_first
from .fakes import Fakes, fake_of
from .likeness import are_alike, on_cpu
from .modules import ModuleIndex
from .scan import Scan, Unknown
from .specs import spec_of
from .twin import Mirror

outside_fakes = torch.utils._python_dispatch._disable_current_modes
"""Scans are made outside the mode of a rehearsal."""


class Failure(Exception):
    """A line that would fail.

    Attributes:
        node: The line's node.
        error: What it would raise.
        operands: What it is given, in words; of a write: what passed before, what is put there, and where the model then fails.
    """

    def __init__(self, node: int, error: BaseException, operands: Sequence[Any] = ()) -> None:
        super().__init__(node, error)
        self.node, self.error, self.operands = node, error, tuple(operands)


class Source:
    """Where a rehearsal finds what passes at sites; a tracer gives one.

    Attributes:
        returns: Whether what a scan says of the result is what the call returns.
        modes: The modes of torch that the call works in, where it sets them itself.
    """

    returns = True
    modes = ""

    def scan(self, step: int) -> Scan | None:
        """The scan of a step of the run; ``None`` where there is none."""
        return None

    def changed(self, step: int, changes: Mapping[Site, Any]) -> Scan | None:
        """The same for a run in which other values pass at some sites."""
        return None

    def operation(self, step: int, path: str) -> Scan | None:
        """The scan of a step that looks at an operation inside a forward, too."""
        return None

    def rows(self, words: str) -> Rows | None:
        """The rows that an invoke owns; ``None`` where that is not known."""
        return None

    def layout(self, site: Site) -> Layout:
        """Where the rows of invokes lie in what passes at a site."""
        return NOTHING_KNOWN


def _text(value: Any) -> str:
    """A spec, or several, as ``(float32[1, 2] on cpu, None)``."""
    if type(value) in (tuple, list):
        inner = ", ".join(map(_text, value))
        return f"({inner}{',' if len(value) == 1 else ''})" if type(value) is tuple else f"[{inner}]"
    return str(value)


class SiteValues:
    """The part of a rehearsal that knows sites."""

    mode: Fakes
    replaced: dict[Site, tuple[int, Any, Any]]
    settled: bool
    _index: ModuleIndex
    _source: Source
    _sites: dict[Site, Any]
    _changes: dict[int, dict[Site, Any]]
    _scans: dict[int, Scan | None]
    _rows: Rows | Unknown | None
    _step: int
    _on_meta: bool
    _regions: list[Any]

    @property
    def _uncertain(self) -> bool:
        """Whether the line may take part or not, or more than once."""
        return any(region.node.target in ("if", "for", "while") for region in self._regions)

    def scan_of(self, step: int | str) -> Scan | None:
        """The scan that is asked for what passes in a step."""
        number = self._step if step == "turn" else step if isinstance(step, int) else 0 if step == "every" else 1
        number = min(number, 1)
        if number not in self._scans:
            with outside_fakes():
                changes = self._changes.get(number)
                self._scans[number] = self._source.changed(number, changes) if changes else self._source.scan(number)
        return self._scans[number]

    def _whole(self, site: Site) -> tuple[Site, Any]:
        """The key of a site, and what passes there: of inputs, the call."""
        key = site._replace(point="inputs") if site.point == "input" else site
        if key.step == "turn":
            key = key._replace(step=self._step)
        if key not in self._sites:
            scan = self.scan_of(site.step) if site.point != "result" or self._source.returns else None
            if key._replace(step=0) in self._changes.get(min(key.step, 1) if isinstance(key.step, int) else 0, ()):
                with outside_fakes():  # lines above the one that changes it see what the model computes
                    scan = self._source.scan(min(key.step, 1) if isinstance(key.step, int) else 0)
            if scan is not None and ".source." in f".{site.path}" and not self._changes:  # an operation inside a forward
                with outside_fakes():
                    scan = self._source.operation(min(key.step, 1) if isinstance(key.step, int) else 0, site.path)
            found = Unknown("nothing was scanned") if scan is None else scan.value(key._replace(step=0))
            self._sites[key] = found if type(found) is Unknown else self._fake(found)
        return key, self._sites[key]

    def _read(self, node: Node, _operands: Any, _named: Any) -> Any:
        assert node.site is not None
        _, whole = self._whole(node.site)
        if type(whole) is Unknown or self._rows is None:
            return first_argument(whole) if type(whole) is not Unknown and node.site.point == "input" else whole
        if not isinstance(self._rows, Rows):
            return self._rows
        return (rows_of_first if node.site.point == "input" else rows_of)(whole, self._rows_at(node.site))

    def _rows_at(self, site: Site) -> Rows:
        """The rows that lines see, with where they lie in what passes at a site."""
        assert isinstance(self._rows, Rows)
        return self._rows if self._rows.whole else self._rows._replace(layout=self._source.layout(site))

    def _write(self, node: Node, operands: list[Any], _named: Any) -> Any:
        site, value = node.site, operands[0]
        assert site is not None
        if site.point == "grad":
            return None
        key, whole = self._whole(site)
        if type(whole) is Unknown or type(self._rows) is Unknown:
            self._forget(site)
            return None
        passing = first_argument(whole) if site.point == "input" else whole
        value = put_inputs(None, value) if site.point == "inputs" else put(None, value)
        if isinstance(self._rows, Rows):
            rows = self._rows_at(site)
            value = join_rows(passing, rows._replace(layout=first_of(rows.layout, whole)) if site.point == "input" else rows, value)
        new = with_first(whole, value) if site.point == "input" else value
        self._sites[key] = new
        if not self._uncertain:
            self._replace(key, node.number, spec_of(whole), spec_of(new))
        return None

    def _skip(self, node: Node, operands: list[Any], named: dict[str, Any]) -> Any:
        assert node.site is not None
        return self._write(msgspec.structs.replace(node, site=node.site._replace(point="output")), operands, named)

    def _replace(self, key: Site, number: int, old: Any, new: Any) -> None:
        """A site was written: where something else passes now, what comes later is scanned again."""
        if are_alike(old, new):
            return
        self.replaced[key] = (number, old, new)
        step = min(key.step, 1) if isinstance(key.step, int) else 0
        changes, place_of = self._changes.get(step, {}), key._replace(step=0)
        if place_of in changes and are_alike(changes[place_of], new):
            return
        self._changes = {**self._changes, step: {**changes, place_of: new}}
        self.settled = False
        before = self.scan_of(step)
        with outside_fakes():
            after = self._source.changed(step, self._changes[step])
        if after is None or before is None:
            return
        if after.error is not None and before.complete and not after.blind:
            raise Failure(number, after.error, (_text(old), _text(new), after.at or "its forward"))
        place = before.place(place_of)
        self._scans[step] = after
        for known in list(self._sites):
            later = before.place(known._replace(step=0))
            if known != key and known.step == key.step and later is not None and place is not None and later > place:
                del self._sites[known]

    def _forget(self, site: Site) -> None:
        key, _ = self._whole(site)
        self._sites[key] = Unknown("what was assigned there is unknown")

    def _parameter(self, node: Node, _operands: Any, _named: Any) -> Any:
        assert node.site is not None
        owner, _, name = node.site.path.rpartition(".")
        return self._fake(spec_of(getattr(self._index.root.get_submodule(owner), name)))

    def _copied(self, node: Node, operands: list[Any], named: dict[str, Any]) -> Any:
        return operands[0].clone() if operands else self._parameter(node, operands, named)

    def _module(self, node: Node, operands: list[Any], named: dict[str, Any]) -> Any:
        assert node.site is not None
        if any("_hf_hook" in module.__dict__ for module in self._index.modules[node.site.path].modules()):
            return Unknown("modules whose weights come when they run are not called on fakes")
        device = torch.device("cpu") if self._on_meta else None
        with outside_fakes():
            twin = Mirror(self.mode, device)(self._index.modules[node.site.path])
        return twin(*operands, **named)

    _listening = _module

    def _fake(self, spec: Any) -> Any:
        """A fake of a spec; where the weights are not there, everything seems to lie on one device."""
        if self._on_meta:
            spec = on_cpu(spec)
        return fake_of(spec, self.mode)
