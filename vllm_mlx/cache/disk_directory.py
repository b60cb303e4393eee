"""The directory of the SSD tier: one lock, one small state file, one folder a fingerprint.

    DIRECTORY/lock              held by the process that uses the directory, until it dies
    DIRECTORY/state.json        bytes written today, measured read rate
    DIRECTORY/FINGERPRINT/*.kv  segment files of one model in one format

Records of other models are never read and never in the way: they stay until the byte cap, which is
one for the whole directory, needs their room; then the segment file that was used longest ago goes.
"""

import contextlib
import fcntl
import logging
import os
import re
import threading
from pathlib import Path

import msgspec
from msgspec import Struct

from vllm_mlx.cache.extents import KEY_BYTES
from vllm_mlx.cache.segment_file import SUFFIX
from vllm_mlx.errors import ConfigError

LOCK_NAME = "lock"
STATE_NAME = "state.json"
FOLDER_NAME = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")
SIDECAR_BYTES = 16 << 10  # lock, state and its successor while it is replaced: a page each at most

logger = logging.getLogger(__name__)


class DiskState(Struct):
    """What outlives the process besides records."""

    day: str = ""  # UTC, as 2026-01-31
    written_bytes: int = 0  # on that day; never less than the truth, also after a crash
    read_bytes_per_second: float | None = None


class DirectoryLock:
    """Held from ``take`` to ``release`` or to the death of the process, however it dies."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        self._file: int | None = None

    def take(self) -> None:
        """Raises ConfigError where another process holds it, or the directory is not writable."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror}", "cache.directory") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(file, 32, 0).decode(errors="replace").strip()
            os.close(file)
            raise ConfigError(self._why(error, owner), "cache.directory") from error
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _why(self, error: OSError, owner: str) -> str:
        if isinstance(error, BlockingIOError):
            return (
                f"{self._path.parent} is in use by process {owner or 'unknown'}; two servers"
                " cannot share a directory: give each its own, or stop the other"
            )
        return f"{self._path.parent} is on a file system without locks: {error.strerror}"


def holder(directory: Path) -> str | None:
    """The process that uses the directory, or None."""
    path = directory / LOCK_NAME
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(file)
    return None


def make_private_folder(path: Path) -> None:
    """Folders that are made here are the owner's alone. Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "cache.directory") from error


def load_state(directory: Path) -> DiskState:
    """An empty state where the file is missing or damaged."""
    try:
        return msgspec.json.decode((directory / STATE_NAME).read_bytes(), type=DiskState)
    except (OSError, msgspec.DecodeError):
        return DiskState()


def save_state(directory: Path, state: DiskState) -> None:
    """Replaces the file as a whole. Raises OSError."""
    successor = directory / f"{STATE_NAME}.new"
    file = os.open(successor, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(file, msgspec.json.encode(state))
    finally:
        os.close(file)
    os.replace(successor, directory / STATE_NAME)


def folders(directory: Path) -> list[Path]:
    """The folder of every fingerprint."""
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return []
    return [path for path in entries if FOLDER_NAME.fullmatch(path.name) and path.is_dir()]


def segment_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


class ByteCap:
    """The bytes of every segment file in a directory against one budget; thread safe.

    ``own`` is the folder in use, whose segments report what they take; the others only shrink.
    """

    def __init__(self, directory: Path, own: Path, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._others: list[tuple[int, int, Path]] = []  # (used at, bytes, path), oldest last
        for folder in folders(directory):
            if folder != own:
                self._others += _sizes(segment_paths(folder))
        self._others.sort(reverse=True)
        self._used_bytes = SIDECAR_BYTES + sum(size for _, size, _ in self._others)
        self.yielded_bytes = 0  # of other models, since start

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def others_bytes(self) -> int:
        return sum(size for _, size, _ in list(self._others))

    def fit(self, own: list[Path]) -> list[Path]:
        """Count the segments in use; where the budget became smaller, unlink the oldest.

        Returns those that stay.
        """
        mine = sorted(_sizes(own), reverse=True)
        with self._lock:
            self._used_bytes += sum(size for _, size, _ in mine)
            self._yield_others(0)
            while mine and self._used_bytes > self.budget_bytes:
                self._used_bytes -= _unlink(*mine.pop()[1:])
        return sorted(path for _, _, path in mine)

    def take(self, num_bytes: int) -> bool:
        """False (and nothing taken) where they do not fit beside what is in use."""
        with self._lock:
            self._yield_others(num_bytes)
            if self._used_bytes + num_bytes > self.budget_bytes:
                return False
            self._used_bytes += num_bytes
            return True

    def give_back(self, num_bytes: int) -> None:
        with self._lock:
            self._used_bytes -= num_bytes

    def _yield_others(self, num_bytes: int) -> None:
        while self._others and self._used_bytes + num_bytes > self.budget_bytes:
            _, size, path = self._others.pop()
            self._used_bytes -= _unlink(size, path)
            self.yielded_bytes += size


def _unlink(size: int, path: Path) -> int:
    """Returns what became free: nothing where the file cannot be removed."""
    logger.info("cache.budget_gib: removing %s (%d bytes), used longest ago", path, size)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", path, error)
        return 0
    with contextlib.suppress(OSError):  # was it the last file of its folder?
        path.parent.rmdir()
    return size


def _sizes(paths: list[Path]) -> list[tuple[int, int, Path]]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    return found
