"""Caches in folders: one writer, complete or not, appended to by their owners, and read as files of strangers are."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import threading
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnsight_graph import CacheDict, GraphFormatError, NNsight, RecordError, apply
from nnsight_graph.disk import CLAIM, Claim
from nnsight_graph.model import shards
from nnsight_graph.serialize.tensors import write_tensors
from tests.run.lines import ends_on

X, Y = torch.linspace(-1, 1, 24).reshape(3, 8), torch.linspace(2, -1, 24).reshape(3, 8)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).requires_grad_(False)


@pytest.fixture
def model(net: nn.Sequential) -> NNsight:
    return NNsight(net)


def write(model: NNsight, to: Any, given: torch.Tensor = X, modules: Any = ("0", "1"), fails: bool = False, **options: Any) -> CacheDict:
    with model.trace(given) as tracer:
        cache = tracer.cache(list(modules), to=to, **options)
        if fails:
            model[3].output @ torch.ones(5, 5)
    return cache


def fail(model: NNsight, to: Any, **options: Any) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        write(model, to, fails=True, **options)


def index(folder: Path) -> Any:
    return json.loads((folder / "index.json").read_text())


def shard_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


# ---------------------------------------------------------------------- one writer


def test_two_threads_and_one_folder(model: NNsight, net: nn.Sequential, tmp_path: Path) -> None:
    for turn in range(10):
        folder, gate = tmp_path / str(turn), threading.Barrier(2)
        ended: dict[str, Any] = {}

        def writer(name: str, given: torch.Tensor, folder: Path = folder, gate: Any = gate, ended: dict[str, Any] = ended) -> None:
            gate.wait()
            try:
                ended[name] = write(model, folder, given, [name])
            except RecordError as error:
                ended[name] = error

        threads = [threading.Thread(target=writer, args=given) for given in (("0", X), ("1", Y))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [str(one) for one in ended.values() if isinstance(one, RecordError)]
        assert len(errors) == 1
        assert "another writer has claimed" in errors[0] or "is not an empty folder" in errors[0]
        found = CacheDict.load(folder)
        if list(found) == ["model.0"]:
            assert torch.equal(found["model.0"].output, net[0](X))
        else:
            assert list(found) == ["model.1"]
            assert torch.equal(found["model.1"].output, net[1](net[0](Y)))


def test_a_claimed_folder_is_an_error_on_its_line(model: NNsight, tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    with pytest.raises(RecordError, match="another writer has claimed") as caught, model.trace(X) as tracer:
        kept = tracer.cache("0", to=tmp_path)
    assert ends_on(caught.value)[1] == "kept = tracer.cache(\"0\", to=tmp_path)"
    assert os.listdir(tmp_path) == []
    claim.release()
    assert list(write(model, tmp_path)) == ["model.0", "model.1"]
    assert kept._waiting


def test_caches_of_one_trace(model: NNsight, net: nn.Sequential, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is written by another cache of this trace"), model.trace(X) as tracer:
        tracer.cache("0", to=tmp_path / "a")
        tracer.cache("1", to=f"{tmp_path}/b/../a")
    with Claimed(tmp_path / "b"), pytest.raises(RecordError, match="another writer"), model.trace(X) as tracer:
        tracer.cache("0", to=tmp_path / "a")  # is let go, since the other one cannot be had
        tracer.cache("1", to=tmp_path / "b")
    assert torch.equal(write(model, tmp_path / "a")["model.0"].output, net[0](X))


class Claimed:
    """A folder that somebody else writes to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.claim = Claim(folder)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *given: object) -> None:
        self.claim.release()


KILLED = """
import os, sys, torch
from nnsight_graph import NNsight, apply
from nnsight_graph.model import shards
shards.SHARD_BYTES = 1
model = NNsight(torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4))))
with torch.no_grad(), model.trace(torch.ones(3, 8)) as tracer:
    tracer.cache(to=sys.argv[1])
    apply(lambda value: os._exit(9), model[2].output)
"""


@pytest.mark.slow
def test_the_folder_of_a_process_that_was_ended(model: NNsight, net: nn.Sequential, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 9
    assert len(shard_names(tmp_path / "a")) == 2
    with pytest.raises(GraphFormatError, match="is incomplete"):
        CacheDict.load(tmp_path / "a")
    (tmp_path / "a" / ".nnsight-0123.partial").write_text("half")
    assert torch.equal(write(model, tmp_path / "a")["model.1"].output, net[:2](X))
    assert len(shard_names(tmp_path / "a")) == 1
    assert len(os.listdir(tmp_path / "a")) == 2


# ---------------------------------------------------------------------- runs that fail


def test_after_a_failed_run(model: NNsight, net: nn.Sequential, tmp_path: Path) -> None:
    folder, kept = tmp_path / "a", []
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), model.trace(X) as tracer:
        kept.append(tracer.cache(["0", "1"], to=folder))
        model[3].output @ torch.ones(5, 5)
    with pytest.raises(GraphFormatError, match=r"is incomplete: the run that wrote it failed"):
        CacheDict.load(folder)
    assert torch.equal(kept[0]["model.1"].output, net[:2](X))  # as a cache in memory has what came
    with pytest.raises(RecordError, match=r"is incomplete: the run that wrote it failed. To begin anew"):
        write(model, kept[0])
    before = shard_names(folder)
    write(model, folder, Y)
    assert torch.equal(CacheDict.load(folder)["model.1"].output, net[:2](Y))
    assert not set(before) & set(shard_names(folder))
    with pytest.raises(GraphFormatError, match="was deleted, or the folder was written anew since"):
        _ = kept[0]["model.1"].output  # not the numbers of the other run


def test_errors_of_the_model_and_interrupts(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def __init__(self, error: BaseException) -> None:
            super().__init__()
            self.first, self.error = nn.Identity(), error

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.first(x)
            raise self.error

    for number, error in enumerate((ValueError("here"), KeyboardInterrupt())):
        with pytest.raises(type(error)), NNsight(Fails(error)).trace(X) as tracer:
            tracer.cache(to=tmp_path / str(number))
            tracer.result.save()
        with pytest.raises(GraphFormatError, match="is incomplete"):
            CacheDict.load(tmp_path / str(number))
        with NNsight(nn.Identity()).trace(X) as tracer:
            tracer.cache(to=tmp_path / str(number))  # was let go
        assert torch.equal(CacheDict.load(tmp_path / str(number)).model.output, X)


def test_a_disk_that_is_full(model: NNsight, net: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, named: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    for limit in (1, 1 << 30):  # in the run, and at its end
        with monkeypatch.context() as patched:
            patched.setattr(shards, "SHARD_BYTES", limit)
            patched.setattr(shards, "write_tensors", full)
            with pytest.raises(OSError, match="No space left"):
                write(model, tmp_path / "a")
        assert os.listdir(tmp_path / "a") == ["index.json"]
        with pytest.raises(GraphFormatError, match="is incomplete"):
            CacheDict.load(tmp_path / "a")
    write(model, tmp_path / "a")
    assert torch.equal(CacheDict.load(tmp_path / "a")["model.0"].output, net[0](X))


def test_what_is_in_a_folder_stays(model: NNsight, tmp_path: Path) -> None:
    cache = write(model, tmp_path / "a")
    with pytest.raises(RecordError, match=r"is not an empty folder.*tracer\.cache\(to=cache\)"):
        write(model, tmp_path / "a")
    fail(model, tmp_path / "b")
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(RecordError, match="is not an empty folder"):
        write(model, tmp_path / "b")
    assert (tmp_path / "b" / "notes.txt").read_text() == "mine"
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    (tmp_path / "c" / "index.json").write_text("{")
    with pytest.raises(RecordError, match="is not an empty folder"):
        write(model, tmp_path / "c")
    (tmp_path / "c" / "index.json").unlink()
    with pytest.raises(RecordError, match="is not an empty folder"):
        write(model, tmp_path / "c")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="is not an empty folder"):
        write(model, tmp_path / "file")
    assert len(cache) == 2


# ---------------------------------------------------------------------- appending


def test_the_owner_appends(model: NNsight, net: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    cache = write(model, tmp_path / "a", rename={"1": "second"})
    assert torch.equal(cache["model.second"].output, net[:2](X))
    with model.trace(Y) as tracer:
        same = tracer.cache(["1", "2"], to=cache)
        assert list(cache) == ["model.0", "model.second"]  # what is there can be read in the block
    assert same is cache
    for found in (cache, CacheDict.load(tmp_path / "a")):
        assert list(found) == ["model.0", "model.second", "model.2"]
        assert torch.equal(found["model.0"].output, net[0](X))
        for output, given in zip(found["model.second"].output, (X, Y), strict=True):
            assert torch.equal(output, net[:2](given))
        assert torch.equal(found["model.1"].output[1], net[:2](Y))
        assert torch.equal(found["model.2"].output, net[:3](Y))
    loaded = CacheDict.load(tmp_path / "a")
    write(model, loaded, X + 1, ["0"])
    assert torch.equal(CacheDict.load(tmp_path / "a")["model.0"].output[1], net[0](X + 1))
    with pytest.raises(RecordError, match=r"others wrote to .* since this cache was read"):
        write(model, cache)
    assert len(shard_names(tmp_path / "a")) == index(tmp_path / "a")["shards"] == 5


def test_a_run_that_fails_while_it_appends(model: NNsight, net: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write(model, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    fail(model, cache, given=Y)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    for found in (cache, CacheDict.load(tmp_path / "a")):
        assert torch.equal(found["model.1"].output, net[:2](X))
    write(model, cache, Y)
    assert torch.equal(CacheDict.load(tmp_path / "a")["model.1"].output[1], net[:2](Y))


def test_what_cannot_be_appended_to(model: NNsight, tmp_path: Path) -> None:
    cache = write(model, tmp_path / "a")
    with model.trace(X) as tracer:
        memory = tracer.cache("0")
    for other in (memory, cache.model, CacheDict()):
        with pytest.raises(RecordError, match="lies in no folder"):
            write(model, other)
    claim = Claim(tmp_path / "a")
    with pytest.raises(RecordError, match="another writer has claimed"):
        write(model, cache)
    claim.release()
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(RecordError, match="is not there any more"):
        write(model, cache)
    assert not (tmp_path / "a").exists()


def test_traces_of_a_session(model: NNsight, net: nn.Sequential, tmp_path: Path) -> None:
    with model.session():
        with model.trace(X) as tracer:
            cache = tracer.cache("0", to=tmp_path / "a")
        with model.trace(Y) as tracer:
            tracer.cache("0", to=cache)
    found = CacheDict.load(tmp_path / "a")["model.0"].output
    assert torch.equal(found[0], net[0](X))
    assert torch.equal(found[1], net[0](Y))
    with model.session() as session:
        with session.iter([X, Y, X + Y]) as given, model.trace(given) as tracer:
            tracer.cache("0", to=tmp_path / "b")
    found = CacheDict.load(tmp_path / "b")["model.0"].output
    for output, given in zip(found, (X, Y, X + Y), strict=True):
        assert torch.equal(output, net[0](given))
    with pytest.raises(ZeroDivisionError), model.session() as session:
        with session.iter([1, 0, 2]) as divisor, model.trace(X / 1) as tracer:
            tracer.cache("0", to=tmp_path / "c")
            apply(divmod, 1, divisor)
    with pytest.raises(GraphFormatError, match="is incomplete"):  # although the first turn went well
        CacheDict.load(tmp_path / "c")


def test_a_folder_is_found_from_another_place(model: NNsight, net: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache, loaded = write(model, "a"), CacheDict.load("a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for found in (cache, loaded, pickle.loads(pickle.dumps(loaded))):
        assert torch.equal(found["model.0"].output, net[0](X))


# ---------------------------------------------------------------------- what is in it


class Colour(str, Enum):
    RED = "red"


class Named(float):
    pass


def test_plain_values_come_back_as_they_are(tmp_path: Path) -> None:
    class Takes(nn.Module):
        def forward(self, x: torch.Tensor, **given: Any) -> torch.Tensor:
            return x

    given = {
        "nan": float("nan"), "inf": -math.inf, "large": 10**30, "zero": -0.0, "text": "né\n", "none": None, "true": True,
        "keys": {(1, "a"): 1.5, None: 2}, "complex": torch.ones(2, 2, dtype=torch.complex128) * 1j, "half": "\ud800",
        "red": Colour.RED, "named": Named(2.5), "nested": ([1, (2,)], {}),
    }  # fmt: skip
    module = nn.Sequential()
    module.takes = Takes()
    module.forward = lambda x: module.takes(x, **given)  # type: ignore[method-assign]
    with NNsight(module).trace(X) as tracer:
        tracer.cache("takes", include_inputs=True, to=tmp_path / "a")
    found = CacheDict.load(tmp_path / "a")["model.takes"]
    kept = found.inputs[1]
    assert torch.equal(found.input, X)
    assert math.isnan(kept["nan"])
    assert math.copysign(1, kept["zero"]) == -1
    assert torch.equal(kept["complex"], given["complex"])
    assert repr(kept["half"]) == "NotKept(builtins.str)"
    plain = ("inf", "large", "text", "none", "true", "keys", "nested")
    assert {name: kept[name] for name in plain} == {name: given[name] for name in plain}
    assert (type(kept["red"]), kept["red"], type(kept["named"]), kept["named"]) == (str, "red", float, 2.5)


def test_a_folder_of_the_first_version(model: NNsight, tmp_path: Path) -> None:
    with open(tmp_path / "activations-00000.safetensors", "wb") as file:
        write_tensors(file, {"0": X, "1": Y})
    modules = {
        "model.0": [{"output": {"tuple": [{"tensor": "0", "shard": 0}, {"plain": 3}, {"object": "a.B"}]}}],
        "model.1": [{"output": {"tensor": "0", "shard": 0}}, {"output": {"dict": [[{"plain": "y"}, {"tensor": "1", "shard": 0}]]}}],
    }
    old = {"format": "nnsight_graph cache 1", "lists": False, "names": {"model.first": "model.0"}, "modules": modules}
    (tmp_path / "index.json").write_text(json.dumps(old))
    found = CacheDict.load(tmp_path)
    assert torch.equal(found["model.first"].output[0], X)
    assert found["model.0"].output[1] == 3
    assert torch.equal(found["model.1"].output[1]["y"], Y)
    with pytest.raises(RecordError, match="was written by an older version"):
        write(model, found)
    with pytest.raises(RecordError, match="is not an empty folder"):
        write(model, tmp_path)


# ---------------------------------------------------------------------- folders of strangers


def nested(depth: int, kind: str = "list") -> str:
    return f'{{"{kind}": [' * depth + '{"plain": 1}' + "]}" * depth


ENTRIES: dict[str, str] = {
    "no kind": "{}", "two kinds": '{"plain": 1, "list": []}', "a kind of another version": '{"set": []}', "a number": "5",
    "no list": '{"list": 5}', "no pairs": '{"dict": [1]}', "a half pair": '{"dict": [[{"plain": 1}]]}', "an array": '{"plain": [1]}',
    "a large number": '{"plain": 1e999}', "another float": '{"number": "__import__"}', "no text": '{"plain": "\\ud800"}',
    "a list as a key": '{"dict": [[{"list": []}, {"plain": 1}]]}', "a path": '{"tensor": "0", "shard": "../../x"}',
    "a path as a name": '{"tensor": "../../x", "shard": 0}', "before the first": '{"tensor": "0", "shard": -1}',
    "not there": '{"tensor": "0", "shard": 12345}', "a shard alone": '{"plain": 1, "shard": 0}', "no shard": '{"tensor": "0"}',
    "another tensor": '{"tensor": "99", "shard": 0}', "no pairs of numbers": '{"tensor": "0", "shard": 0, "complex": true}',
    "deep": nested(3000), "very deep": nested(300_000), "too deep": nested(150), "deep tuples": nested(150, "tuple"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "a"
    write(NNsight(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))), folder, include_inputs=True)
    return folder


def refused(good: Path, tmp_path: Path, text: str | bytes) -> str:
    shutil.copytree(good, tmp_path / "bad", dirs_exist_ok=True)
    (tmp_path / "bad" / "index.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(GraphFormatError) as caught:
        for entry in CacheDict.load(tmp_path / "bad").values():
            for one in entry if isinstance(entry, list) else [entry]:
                _ = one.output, one.inputs, one.input
    return str(caught.value)


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_that_are_not_what_they_should_be(good: Path, tmp_path: Path, name: str) -> None:
    for point in ("output", "inputs"):
        content = {**index(good), "modules": {"model.0": [{point: "HERE"}]}}
        refused(good, tmp_path, json.dumps(content).replace('"HERE"', ENTRIES[name]))


@pytest.mark.parametrize(
    "parts",
    [
        {"names": 5}, {"names": {"a": 1}}, {"modules": [1]}, {"modules": {"model.0": []}}, {"modules": {"model.0": {}}},
        {"modules": {"model.0": [{"gradient": {"plain": 1}}]}}, {"modules": {"model.0": [{"inputs": {"plain": 1}}]}},
        {"modules": {"model.0": [{"inputs": {"tuple": []}}]}}, {"lists": "yes"}, {"generation": "../../x"}, {"generation": "00\n"},
        {"generation": 3}, {"revision": -1}, {"shards": 1.5}, {"complete": "no"}, {"complete": False}, {"format": "nnsight_graph cache 9"},
        {"format": None}, {"more": 1}, {"generation": "0123456789abcdef"},
    ],
)  # fmt: skip
def test_an_index_that_is_not_what_it_should_be(good: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    refused(good, tmp_path, json.dumps({**index(good), **parts}))


def test_an_index_that_is_no_index(good: Path, tmp_path: Path) -> None:
    whole = (good / "index.json").read_bytes()
    for text in ("", "[]", "null", "{}", whole[:-20], whole + b"x", b"\xff\xfe", whole.replace(b"model", b"m\xff"), "[" * 100_000):
        refused(good, tmp_path, text)
    (tmp_path / "bad" / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no cache"):
        CacheDict.load(tmp_path / "bad")
    (tmp_path / "bad" / "index.json").mkdir()
    with pytest.raises(GraphFormatError, match="is a folder"):
        CacheDict.load(tmp_path / "bad")
    if os.name != "nt":
        (tmp_path / "bad" / "index.json").rmdir()
        os.mkfifo(tmp_path / "bad" / "index.json")
        with pytest.raises(GraphFormatError, match="is a fifo"):
            CacheDict.load(tmp_path / "bad")


def test_damaged_shards(good: Path, tmp_path: Path) -> None:
    whole = (good / "index.json").read_bytes()
    (name,) = shard_names(good)
    content = (good / name).read_bytes()
    for damaged in (b"", content[:50], content[:-4], b"\xff" * len(content)):
        shutil.copytree(good, tmp_path / "bad", dirs_exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(damaged)
        with pytest.raises(GraphFormatError, match=name):
            _ = CacheDict.load(tmp_path / "bad")["model.0"].output
    shutil.rmtree(tmp_path / "bad")
    shutil.copytree(good, tmp_path / "bad")
    (tmp_path / "bad" / name).unlink()
    assert "was deleted" in refused_shard(tmp_path / "bad")
    if os.name != "nt":
        os.mkfifo(tmp_path / "bad" / name)
        assert "is a fifo" in refused_shard(tmp_path / "bad")
    assert (good / "index.json").read_bytes() == whole
    assert not (good / CLAIM).exists()


def refused_shard(folder: Path) -> str:
    with pytest.raises(GraphFormatError) as caught:
        _ = CacheDict.load(folder)["model.0"].output
    return str(caught.value)
