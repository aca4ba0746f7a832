"""Files are written whole or not at all and opened once; a folder has one writer."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nnsight_graph import disk
from nnsight_graph.disk import CLAIM, Claim, is_partial, opened, replacing
from nnsight_graph.errors import GraphFormatError

pytestmark = [pytest.mark.torch_free, pytest.mark.skipif(os.name == "nt", reason="links, fifos and forks as POSIX has them")]


def put(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)


def test_the_old_content_stays_until_the_new_one_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(path, b"old")
    with opened(path) as reader, replacing(path) as beside:
        assert beside.parent == tmp_path
        assert is_partial(beside.name)
        beside.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with opened(path) as reader:
        put(path, b"newer")
        assert reader.read() == b"new"  # the file that was opened, whatever has its name now
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    put(tmp_path / "file", b"old")
    for name in ("file", "other"):
        with pytest.raises(error), replacing(tmp_path / name) as beside:
            beside.write_bytes(b"half")
            raise error
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        put(tmp_path / "none" / "file", b"")


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("there/file")
    for content in (b"first", b"second"):
        put(tmp_path / "one", content)
        assert (tmp_path / "there" / "file").read_bytes() == content
        with opened(tmp_path / "one") as file:
            assert file.read() == content
    assert (tmp_path / "one").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["one", "there", "two"]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="circle"):
        put(tmp_path / "circle", b"")
    assert (tmp_path / "circle").is_symlink()


def test_permissions_are_those_of_a_new_file_or_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    put(tmp_path / "new", b"")
    (tmp_path / "old").write_bytes(b"")
    for mode in (0o640, 0o444):
        (tmp_path / "old").chmod(mode)
        put(tmp_path / "old", b"new")
        assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == mode
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(tmp_path)  # the name of a socket has to be short
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
        for path, kind in ((tmp_path / "fifo", "a fifo"), (tmp_path / "socket", "a socket"), (Path("/dev/zero"), "a device")):
            with pytest.raises(GraphFormatError, match=f"is {kind}, and not a file"):
                opened(path)
            with pytest.raises(OSError, match=f"it is {kind}, and not a file"):
                put(path, b"")
    for way in (opened, lambda path: put(path, b"")):
        with pytest.raises(IsADirectoryError):
            way(tmp_path)
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "socket"]


def test_threads_and_processes_that_write_one_file(tmp_path: Path) -> None:
    path, failed = tmp_path / "file", []
    contents = [bytes([number]) * 200_000 for number in range(1, 5)]
    put(path, contents[0])
    code = "import sys; from tests.test_disk import *\nfor _ in range(60): put(Path(sys.argv[1]), bytes([int(sys.argv[2])]) * 200_000)"
    root = Path(__file__).parents[1]
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), str(number)], cwd=root) for number in (1, 2)]

    def write(content: bytes) -> None:
        try:
            for _ in range(60):
                put(path, content)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents[2:]]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or any(process.poll() is None for process in processes):
        with opened(path) as file:
            assert file.read() in contents
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0]
    assert not failed
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("locks", [True, False])
def test_a_folder_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    if not locks:
        monkeypatch.setattr(disk, "fcntl", None)
    claim = Claim(tmp_path)
    with pytest.raises(BlockingIOError, match="another writer has claimed") as caught:
        Claim(tmp_path)
    assert locks or str(tmp_path / CLAIM) in str(caught.value)
    claim.release()
    claim.release()
    second = Claim(tmp_path)
    del second  # as when its owner is forgotten
    Claim(tmp_path).release()
    assert os.listdir(tmp_path) == []


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = "import sys; from tests.test_disk import *\nclaim = Claim(Path(sys.argv[1])); print('claimed', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "claimed\n"
        with pytest.raises(BlockingIOError):
            Claim(tmp_path)
        process.kill()
    Claim(tmp_path).release()


@pytest.mark.parametrize("locks", [True, False])
def test_a_forked_process_does_not_end_the_claim(tmp_path: Path, locks: bool) -> None:
    code = """
import os, sys
from tests.test_disk import *
if sys.argv[2] == "False": disk.fcntl = None
claim = Claim(Path(sys.argv[1]))
if os.fork() == 0:
    claim.release()
    os._exit(0)
os.wait()
try:
    Claim(Path(sys.argv[1]))
except BlockingIOError:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(locks)], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 7
    Claim(tmp_path).release()
