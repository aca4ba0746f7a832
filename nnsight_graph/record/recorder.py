"""Writes down what a trace's lines do."""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import numpy
import torch

from ..errors import RecordError, UnsetValueError
from ..graph import Site
from ..ops.ambient import ambient
from ..ops.effect import written
from ..ops.saved_values import PLAIN_KIND
from ..ops.table import effect_of
from ..source_location import Place, is_users, known_users, locate, user_place
from .captured import Captured
from .cursor import Cursor
from .every import EVERY
from .recording import Recording
from .saving import not_saved

if TYPE_CHECKING:
    from .own_values import OwnValues
    from .proxy import Proxy

_open: ContextVar[Recorder | None] = ContextVar("nnsight_graph_recorder", default=None)
recording_here = _open.get
"""The recorder of the trace that is being written on this thread, or ``None``."""

_EVERYTHING = ("slice", "None", "None", "None")
IN_PLACE = frozenset("iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift".split())
_NESTED = frozenset((tuple, list, dict, slice))
_PLAIN = frozenset((int, float, str, complex, bytes))


_inference: Callable[[], bool] = torch.is_inference_mode_enabled
_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", torch.is_autocast_enabled)


class Observer(Protocol):
    """Tells what nodes of an open trace give, tensors as fakes: ``(True, value)``, or ``(False, why that is not known)``."""

    def measure(self, index: int) -> tuple[bool, Any]:
        """What a node gives, if shapes decide that."""

    def glance(self, index: int) -> tuple[bool, Any]:
        """The same, if that is known without a scan."""


class Recorder(Cursor, Captured):
    """Collects the entries of one trace while its block runs.

    Attributes:
        open: Whether the block is still being written.
        autocast, grad, inference: Whether autocast, gradients and inference mode were on when the trace was opened.
        modes: The modes that lines work in, where they are not those around the trace, which are ``around``.
        grad_changed: Whether the block has switched gradients on or off since.
        invoking: In which invoke the line stands, counted from 1; 0 outside.
        owner: What may be read in it: the model.
        repeats: Whether a constant is used more than once.
        saved: Proxies to be given their value, by node.
        reads: The proxy of each site's present version.
        target: What is being recorded.
        saved_indices: The nodes that were saved, after the trace too.
        regions: How many branches and loops the line stands in.
        emitter: What writes its branches and loops, once there is one.
        reasons: Why single values were not reached, by node.
        failure: Why nothing was computed, if the trace failed.
        mode: What it has put among torch's modes, which knows who has entered the block, and where.
        begun: Where that was, if it was done by hand.
        lost: Closes the trace when nobody has the block any more.
        backwards: How many backwards were written.
        retained: Values whose gradient is to be there after the trace.
        gradients: The sites of the gradients that were named, by node and backward, and how many lines had been written then.
        gradients_named: How many sites of gradients there are.
        names: What saved values are called, by node, where names were given.
        again: Values that were saved a second time: the node, and where.
        variables: Of values below a branch or a loop: the variable that they are in, and the nodes whose values they take, by node.
        merged: Of all others below a branch or a loop: the variable that they are in, by node.
        assumed: What Python was told of values while the block was written: node and value.
        parts: Where values stand in a container that was saved, by node: ``".key.0"``.
        foreign: Whether an edit from a file, which may be anybody's, is part of it.
        strange: The paths of the sites that such edits name.
        scanned: In a scan, gives the plain value in place of a proxy where there is one.
        own: What own properties have shown, once there is one.
        make: The class of proxies.
    """

    make: type[Proxy]
    guard: Callable[[Recorder, Proxy, types.FrameType], bool | None]
    # What most traces never change stays on the class: a trace of one line is mostly the making of its recorder.
    open = False
    target = ""
    failure = ""
    reasons: dict[int, str] = {}  # noqa: RUF012  (replaced, never filled)
    regions = 0
    emitter: Any = None
    mode: Any = None
    begun: Place | None = None
    lost: Callable[..., None]
    scanned: Callable[[Proxy], Any] | None = None
    grad_changed = False
    modes = ""
    around = ""
    invoking = 0
    repeats = False
    foreign = False
    strange: frozenset[str] = frozenset()
    names: dict[int, tuple[str, ...]] = {}  # noqa: RUF012  (replaced, never filled)
    again: tuple[tuple[int, Place], ...] = ()
    variables: dict[int, tuple[str, tuple[int, ...]]] = {}  # noqa: RUF012  (replaced, never filled)
    merged: dict[int, str] = {}  # noqa: RUF012  (replaced, never filled)
    assumed: set[tuple[int, str | int]] = set()  # noqa: RUF012  (replaced, never filled)
    parts: dict[int, str] = {}  # noqa: RUF012  (replaced, never filled)
    own: OwnValues | None = None
    backwards = 0
    retained: tuple[Proxy, ...] = ()
    gradients: dict[tuple[int, int], tuple[Site, int]] = {}  # noqa: RUF012  (replaced, never filled)
    gradients_named = 0
    saved_indices: frozenset[int] = frozenset()

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.entries: list[tuple[Any, ...]] = []
        self.constants: list[Any] = []
        self.indices: list[int] = []
        self.places: list[Place] = []
        self.saved: dict[int, Proxy] = {}
        self.reads: dict[Site, Proxy] = {}
        self.autocast = _autocast()
        self.grad = torch.is_grad_enabled()
        self.inference = _inference()
        if self.autocast:
            self.around = ambient()

    @property
    def block(self) -> Any:
        """The block whose lines are written, while somebody has it."""
        return None if self.mode is None else self.mode.block()

    @property
    def observer(self) -> Observer | None:
        """Knows shapes."""
        return block if (block := self.block) is not None and block._observes else None

    @property
    def session(self) -> Any:
        """The session whose lines are written, if it is one."""
        return block if (block := self.block) is not None and block._is_session else None

    def open_trace(self, owner: Any, generating: bool) -> Callable[[], bool]:
        """In a session: lines are about ``owner`` from here on; what is returned ends that, and tells whether an open loop was there."""
        names = (
            "grad", "autocast", "inference", "around", "modes", "grad_changed", "owner", "reads", "step", "nexts", "_by_step", "every",
            "open_ended", "depth", "generating", "invoking", "regions", "own", "replaced", "begun",
        )  # fmt: skip
        kept = {name: getattr(self, name) for name in names}
        fresh = {"owner": owner, "reads": {}, "step": 0, "nexts": {}, "_by_step": {}, "every": (), "open_ended": False, "depth": 0}
        self.__dict__.update(fresh, generating=generating, invoking=0, regions=0, modes="", grad_changed=False, own=None, replaced={})
        self.autocast, self.grad, self.inference = _autocast(), torch.is_grad_enabled(), _inference()
        self.around = ambient() if self.autocast else ""

        def back() -> bool:
            open_ended = self.open_ended
            self.__dict__.update(kept)
            return open_ended

        return back

    def finish(self) -> Recording:
        """The trace is closed; what was written leaves the recorder, so that its proxies do not keep it alive."""
        recording = Recording(self)
        merged = {"merged": self.merged} if self.merged else {}
        self.__dict__ = {"places": recording.places, "saved_indices": frozenset(self.saved), **merged}
        return recording

    def forget(self, why: str) -> None:
        """The same, where nothing will be computed."""
        self.__dict__ = {"places": self.places, "saved_indices": frozenset(self.saved), "failure": why}

    def interrupted(self, error: BaseException | None) -> bool:
        """Whether an error that leaves a part of the trace half written is an interrupt: somebody may catch it and go on."""
        if error is None or isinstance(error, Exception):
            return False
        if self.open and self.poison is None:
            self.poison = RecordError(f"a {type(error).__name__} came while a part of this trace was written, so that it cannot run")
        return True

    # ------------------------------------------------------------------ entries

    def add(
        self, target: str, operands: tuple[Any, ...], keywords: dict[str, Any] | None = None, site: Site | None = None, depth: int = 2
    ) -> int:
        """Write an entry for a call made ``depth`` frames up; its number."""
        if not self.open:
            raise RecordError(f"a value of a trace that is over was used in a way that cannot stand for its value ({target})")
        encode = self.encode
        self.target = target
        encoded = [encode(value) for value in operands]
        entry: tuple[Any, ...] = (target, *encoded) if site is None else (target, site, *encoded)
        if keywords:
            entry += (("**", *[part for name, value in keywords.items() for part in (name, encode(value))]),)
        if self._lifted:
            self._note_edit(target, operands, keywords or {})
        return self.put(entry, sys._getframe(depth))

    def put(self, entry: tuple[Any, ...], frame: types.FrameType) -> int:
        """Write an entry that stands at ``frame``; its number."""
        code = frame.f_code
        place = (code, frame.f_lasti) if known_users.get(code.co_filename) or is_users(code) else user_place(frame)
        if self.grad_changed or self.modes or self.around or _autocast() or _inference() is not self.inference:
            self.note_modes(place)
        self.places.append(place)
        entries = self.entries
        entries.append(entry)
        return len(entries) - 1

    def note_modes(self, place: Place) -> None:
        """Lines from here on work in other modes (no_grad, inference mode, autocast) than those above."""
        same = self.grad is torch.is_grad_enabled() and _inference() is self.inference and not (_autocast() or self.around)
        now = "" if same else ambient()
        now = "" if now == self.around else now
        if now != self.modes:
            self.modes = now
            self.entries.append(("under", now))
            self.places.append(place)

    def _note_edit(self, target: str, operands: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        effect = effect_of(target)
        if not (effect.mutates or effect.writes or "out" in keywords):
            return
        for value in written(effect, operands, keywords):
            if isinstance(value, torch.Tensor) and id(value) in self._lifted:
                self.edits_constants = True
                self._edited |= {self._lifted[id(value)]}

    def lift(self, value: Any) -> Any:
        """Put a constant aside; what describes it in an entry."""
        if isinstance(value, torch.Tensor):
            index = self._lifted.get(id(value))
            if index is None:
                index = len(self.constants)
                self._lifted = self._lifted or {}  # not the class's
                self._lifted[id(value)] = index
                self.constants.append(value)
            else:
                self.repeats = True
            self.indices.append(index)
            # Else the questions go through the mode that records. On one line: an interrupt between two would leave it so.
            with torch._C.DisableTorchFunction(): return (torch.Tensor, value.ndim, str(value.dtype))
        self.indices.append(len(self.constants))
        self.constants.append(value.copy() if isinstance(value, numpy.ndarray) else value)  # a native change of it goes unnoticed
        return type(value)

    def encode(self, value: Any) -> Any:
        """A value as an operand of an entry."""
        kind = type(value)
        if kind is self.make and value._trace is self:
            return value._index
        if kind in _PLAIN:
            self.indices.append(len(self.constants))
            self.constants.append(value)
            return kind
        if value is None or kind is bool:
            return "None" if value is None else "True" if value else "False"
        if kind is slice:
            if value.start is value.stop is value.step is None:
                return _EVERYTHING
            return ("slice", self.encode(value.start), self.encode(value.stop), self.encode(value.step))
        if self.refilled and (kind in (list, dict, set) or kind in PLAIN_KIND) and (lives := self.living(value)) is not None:
            return lives._index
        if kind is tuple or kind is list or kind is torch.Size:
            return ("list" if kind is list else "tuple", *[self.encode(item) for item in value])
        if kind is dict:
            return ("dict", *[self.encode(part) for pair in value.items() for part in pair])
        if kind in PLAIN_KIND:
            return self.encode(PLAIN_KIND[kind](value))
        if hasattr(kind, "_record_as_operand"):
            return value._record_as_operand(self)
        if kind is torch.dtype:
            return str(value)
        return "..." if value is Ellipsis else self.lift(value)

    def operand(self, proxy: Proxy) -> Any:
        """A proxy as an operand: a reference, or its value if its trace is over."""
        if proxy._trace is self:
            return proxy._index
        if proxy._trace.open:
            raise RecordError("a value of another open trace cannot be used here")
        try:
            return self.encode(proxy.value)
        except UnsetValueError as error:
            raise UnsetValueError(f"{error} It comes from an earlier trace; only saved values can be used in a later one.") from None

    def proxy(self, target: str, operands: tuple[Any, ...], keywords: dict[str, Any] | None = None, depth: int = 2) -> Any:
        """Write an entry; a proxy of its value."""
        made = self.make(self, self.add(target, operands, keywords, depth=depth + 1))
        return made if self.scanned is None else self.scanned(made)

    # ------------------------------------------------------------------ the model

    def read(self, site: Site, owner: Any, depth: int) -> Proxy:
        """What passes at ``site``: the same proxy until something is written there."""
        if self.own is not None:
            self.own.before_read(site)
        proxy = self.reads.get(site)
        if proxy is None or owner is not self.owner:
            self._refuse_others(owner, site)
            proxy = self.reads[site] = self.make(self, self.put(("read", self.located(site)), sys._getframe(depth - 1)))
        return proxy

    def write(self, site: Site, owner: Any, value: Any, depth: int) -> None:
        """Replace what passes at ``site``; ``site += x`` has edited it in place already."""
        self._refuse_others(owner, site)
        if site.point == "result":
            raise RecordError("the result of a call cannot be replaced; assign to the output of the model instead")
        if self.step == "last":
            raise RecordError(f"{site} of the last step cannot be assigned: that it was the last is known only when it is over")
        present = self.reads.get(site)
        if present is not None and isinstance(value, self.make) and value._trace is self:
            entry = self.entries[value._index]
            if entry[0] in IN_PLACE and entry[1] == present._index and is_augmented(sys._getframe(depth - 1)):
                return
        located = self.located(site)
        self.add("write", (value,), None, located, depth)
        if self.own is not None:
            self.own.replaced(located)
        if located.step == EVERY:
            self._by_step = {}
        for point in ("input", "inputs") if site.point in ("input", "inputs") else (site.point, "shown"):  # other looks at the same
            self.reads.pop(site._replace(point=point), None)

    def skip(self, site: Site, owner: Any, value: Any) -> None:
        """A value stands for the forward of the module whose inputs pass at ``site``."""
        self._refuse_others(owner, site)
        located = self.located(site)
        self.add("skip", (value,), None, located, 4)
        if located.step == EVERY:
            self._by_step = {}

    def put_at(self, located: Site, value: Any) -> None:
        """Replace what passes at a site of any step; nothing is remembered of what was read there."""
        if located.step == "last":
            raise RecordError(f"{located} cannot be assigned: that it was the last is known only when it is over")
        self.add("write", (value,), None, located)
        self.forget_steps()
        for point in ("input", "inputs") if located.point in ("input", "inputs") else (located.point,):
            self.reads.pop(Site(located.path, point, 0), None)
            self.reads.pop(Site(located.path, point, located.call), None)

    def leave_own(self, first: int, branch: bool = False) -> None:
        """The lines from ``first`` on end that were a branch, a loop, a turn or an invoke: what was edited in them is put back."""
        if self.own is not None:
            self.own.leave(first, branch)

    def call_module(self, site: Site, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], listening: bool) -> Proxy:
        """A module of the model, called on traced values; with ``listening`` its own sites are visited."""
        self._refuse_others(owner, site)
        return self.make(self, self.add("listening" if listening else "module", args, kwargs, site, 3))

    def _refuse_others(self, owner: Any, site: Site) -> None:
        if self.owner is None:
            raise RecordError(f"{site} is there only inside a trace of the session: with model.trace(...): ...")
        if owner is not self.owner:
            raise RecordError(f"{site} belongs to another model than the one that is traced; trace the two one after the other")

    def name_of(self, index: int) -> str:
        """What a node is called when its proxy is printed."""
        target, *rest = self.entries[index]
        return str(rest[0]) if target in ("read", "parameter") else target.lstrip(".@").removeprefix("torch.").removeprefix("passing.")

    def unset_reason(self, index: int) -> str:
        """Why a value of a finished trace is not there."""
        if index in self.saved_indices:
            return self.failure or self.reasons.get(index) or "it was never reached"
        return self.reasons.get(index) or not_saved(self.merged.get(index, ""), locate(self.places[index]).text)


def is_augmented(frame: types.FrameType) -> bool:
    """Whether ``frame`` is at the assignment half of ``x.output += ...``: the value was swapped into place, not loaded."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti - 2]] in ("SWAP", "ROT_TWO")


def holds_proxy(values: Any, make: type) -> bool:
    """Whether a proxy is among ``values``, or inside a container among them."""
    for value in values:
        kind = PLAIN_KIND.get(type(value), type(value))
        if kind is make or (hasattr(kind, "_trace") and issubclass(kind, make)):
            return True
        inner = value.values() if kind is dict else (value.start, value.stop, value.step) if kind is slice else value
        if kind in _NESTED and holds_proxy(inner, make):
            return True
    return False
