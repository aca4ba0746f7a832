"""The objects that pass in a scan, and that its specs only name by their class, such as KV caches."""

from __future__ import annotations

from typing import Any

import torch

from .fakes import NotLookedInto
from .specs import PLAIN, Opaque, map_items


class Objects:
    """What has passed so far, by the name of the class."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, Any]] = {}

    def note(self, value: Any) -> None:
        """Note the objects in a value."""
        if type(value) not in PLAIN and not isinstance(value, torch.Tensor) and map_items(value, self.note) is NotImplemented:
            self._known.setdefault(type(value).__name__, {})[id(value)] = value

    def put(self, before: Any, value: Any) -> Any:
        """A value, put in the place of the one ``before``, with the object itself for each that is only named.

        Raises:
            NotLookedInto: there is none, or there are several.

        >>> objects = Objects()
        >>> memory = object()
        >>> objects.put((1, memory), [Opaque("object")])[0] is memory
        True
        """
        self.note(before)
        return value if value is before else self._filled(value)

    def _filled(self, value: Any) -> Any:
        if type(value) is Opaque:
            objects = self._known.get(value.kind, {})
            if len(objects) != 1:
                raise NotLookedInto(f"which {value.kind} passes there is not known")
            return next(iter(objects.values()))
        found = value if isinstance(value, torch.Tensor) else map_items(value, self._filled)
        return value if found is NotImplemented else found
