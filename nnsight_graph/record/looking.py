"""Looking at a proxy: ``repr``, ``hasattr``, a debugger's pane, rich; none of it records a line, or raises."""

from __future__ import annotations

from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from ..errors import UnsetValueError, ours
from ..source_location import is_users
from .class_claim import asked_by
from .settled import UNSET, is_metadata, measured, value_of

if TYPE_CHECKING:
    from .proxy import Proxy

_OF_TENSORS = frozenset(dir(torch.Tensor))
_KINDS = (FakeTensor, torch.Tensor, torch.Size, torch.dtype, torch.device, bool, int, float, str, tuple, list, dict)
_MOST = 10_000
_known: dict[tuple[int, int], tuple[CodeType, str | None]] = {}


class UnsetAttributeError(UnsetValueError, AttributeError):
    """An attribute of a value that is not there: ``hasattr`` finds none."""

    def __reduce__(self) -> Any:
        return UnsetValueError, self.args


UnsetAttributeError.__name__ = UnsetAttributeError.__qualname__ = UnsetValueError.__name__


def asker(frame: FrameType) -> str | None:
    """What asks for an attribute on the line that ``frame`` stands on: the name itself, in the text, or ``getattr``, ``hasattr``."""
    code = frame.f_code
    key = id(code), frame.f_lasti
    known = _known.get(key)
    if known is None or known[0] is not code:
        if len(_known) >= _MOST:
            _known.clear()
        known = _known[key] = code, asked_by(code, frame.f_lasti)
    return known[1]


def private(name: str) -> BaseException:
    """The error of a name with an underscore."""
    if name.startswith("__"):
        return AttributeError(name)
    return ours(AttributeError, f"{name}: names with an underscore in front are not recorded; nnsight_graph.apply(...) can use them")


def looks(proxy: Proxy, name: str, frame: FrameType) -> bool:
    """Whether ``hasattr``, or a tool, asks an open proxy for a name: what it gets is recorded only if it is used.

    Raises:
        AttributeError: the name is none of the value's, as far as that is known; or it is the gradient, which to ask for is to record it.
    """
    tool = not is_users(frame.f_code)
    if name == "grad":
        if tool:
            raise ours(AttributeError, name)
    elif name not in _OF_TENSORS and proxy._index >= 0:
        known, value = measured(proxy)
        if known and type(value) in _KINDS and not hasattr(value, name):
            raise ours(AttributeError, f"{type(value).__name__!r} object has no attribute {name!r}")
    return tool or asker(frame) == "hasattr"


def attribute_of_value(proxy: Proxy, name: str) -> Any:
    """An attribute of what a proxy stands for after its trace."""
    if proxy._value is not UNSET:
        return getattr(proxy._value, name)
    if name.startswith("_"):
        raise private(name)
    try:
        return getattr(value_of(proxy), name)
    except UnsetValueError as error:
        raise UnsetAttributeError(*error.args) from None


def shown(proxy: Proxy) -> str:
    """A proxy as ``repr`` shows it: while its trace is open, in a few words; then as its value; or why that is not there."""
    if proxy._trace.open:
        return described(proxy)
    try:
        return repr(value_of(proxy))
    except UnsetValueError as error:
        return f"<no value: {str(error).removeprefix(UNSET_TEXT)}>"


def printed(proxy: Proxy) -> str:
    """A proxy as ``print`` shows it."""
    if proxy._trace.open:
        text = described(proxy)
        return f"{text[:-1]}; see its numbers with nnsight_graph.log(...))" if text.startswith(_NAME) else text
    return shown(proxy) if proxy._value is UNSET else str(proxy._value)


_NAME = "InterventionProxy("
UNSET_TEXT = "Accessing value before it's been set. "


def described(proxy: Proxy) -> str:
    """An open proxy in a few words, with what is known of it."""
    trace = proxy._trace
    name = trace.name_of(proxy._index) if proxy._index >= 0 else "method"
    known, value = (False, None) if trace.observer is None or proxy._index < 0 else trace.observer.glance(proxy._index)
    metadata = proxy._index >= 0 and is_metadata(trace.entries, proxy._index)
    if metadata and not known:
        known, value = measured(proxy)
    if not known:
        return f"{_NAME}{name})"
    if isinstance(value, torch.Tensor):
        return f"{_NAME}{name}: {str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device})"
    return repr(value) if metadata else f"{_NAME}{name})"
