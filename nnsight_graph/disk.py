"""Files and folders on disk: a file is written whole or not at all, opened once, and only if it is one; a folder has one writer."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import GraphFormatError, ours

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CLAIM = "claim"
"""The file that stands for a claim where the system cannot lock a folder."""

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
_WAITS = (0.001, 0.01, 0.1, 0.5)
_KINDS = {stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file to write to, which takes the place of ``path`` when the block ends well, and is gone when it does not.

    Whoever opens ``path`` sees what was there before or all that was written. A link is followed.

    Raises:
        OSError: ``path`` is a folder, a fifo or a device, or lies in a folder that is not there.
    """
    target, mode = target_of(path)
    beside = target.with_name(partial_name())
    try:
        os.close(os.open(beside, _NEW, 0o666))
        yield beside
        with open(beside, "rb+") as written:
            os.fsync(written.fileno())  # or a power cut could leave the new name with nothing in it
        if mode is not None:
            os.chmod(beside, mode)
        _move(beside, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def target_of(path: str | Path) -> tuple[Path, int | None]:
    """The file that writing to ``path`` would replace, and its permissions; ``None`` if there is none.

    Raises:
        OSError: as :func:`replacing` does.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ours(FileNotFoundError, f"{path}: there is no folder {target.parent}")
    return target, _mode(target)


def partial_name() -> str:
    """A name for a file that is being written, which no other thread or process has."""
    return f".nnsight-{secrets.token_hex(8)}.partial"


def is_partial(name: str) -> bool:
    """Whether a file has such a name.

    >>> is_partial(partial_name()), is_partial("graph.nng")
    (True, False)
    """
    return name.startswith(".nnsight-") and name.endswith(".partial")


def opened(path: str | Path) -> BinaryIO:
    """A file, opened to be read; to be closed by the caller.

    Raises:
        GraphFormatError: it is a fifo or a device, which could keep the reader waiting for ever.
        OSError: it is not there, is a folder, or cannot be read.
    """
    _refuse(os.stat(path).st_mode, path)
    number = os.open(path, _READ)
    try:
        _refuse(os.fstat(number).st_mode, path)  # another may have come in its place
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


class Claim:
    """A writer's claim on a folder. It ends when it is released, or with the process, however that ends.

    Args:
        folder: A folder that is there.

    Raises:
        BlockingIOError: another writer has claimed it, in this process or in another.
        OSError: it cannot be claimed.
    """

    def __init__(self, folder: Path) -> None:
        self._number, self._file, self._process = -1, folder / CLAIM, os.getpid()
        self._locked = fcntl is not None and self._lock(folder)
        if not self._locked:  # such as on network file systems: a file that can be created only once
            try:
                self._number = os.open(self._file, _NEW | getattr(os, "O_TEMPORARY", 0), 0o666)
            except FileExistsError:
                note = "" if os.name == "nt" else f"; if that writer is no more, delete {self._file}"
                raise ours(BlockingIOError, errno.EAGAIN, f"another writer has claimed {folder}{note}") from None
            os.write(self._number, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _lock(self, folder: Path) -> bool:
        number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            raise ours(BlockingIOError, errno.EAGAIN, f"another writer has claimed {folder}") from None
        except OSError:
            os.close(number)
            return False
        self._number = number
        return True

    def release(self) -> None:
        """End the claim."""
        number, self._number = self._number, -1
        if number < 0:
            return
        mine = self._process == os.getpid()  # a child process that was forked meanwhile has the lock, too: it must not end the claim
        if self._locked and mine:
            fcntl.flock(number, fcntl.LOCK_UN)  # closing is not enough while such a child has it
        os.close(number)
        if not self._locked and mine:
            self._file.unlink(missing_ok=True)

    def __del__(self) -> None:
        self.release()


def _refuse(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise ours(IsADirectoryError, errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise GraphFormatError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, and not a file")


def _mode(target: Path) -> int | None:
    """The permissions of the file that stands there now; ``None`` if there is none."""
    try:
        mode = os.lstat(target).st_mode  # the target of links: if this is one, they lead in a circle
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        raise ours(OSError, errno.ELOOP, os.strerror(errno.ELOOP), str(target))
    if stat.S_ISDIR(mode):
        raise ours(IsADirectoryError, errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not stat.S_ISREG(mode):
        raise ours(OSError, errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, and not a file", str(target))
    return stat.S_IMODE(mode)


def _move(beside: Path, target: Path) -> None:
    for wait in _WAITS:
        try:
            return os.replace(beside, target)
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(wait)  # Windows does not replace what somebody reads at the moment
    os.replace(beside, target)
