"""Files of strangers: whatever is in them, they are refused with the place that is wrong, or they are a graph; nothing else happens."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnsight_graph import GraphFormatError, LanguageModel
from nnsight_graph.graph import walk
from nnsight_graph.graph.laws import LAWS
from nnsight_graph.model.saved import SavedGraph, load
from nnsight_graph.ops.portable import is_portable
from nnsight_graph.ops.table import names
from nnsight_graph.serialize.container import pack
from nnsight_graph.serialize.content import Content
from tests.serialize.programs import PROGRAMS

COUNT = 20_000 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 60 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 1_500


@pytest.fixture(scope="module")
def contents() -> list[Content]:
    lm = LanguageModel("nnsight-graph/capitals")
    return [record(lm)[0].graph.detach()._content for name, record in PROGRAMS.items() if name not in ("constants",)]


def nodes(document: dict[str, Any]) -> list[Any]:
    return document["body"][0]  # type: ignore[no-any-return]


def set_attribute(document: dict[str, Any], name: str) -> None:
    document["constants"].append(["s", name])
    nodes(document)[1][:2] = ["setattr", [0, ["c", len(document["constants"]) - 1], 0]]


def refused(content: Content, change: Callable[[dict[str, Any]], Any]) -> str:
    document = json.loads(content.text)
    change(document)
    with pytest.raises(GraphFormatError) as caught:
        SavedGraph(Content(json.dumps(document).encode(), content.tensors))
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "version 2 of the format"),
        (lambda d: d.update(ops=99), "99 of the operations"),
        (lambda d: d.update(kind="program"), r"\$\.kind"),
        (lambda d: d.update(extra=1), "unknown field `extra`"),
        (lambda d: d.pop("body"), "body"),
        (lambda d: nodes(d)[0].__setitem__(0, "os.system"), r"\$\.body\.nodes\[0\]: os\.system may not stand in a graph file"),
        (lambda d: nodes(d)[0].__setitem__(0, "call"), "may not stand in a graph file"),
        (lambda d: nodes(d)[1].__setitem__(0, ".__reduce__"), "may not stand in a graph file"),
        (lambda d: nodes(d)[1].__setitem__(0, "@__globals__"), "may not stand in a graph file"),
        (lambda d: nodes(d)[1].__setitem__(1, [999, 0]), "uses %999"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["bound", [0, "__class__"]]), "lead out of the graph"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["bound", [0, "numpy"]]), "may not stand"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["setattr", [0, "logits", 0]]), "setattr does not take these"),
        (lambda d: set_attribute(d, "__class__"), "may not be set"),
        (lambda d: set_attribute(d, "data"), "may not be set"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["setattr", [0, ["c", 0], 0]]), "a constant of type str"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["invoke", ["all"], None, [], [[]]]), "invoke may not name 'all'"),
        (lambda d: nodes(d).append(["steps", ["0:999999:1"], None, [], [[[["log"], ["log"]], ["False"]]]]), "200000"),
        (lambda d: nodes(d).append(["while", [], None, [], [[[], []]]]), "hands on as many"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["param", [0, "item"]]), "does not name the loop around it"),
        (lambda d: nodes(d).append(["check", [0]]), "check does not fit the loop"),
        (lambda d: nodes(d)[1].__setitem__(1, [0, ["g", "slice", [0]]]), "a slice of 1 operands"),
        (lambda d: nodes(d)[1].__setitem__(1, [0, ["g", "dict", [0]]]), "a key and no value"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["under", ["grad=True, inference=False, cpu=torch.load"]]), "are no modes"),
        (lambda d: nodes(d)[1].__setitem__(slice(0, 2), ["trace", ["_save"]]), "may not call '_save'"),
        (lambda d: d.update(function="_push"), r"\$\.function: .* may not call '_push'"),
        (lambda d: nodes(d)[1].__setitem__(1, [-1]), r"\$\.body"),
        (lambda d: nodes(d)[1].__setitem__(1, [["c", 999]]), "constant 999 of"),
        (lambda d: nodes(d)[1].__setitem__(1, [["g", "set", []]]), r"\$\.body"),
        (lambda d: nodes(d)[1].__setitem__(1, ["torch.load"]), "'torch.load' is no dtype"),
        (lambda d: nodes(d)[0].__setitem__(2, ["h.3", "grad_fn", 0, 0]), "may not stand on"),
        (lambda d: nodes(d)[0].__setitem__(2, ["x" * 5000, "output", 0, 0]), "path|length"),
        (lambda d: d.update(constants=[["t", 99]]), "tensor 99 of"),
        (lambda d: d.update(constants=[["i", "1e5"]]), r"\$\.constants"),
        (lambda d: d.update(constants=[["i", "9" * 5000]]), r"\$\.constants"),
        (lambda d: d.update(constants=[["f", "zero"]]), r"\$\.constants\[0\]"),
        (lambda d: d.update(saves=[[999, "x"]]), r"\$\.saves\[0\]: the program saves no node 999"),
        (lambda d: d["saves"].append([6, "logits"]), r"\$\.saves\[2\]: there are two"),
        (lambda d: d.update(parameters=[["x", 999]]), r"\$\.parameters: they are not those"),
        (lambda d: d.update(traces=[[0, 0, False]]), r"\$\.traces\[0\]"),
    ],
)
def test_refusals_name_the_place(contents: list[Content], change: Callable[[dict[str, Any]], Any], message: str) -> None:
    assert re.search(message, refused(contents[0], change))


def test_depth_and_size(contents: list[Content]) -> None:
    def deep(document: dict[str, Any]) -> None:
        operand: Any = 0
        for _ in range(5_000):
            operand = ["g", "tuple", [operand]]
        nodes(document)[1][1] = [operand]

    start = time.perf_counter()
    text = json.dumps({"format": 1, "ops": 1, "kind": "trace", "body": [[["read"]]]}).replace('["read"]', "[" * 3_000 + "]" * 3_000)
    with pytest.raises(GraphFormatError):
        SavedGraph(Content(text.encode(), []))
    document = json.loads(contents[0].text)
    try:
        deep(document)
        made = json.dumps(document)
    except RecursionError:
        made = text
    with pytest.raises(GraphFormatError):
        SavedGraph(Content(made.encode(), contents[0].tensors))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 7, b"\xff" * 8, b"\xff" * 100, (1 << 40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]", (20).to_bytes(8, "little") + b'{"__metadata__": 3} ',
        pack(b"{}", []), pack(b"[]", [torch.ones(2)]),
    ],
)  # fmt: skip
def test_containers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.nng").write_bytes(content)
    with pytest.raises(GraphFormatError):
        load(tmp_path / "graph.nng")


def test_a_file_that_claims_more_than_it_holds(tmp_path: Path, contents: list[Content]) -> None:
    whole = pack(*contents[0])
    for length in (10, 100, len(whole) - 4):
        (tmp_path / "graph.nng").write_bytes(whole[:length])
        with pytest.raises(GraphFormatError):
            load(tmp_path / "graph.nng")
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    header["0"]["shape"], header["0"]["data_offsets"] = [1 << 40], [0, 1 << 42]
    made = json.dumps(header).encode()
    (tmp_path / "graph.nng").write_bytes(len(made).to_bytes(8, "little") + made + whole[8 + size :])
    start = time.perf_counter()
    with pytest.raises(GraphFormatError):
        load(tmp_path / "graph.nng")
    assert time.perf_counter() - start < 1


def portable_names() -> set[str]:
    return {name for name in names() if is_portable(name)} | {"@logits"}


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 200),
    st.sampled_from(["read", "save", "getitem", "torch.relu", ".add_", "c", "g", "turn", ""]),
    st.text(max_size=4), st.floats(allow_nan=False),
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def mutated(document: Any, data: st.DataObject) -> Any:
    """A document with something else at a random place."""
    if isinstance(document, dict) and document and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(sorted(document)))
        return {**document, key: mutated(document[key], data)}
    if isinstance(document, list) and document and data.draw(st.integers(0, 9)):
        place = data.draw(st.integers(0, len(document) - 1))
        how = data.draw(st.integers(0, 8))
        if how == 0:
            return document[:place] + document[place + 1 :]
        if how == 1:
            return [*document[:place], document[place], *document[place:]]
        return [*document[:place], mutated(document[place], data), *document[place + 1 :]]
    return data.draw(VALUES)


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_documents(contents: list[Content], data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(contents))
    text = json.dumps(mutated(json.loads(content.text), data)).encode()
    try:
        graph = SavedGraph(Content(text, content.tensors))
    except GraphFormatError:
        return
    again = SavedGraph(Content(text, content.tensors))
    assert again == graph
    assert str(again) == str(graph)
    assert {node.target for node in walk(graph.graph.body)} <= LAWS.keys() | portable_names()


@settings(max_examples=COUNT // 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_bytes(contents: list[Content], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = bytearray(pack(*data.draw(st.sampled_from(contents))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.nng"
    path.write_bytes(bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))]))
    try:
        load(path)
    except GraphFormatError:
        return
