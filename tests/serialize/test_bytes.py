"""Equal programs are equal bytes: on every Python, without torch, however the file was written."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import pytest

from nnsight_graph.errors import FunctionWhitelistError
from nnsight_graph.graph import Site
from nnsight_graph.serialize.document import FileFloat, FileInt, FileText
from nnsight_graph.serialize.encode import encode

pytestmark = pytest.mark.torch_free

ENTRIES: list[tuple[Any, ...]] = [
    ("read", Site("transformer.h.3.mlp", "output")),
    ("getitem", 0, ("tuple", ("slice", "None", "None", "None"), int)),
    ("if", 1),
    ("mul", 1, float),
    ("else",),
    ("torch.sum", 1, ("**", "dim", int, "keepdim", "True")),
    ("end",),
    ("merge", 2, 3, 5),
    ("write", Site("transformer.h.3.mlp", "output", 1), 7),
    ("for", ("list", 0, str), 7),
    ("param", 9, "item"),
    ("param", 9, "0"),
    ("add", 11, ("tuple", float)),
    ("end", "False", 12),
    ("named", "alpha", float),
    ("save", 7),
]
CONSTANTS: list[Any] = [-1, 0.1, 1, "né\n", 1e300, 0.5]


def constant(value: Any) -> Any:
    made: dict[type, Any] = {int: lambda: FileInt(str(value)), float: lambda: FileFloat(value.hex()), str: lambda: FileText(value)}
    return made[type(value)]()


def written(entries: list[tuple[Any, ...]] = ENTRIES, constants: list[Any] = CONSTANTS, indices: tuple[int, ...] = ()) -> bytes:
    return encode(entries, indices or range(6), constants, constant, "trace", saves=[(7, "out")])


def test_bytes_are_the_same_everywhere() -> None:
    text = written()
    assert json.loads(text)["parameters"] == [["alpha", 5]]
    digest = "745b8b2c4fbafc2f29674630f69467c6209c521ea17b91b211632016316528e6"
    assert hashlib.sha256(text).hexdigest() == digest, (sys.version, text.decode())


def test_the_order_of_constants_is_that_of_their_use() -> None:
    assert written(constants=["unused", *reversed(CONSTANTS)], indices=(6, 5, 4, 3, 2, 1)) == written()


def test_what_is_refused_says_where() -> None:
    for entry, message in ((("torch.load", 1), "torch.load"), (("call", 1), "__call__"), ((".data_ptr", 1), "data_ptr")):
        with pytest.raises(FunctionWhitelistError, match=f"Function with name `.?{message}` not in function whitelist") as caught:
            written([*ENTRIES[:2], entry])
        assert caught.value.entry == 2  # type: ignore[attr-defined]
