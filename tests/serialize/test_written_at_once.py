"""Graph files and files of values that several write, or that cannot be written; and lines of programs, which are in no file."""

from __future__ import annotations

import gc
import linecache
import os
import stat
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import GraphFormatError, NNsight
from nnsight_graph.model.saved import SavedGraph

X = torch.ones(2, 4)


@pytest.fixture
def model() -> NNsight:
    return NNsight(nn.Linear(4, 4))


def scaled(model: NNsight, factor: torch.Tensor | float) -> SavedGraph:
    with model.trace(run=False) as tracer:
        (model.output * factor).save("out")
    return tracer.graph.detach()


WRITER = """
import sys, torch, nnsight_graph as nnsight
graph = nnsight.load(sys.argv[1])
for _ in range(40): graph.save(sys.argv[2])
"""


@pytest.mark.slow
def test_threads_and_processes_save_to_one_path(model: NNsight, tmp_path: Path) -> None:
    graphs = [scaled(model, torch.full((300_000, 1, 4), 2.0)), scaled(model, 3.0), scaled(model, torch.ones(4))]
    for number, graph in enumerate(graphs):
        graph.save(tmp_path / f"{number}.nng")
    path, known, failed = tmp_path / "shared.nng", {graph.digest for graph in graphs}, []
    graphs[0].save(path)

    def write(graph: SavedGraph) -> None:
        try:
            for _ in range(40):
                graph.save(path)
        except Exception as error:
            failed.append(error)

    command = [sys.executable, "-c", WRITER, str(tmp_path / "0.nng"), str(path)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    threads = [threading.Thread(target=write, args=(graph,)) for graph in graphs]
    for thread in threads:
        thread.start()
    while process.poll() is None or any(thread.is_alive() for thread in threads):
        assert nnsight.load(path).digest in known
    for thread in threads:
        thread.join()
    assert process.returncode == 0
    assert not failed
    assert sorted(os.listdir(tmp_path)) == ["0.nng", "1.nng", "2.nng", "shared.nng"]


def test_the_file_of_before_stays_when_writing_fails(model: NNsight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, values = tmp_path / "graph.nng", tmp_path / "values.safetensors"
    graph = scaled(model, 2.0)
    graph.save(path)
    SavedGraph.write_values({"a": torch.ones(2)}, values)
    old = path.read_bytes(), values.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for write in (scaled(model, 3.0).save, lambda to: SavedGraph.write_values({"a": torch.zeros(2)}, to)):
            for to in (path, values, tmp_path / "new"):
                with pytest.raises(OSError, match="No space left"):
                    write(to)
    assert (path.read_bytes(), values.read_bytes()) == old
    assert sorted(os.listdir(tmp_path)) == ["graph.nng", "values.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="links and fifos")
def test_links_and_what_is_no_file(model: NNsight, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    scaled(model, 2.0).save(tmp_path / "link")
    assert nnsight.load(tmp_path / "target") == nnsight.load(tmp_path / "link") == scaled(model, 2.0)
    assert SavedGraph.write_values({"a": torch.ones(2), "b": 3}, tmp_path / "link") == ["b"]
    assert safetensors.torch.load_file(tmp_path / "target")["a"].tolist() == [1, 1]
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(GraphFormatError, match="fifo is a fifo, and not a file"):
        nnsight.load(tmp_path / "fifo")
    for write in (scaled(model, 2.0).save, lambda to: SavedGraph.write_values({}, to)):
        with pytest.raises(OSError, match="it is a fifo"):
            write(tmp_path / "fifo")
    (tmp_path / "plain").write_bytes(b"")
    SavedGraph.write_values({"a": torch.ones(2)}, tmp_path / "values")
    assert (tmp_path / "values").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def lines() -> list[str]:
    return [name for name in linecache.cache if name.startswith("<shared.nng")]


def test_lines_of_programs_are_there_as_long_as_they_can_be_shown(tmp_path: Path) -> None:
    model = NNsight(nn.Linear(4, 4))
    errors: list[BaseException] = []
    for number in (50, 60):  # two programs of one name
        (tmp_path / str(number)).mkdir()
        with model.trace(run=False) as tracer:
            model.output[:, number].save("far")
        tracer.graph.save(tmp_path / str(number) / "shared.nng")
        with pytest.raises(IndexError) as caught:
            nnsight.load(tmp_path / str(number) / "shared.nng").run(model, X)
        errors.append(caught.value)
    del caught
    gc.collect()
    assert len(lines()) == 2
    for number, error in zip((50, 60), errors, strict=True):
        assert f"%1 = %0[:, {number}]" in "".join(traceback.format_exception(error))
        frame = traceback.extract_tb(error.__traceback__)[-1]
        assert frame.line == f"%1 = %0[:, {number}]"
        assert frame.filename.startswith("<shared.nng ")
    del error
    errors.clear()
    gc.collect()
    assert lines() == []


def test_lines_of_an_edit_stay_with_the_edited_model(tmp_path: Path) -> None:
    model = NNsight(nn.Linear(4, 4))
    editor = model.edit()
    with editor:
        model.output[:, 50] = 0
    editor.graph.save(tmp_path / "shared.nng")
    edited = nnsight.load(tmp_path / "shared.nng").edit(model)
    gc.collect()
    with pytest.raises(IndexError) as caught, edited.trace(X):
        edited.output.save()
    assert "%0[:, 50]" in "".join(traceback.format_exception(caught.value))
    del edited, caught
    gc.collect()


def test_linecache_does_not_grow_with_files(model: NNsight, tmp_path: Path) -> None:
    gc.collect()
    before = len(linecache.cache)
    for number in range(10):
        scaled(model, float(number)).save(tmp_path / f"{number}.nng")
        assert torch.equal(nnsight.load(tmp_path / f"{number}.nng").run(model, X)["out"], model._module(X) * number)
    gc.collect()
    assert len(linecache.cache) <= before + 1
