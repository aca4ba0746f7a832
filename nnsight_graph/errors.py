"""The exceptions a user can meet: each docstring gives a cause, an example and the way out."""

from __future__ import annotations

import contextlib
from typing import Any


class NNsightError(Exception):
    """The root of every error that this library raises itself.

    An error of torch inside a trace is raised as an instance of a class that derives from both the error's own type
    and this one, so ``except IndexError`` and ``except NNsightError`` both catch it.
    """


class RecordError(NNsightError):
    """A line of a trace cannot be recorded.

    Example: ``if model.layer.output.sum() > 0:`` asks a value that is not there yet for its truth.
    Way out: the message names the form to use instead.
    """


class MisuseError(RecordError, ValueError):
    """A block is used in a way in which it cannot be: without an input, one in another, a value of it outside.

    Example: ``model.layer.output`` where no trace is open.
    Way out: the message names the form to use instead.
    """


class WrongTypeError(RecordError, TypeError):
    """An argument of a block, or of one of its lines, is of another type than it can be.

    Example: ``tracer.iter["a"]``.
    Way out: the message names the types that it can be of.
    """


class UnsetValueError(NNsightError, ValueError):
    """A value was used that was not saved, or that was never reached.

    Example: ``x = model.layer.output`` in a trace, ``print(x)`` after it.
    Way out: ``x = model.layer.output.save()``.
    """


class CheckError(NNsightError):
    """The recorded graph failed when it was checked, before the model ran.

    Example: a graph with a node that stands where it may not.
    Way out: the message names the node and its line.
    """


class MissedSiteError(NNsightError):
    """A module that the trace reads or writes never ran.

    Example: a trace on the decoder of a model whose call only runs the encoder.
    Way out: trace a call that reaches the module, or leave it out.
    """


class OutOfOrderError(MissedSiteError):
    """A write needs a value that the model computes only after the place that is written.

    Example: ``model.h[0].output[:] = model.h[5].output``; the sixth block runs after the first.
    Way out: take the value from an earlier trace, or ``.clone()`` what was not meant for the model before editing it.
    """


class GraphFormatError(NNsightError):
    """A graph file or message is not what it should be; the message gives the path inside it."""


class LimitError(NNsightError):
    """A program that was run with limits would take more than it may; the message names the limit."""


class FunctionWhitelistError(NNsightError):
    """A user's own function stands in a graph that has to leave this process."""


class RemoteError(NNsightError):
    """A server refused or failed, or a remote feature was asked of a build that has none."""


class EarlyStopException(Exception):
    """Kept so that old ``except`` clauses import; an early stop here ends the forward without an exception."""


class SkipException(Exception):
    """Kept so that old ``except`` clauses import; skipping a module raises nothing here."""


class NNsightDeprecationWarning(DeprecationWarning, FutureWarning):
    """Something that older code sets, or calls, does nothing here, or is written in another way; the text says what to write."""


class Cancelation(Exception):
    """Kept so that old ``except`` clauses import; nothing waits here, so nothing is cancelled."""


MissedProviderError = MissedSiteError

_derived: dict[type[BaseException], type[BaseException]] = {}


def derived_class(kind: type[BaseException]) -> type[BaseException]:
    """The class that is both ``kind`` and :class:`NNsightError`, made once for each kind.

    >>> issubclass(derived_class(IndexError), IndexError), issubclass(derived_class(IndexError), NNsightError)
    (True, True)
    """
    if issubclass(kind, NNsightError):
        return kind
    if kind not in _derived:
        body = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__init__": _keep_message, "__reduce__": _reduce}
        try:
            _derived[kind] = type(kind.__name__, (kind, NNsightError), body)
        except TypeError:  # a class that cannot be combined, such as one with its own layout
            _derived[kind] = NNsightError
    return _derived[kind]


def ours(kind: type[BaseException], *args: object) -> BaseException:
    """An error of this library that is also one of Python's own, for ``raise``: ``except kind`` and ``except NNsightError`` catch it.

    >>> error = ours(KeyError, "wte")
    >>> isinstance(error, NNsightError), isinstance(error, KeyError), type(error).__name__
    (True, True, 'KeyError')
    """
    return derived_class(kind)(*args)


def derived(original: BaseException) -> BaseException:
    """``original`` as an error that is also an :class:`NNsightError`, with all that it carries, and itself as the cause."""
    kind = derived_class(type(original))
    error = kind(*original.args) if kind is not NNsightError else NNsightError(str(original))
    error.__dict__.update(getattr(original, "__dict__", {}))
    for name in ("filename", "filename2", "name", "path", "value", "code", "obj"):  # kept by C beside the arguments
        if getattr(original, name, None) is not None:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(error, name, getattr(original, name))
    error.__cause__ = original
    return error


def _keep_message(self: BaseException, *args: object) -> None:
    native: Any = next(base for base in type(self).__mro__[1:] if base.__module__ == "builtins")
    native.__init__(self, *args)  # what C keeps beside the arguments, as OSError does
    self.args = args


def _reduce(self: BaseException) -> tuple[object, ...]:
    """Derived classes have no importable name: they travel by the class they came from."""
    return _rebuild, (type(self).__mro__[1], self.args)


def _rebuild(kind: type[BaseException], args: tuple[object, ...]) -> BaseException:
    return derived_class(kind)(*args)


def add_note(error: BaseException, text: str) -> None:
    """Attach ``text`` to ``error``: as a note, or on Python 3.10 at the end of its message."""
    if hasattr(error, "add_note"):
        error.add_note(text)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{text}", *error.args[1:])
