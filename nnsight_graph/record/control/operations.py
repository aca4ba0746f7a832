"""Expressions of rewritten code: recorded where an operand is traced, Python's own otherwise."""

from __future__ import annotations

import builtins
from typing import Any

from .containers import Containers
from .names import Maybe, Refused
from .triggers import BUILTINS, CONTAINERS

_NAMED = {id(getattr(builtins, name)): name for name in BUILTINS | CONTAINERS}
_LOOKS_INSIDE = frozenset("any all min max sorted".split())  # these ask the items of a plain list at once
_CONVERSIONS: dict[str, Any] = {"": lambda value: value, "!s": str, "!r": repr, "!a": ascii}
_PLAIN = (list, tuple, dict, set, frozenset, str)


class Operations(Containers):
    """Operators and builtins that Python does not leave to the operands."""

    failed = AssertionError
    empty_set = set

    def use(self, value: Any) -> Any:
        """The value of a name that a branch or a loop may have set."""
        if type(value) is Maybe:
            return self.emitter.bound(value.name, value.value)
        if type(value) is Refused:
            raise self.refuse(str(value))
        return value

    def grown(self, value: Any) -> Any:
        """A name's value about to be changed by ``name += ...``."""
        value = self.use(value)
        return self.stored(value) if self.regions and hasattr(type(value), "__iadd__") else value

    def negate(self, value: Any) -> Any:
        """``not value``."""
        return self.emitter.call("not_", value) if self.emitter.traced(value) else not value

    def same(self, left: Any, right: Any, negated: bool) -> Any:
        """``left is right``: recorded, for a merged value may be None."""
        if left is not right and (self.emitter.traced(left) or self.emitter.traced(right)):
            found = self.emitter.call("is_", left, right)
            return self.emitter.call("not_", found) if negated else found
        return (left is right) is not negated

    def text(self, kind: str, *parts: Any) -> Any:
        """An f-string in what is printed or raised: where that comes later, its values are put in then."""
        traced = any(type(part) is tuple and self.emitter.traced(part[0]) for part in parts)
        if traced and self.regions:
            form = [f"{{{part[1]}:{part[2]}}}" if type(part) is tuple else part.replace("{", "{{").replace("}", "}}") for part in parts]
            return self.emitter.call(".format", "".join(form), *[part[0] for part in parts if type(part) is tuple])
        if traced and kind == "error":  # it is raised while the block is written
            parts = tuple((str(part[0]), "", "") if type(part) is tuple and self.emitter.traced(part[0]) else part for part in parts)
        return "".join(_formatted(*part) if type(part) is tuple else part for part in parts)

    def filled(self, form: Any, value: Any) -> Any:
        """The same of ``form % value``."""
        traced = self.emitter.traced(value) or self._holds_traced(value)
        return self.emitter.call("mod", form, value) if traced and self.regions and type(form) is str else form % value

    def matched(self, value: Any, patterns: tuple[Any, ...]) -> Any:
        """The subject of a ``match`` whose patterns look inside: Python decides at once which arm it takes."""
        if self.emitter.traced(value) and any(type(pattern) is tuple for pattern in patterns):
            items = self.emitter.items(value)  # of a shape they are known
            if items is not None and not any(map(self.emitter.traced, items)):
                value = tuple(items)
        if any(self._is_looked_at(value, pattern) for pattern in patterns):
            raise self.refuse(
                "a `match` with patterns that look inside a value decides at once, and this value is known only while the model runs. "
                "Patterns that compare it as a whole (1, None, 1 | 2, a name, _) are recorded; write the others as if, elif and else"
            )
        return value

    def _is_looked_at(self, value: Any, pattern: Any) -> bool:
        if pattern is None or pattern == "inside":
            return pattern is not None and (self.emitter.traced(value) or self._holds_traced(value))
        if self.emitter.traced(value):
            return True
        items = value if _kind_of(value) in (tuple, list) and type(pattern) is tuple and len(pattern) == len(value) else ()
        return any(map(self._is_looked_at, items, pattern))

    def contains(self, item: Any, container: Any, negated: bool) -> Any:
        """``item in container``."""
        if self.emitter.traced(item) or self.emitter.traced(container) or self._holds_traced(container):
            found = self.emitter.call("contains", container, item)
            return self.emitter.call("not_", found) if negated else found
        return (item in container) is not negated

    def item(self, container: Any, index: Any) -> Any:
        """``container[index]``: a plain container with a traced index is recorded."""
        if self.emitter.traced(index) and _kind_of(container) in _PLAIN:
            return self.emitter.call("getitem", container, index)
        return container[index]

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of what is named like one of the known builtins."""
        name = _NAMED.get(id(function))
        if name is not None:
            traced = self.emitter.traced
            inside = name in _LOOKS_INSIDE and any(map(self._holds_traced, args))
            if inside or any(map(traced, args)) or any(map(traced, kwargs.values())):
                return self.emitter.call(name, *args, **kwargs)
        return function(*args, **kwargs)

    def _holds_traced(self, value: Any) -> bool:
        return _kind_of(value) in (list, tuple, set, dict) and any(map(self.emitter.traced, value))

    def print_(self, function: Any, *args: Any, **kwargs: Any) -> None:
        """A call of what is named ``print``: inside a traced region it happens only where that is taken, but for the graph so far."""
        if self.regions and function is print and not any(hasattr(type(value), "_shown_at_once") for value in args):
            self.emitter.print_(*args, **kwargs)
        else:
            function(*args, **kwargs)

    def deeper(self, depth: int = 0) -> bool:
        """Whether more than ``depth`` traced regions are open: an error raised here would leave one."""
        return len(self.regions) > depth

    @property
    def depth(self) -> int:
        return len(self.regions)

    def raise_(self, error: Any, cause: Any = None) -> None:
        """``raise`` inside a traced region."""
        if cause is not None and isinstance(error, BaseException):
            error.__cause__ = cause
        parts = error.args if isinstance(error, BaseException) else ()
        self.emitter.raise_(error, *[part for part in parts if self.emitter.traced(part)])
        self.regions[-1].ended = True

    def save(self, value: Any) -> Any:
        """``value.save()`` for a value that need not have the method."""
        return value.save() if self.emitter.traced(value) else self.emitter.save(value)

    def unpack(self, value: Any, shape: tuple[Any, ...]) -> Any:
        """The parts of ``a, (b, c) = value``, whose shape is ``(None, (None, None))``."""
        if self.emitter.traced(value):
            value = self.emitter.call("unpack", value, len(shape))
        elif not any(shape):
            return value
        parts = list(value)
        if len(parts) == len(shape):
            return [part if inner is None else self.unpack(part, inner) for part, inner in zip(parts, shape, strict=True)]
        return parts

    def clear(self, *flags: Any) -> Any:
        """Whether none of the flags of ``break`` and ``continue`` is set."""
        found = self.either_set(*flags)
        return not found if type(found) is bool else self.emitter.call("not_", found)

    def either_set(self, *flags: Any) -> Any:
        """Whether one of the flags is set: False, True or traced."""
        traced = [flag for flag in flags if flag is not False]
        if not traced or any(flag is True for flag in traced):
            return bool(traced)
        found = traced[0]
        for other in traced[1:]:
            found = self.emitter.call("or_", found, other)
        return found


def _formatted(value: Any, conversion: str, form: str) -> str:
    return format(_CONVERSIONS[conversion](value), form)


def _kind_of(value: Any) -> type:
    """The type of a value; of one that an earlier trace has saved, the plain one."""
    return getattr(type(value), "_stands_for", type(value))
