"""Reading safetensors from a file that is open: as safetensors reads it, or an error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import GraphFormatError, NNsight
from nnsight_graph.disk import opened
from nnsight_graph.serialize.tensors import MAPPED, Tensors, write_tensors


def read(path: Path, content: bytes, mapped: bool = False) -> dict[str, torch.Tensor]:
    path.write_bytes(content)
    with opened(path) as file:
        found = Tensors(file)
        return {name: found.read(name, mapped) for name in found.names()}


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.flatten().view(torch.uint8).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("mapped", [False, True])
def test_all_types_and_shapes_come_back(tmp_path: Path, mapped: bool) -> None:
    names = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 float8_e4m3fn float8_e5m2 uint16 uint32 uint64"
    written = {name: torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name)) for name in names.split()}
    written |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 3), "large": torch.randn(MAPPED // 4 + 1)}
    found = read(tmp_path / "file", save(written), mapped)
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor)


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path) -> None:
    names = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 float8_e4m3fn float8_e5m2".split()
    written = {name: torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name)).T for name in names}
    row = torch.arange(12.0, requires_grad=True)
    written |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 3), "part": row[3:5], "same": row, "conj": torch.ones(2) * 1j}
    written["conj"] = written["conj"].conj()
    with open(tmp_path / "file", "wb") as file:
        write_tensors(file, written)
    found = load_file(tmp_path / "file")
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tolist() == tensor.tolist() if "float8" not in name else bits(found[name]) == bits(tensor.contiguous())
    for tensor in (torch.ones(2, dtype=torch.complex128), torch.eye(2).to_sparse(), torch.ones(2, device="meta")):
        with pytest.raises(GraphFormatError, match="cannot stand in a safetensors file"), open(tmp_path / "other", "wb") as file:
            write_tensors(file, {"a": tensor})


def header(change: Callable[[dict[str, Any]], Any]) -> bytes:
    content = save({"a": torch.ones(4), "b": torch.zeros(3)}, {"key": "text"})
    size = int.from_bytes(content[:8], "little")
    document = json.loads(content[8 : 8 + size])
    change(document)
    made = json.dumps(document).encode()
    return len(made).to_bytes(8, "little") + made + content[8 + size :]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["a"].update(dtype="F128"),
        lambda d: d["a"].update(dtype=3),
        lambda d: d["a"].update(shape=[5]),
        lambda d: d["a"].update(shape=[-4]),
        lambda d: d["a"].update(shape=[-2, -2]),
        lambda d: d["a"].update(shape=[1 << 70, 0]),
        lambda d: d["a"].update(shape=[0, 1 << 61, 1 << 61], data_offsets=[0, 0]),
        lambda d: d["a"].update(shape=[1] * 65 + [4]),
        lambda d: d["a"].update(data_offsets=[0, 12], shape=[3]),
        lambda d: d["a"].update(data_offsets=[12, 28]),
        lambda d: d["b"].update(data_offsets=[-12, 0]),
        lambda d: d["b"].update(data_offsets=[0, 12]),
        lambda d: d["b"].update(data_offsets=[16]),
        lambda d: d["b"].update(more=1),
        lambda d: d.update(c={"dtype": "F32", "shape": [1], "data_offsets": [28, 32]}),
        lambda d: d.update(__metadata__={"key": 3}),
        lambda d: d.update(a=[]),
        lambda d: d.pop("b"),
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    assert read(tmp_path / "whole", header(lambda _: None))["a"].tolist() == [1, 1, 1, 1]
    with pytest.raises(GraphFormatError):
        read(tmp_path / "file", header(change))


def test_booleans_are_zero_or_one(tmp_path: Path) -> None:
    content = save({"mask": torch.tensor([True, False, True])})
    assert content.endswith(b"\1\0\1")
    found = read(tmp_path / "file", content[:-3] + b"\2\0\xff")["mask"]
    assert bits(found) == [1, 0, 1]


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(save({"a": torch.ones(MAPPED)}))
    for mapped in (False, True):
        with opened(tmp_path / "file") as file:
            found = Tensors(file)
            os.truncate(tmp_path / "file", 1000)
            with pytest.raises(GraphFormatError, match=r"cannot be read|become shorter"):
                found.read("a", mapped)
        (tmp_path / "file").write_bytes(save({"a": torch.ones(MAPPED)}))


def test_mapped_tensors_stay_when_the_file_is_written_anew(tmp_path: Path) -> None:
    model, x = NNsight(nn.Linear(512, 512)), torch.randn(4, 512)
    graphs = []
    for matrix in torch.randn(2, 600, 512):
        with model.trace(run=False) as tracer:
            (model.output @ matrix.T).save("out")
        graphs.append(tracer.graph.detach())
    expected = [graph.run(model, x)["out"] for graph in graphs]
    path = tmp_path / "graph.nng"
    graphs[0].save(path)
    loaded = nnsight.load(path)
    graphs[1].save(path)
    assert torch.equal(loaded.run(model, x)["out"], expected[0])
    assert torch.equal(nnsight.load(path).run(model, x)["out"], expected[1])
    loaded.save(path)  # over the file in which its own tensors lie, or lay
    assert torch.equal(nnsight.load(path).run(model, x)["out"], expected[0])
    loaded.graph.constants[0].add_(1)  # the memory is the graph's own: the file does not change
    assert torch.equal(nnsight.load(path).run(model, x)["out"], expected[0])
