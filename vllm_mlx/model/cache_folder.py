"""Finished folders in the cache: locked, written aside, checksummed, moved into place at once."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vllm_mlx.errors import ModelError

MANIFEST = "vllm_mlx_manifest.json"
CACHE_VARIABLE = "VLLM_MLX_CACHE"
HASHED_BYTES = 512 * 2**20  # folders up to this size are hashed each time they are opened


def cache_root() -> Path:
    """Where converted models live: VLLM_MLX_CACHE, else XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vllm-mlx" / "models"


def file_sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file; ``on_bytes`` is told how many more were read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest, or None if it has none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def is_whole(folder: Path, *, hash_always: bool = False) -> bool:
    """Whether every file is as it was written: size always, content if small or touched since."""
    manifest = read_manifest(folder)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return False
    files: dict[str, Any] = manifest["files"]
    try:
        small = sum(entry["size_bytes"] for entry in files.values()) <= HASHED_BYTES
        return all(
            _is_file_whole(folder / name, entry, hash_always or small)
            for name, entry in files.items()
        )
    except (OSError, KeyError, TypeError):
        return False


def _is_file_whole(path: Path, entry: dict[str, Any], hashed: bool) -> bool:
    status = path.stat()
    if status.st_size != entry["size_bytes"]:
        return False
    if hashed or status.st_mtime_ns != entry["mtime_ns"]:
        return bool(file_sha256(path) == entry["sha256"])
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_manifest(folder: Path, about: dict[str, Any]) -> None:
    files = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        _sync(path)
        status = path.stat()
        files[path.name] = {
            "size_bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sha256": file_sha256(path),
        }
    text = json.dumps({**about, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Exclusive among processes and threads; released by the system if the holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_leftovers(root: Path, name: str) -> None:
    """What a killed writer left; the lock is held, so nobody is writing there."""
    for leftover in root.glob(f".{name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)


def _move_into_place(temporary: Path, folder: Path) -> None:
    if folder.exists():  # a damaged or stale one; os.replace wants an empty target
        old = folder.with_name(f".{folder.name}.old")
        os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, folder)
    _sync(folder.parent)


def open_or_write(
    folder: Path,
    is_current: Callable[[dict[str, Any]], bool],
    write: Callable[[Path], dict[str, Any]],
) -> Path:
    """``folder``, if it is whole and its manifest is current; else written anew first.

    ``write`` fills an empty folder and returns what the manifest shall say besides the files.
    Nobody ever sees a half-written folder, and of two processes one writes and one waits.
    Raises ModelError if the cache cannot be written.
    """
    root, name = folder.parent, folder.name
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{name}.lock"):
            manifest = read_manifest(folder)
            if manifest is not None and is_current(manifest) and is_whole(folder):
                return folder
            _remove_leftovers(root, name)
            temporary = root / f".{name}.{os.getpid()}.tmp"
            temporary.mkdir()
            try:
                _write_manifest(temporary, write(temporary))
                _move_into_place(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"cannot write {folder}: {error.strerror or error} "
            f"(set {CACHE_VARIABLE} to a folder that can be written)"
        ) from error
    return folder
