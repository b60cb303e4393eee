"""One open segment file of the SSD tier: plain reads and writes at the places that a Layout names.

Writing goes through the page cache, so what is written survives the death of the process at once
and a power cut after ``sync``. Payloads are read past the page cache where the file system allows:
they are wanted once, and memory is better spent on blocks than on copies of them.
"""

import fcntl
import mmap
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from vllm_mlx.cache.extents import (
    PAGE_BYTES,
    SECTOR_BYTES,
    DamagedError,
    Superblock,
    decode_superblock,
    encode_superblock,
    is_blank,
)

SUFFIX = ".kv"
MAX_BUFFERS = 512  # of one scattered read; systems take at least 1024
SCAN_BYTES = 4 << 20


class Descriptor:
    """An open file that closes when nobody refers to it: readers outlive an unlinked segment."""

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class SegmentFile:
    """See the module docstring. Writing is one thread's; reading payloads is anybody's."""

    def __init__(self, number: int, path: Path, superblock: Superblock, file: Descriptor) -> None:
        self.number, self.path, self.superblock = number, path, superblock
        self.layout = superblock.layout
        self._file = file
        self._direct: Descriptor | None = None
        self._is_dirty = False
        size = os.fstat(file.number).st_size
        self._file_bytes = size
        slots = (size - self.layout.payloads_at) // self.layout.payload_bytes
        self.grown = min(max(0, slots), self.layout.extents)  # payload slots that exist

    @classmethod
    def create(cls, folder: Path, number: int, superblock: Superblock) -> "SegmentFile":
        """A new file without payload slots. Raises OSError, and leaves no file then."""
        path = folder / f"{number:06d}{SUFFIX}"
        file = Descriptor(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            write_all(file.number, encode_superblock(superblock), 0)
            os.ftruncate(file.number, superblock.layout.file_bytes(0))
        except OSError:
            path.unlink()
            raise
        _bypass_cache(file.number)
        return cls(number, path, superblock, file)

    @classmethod
    def open(cls, path: Path, read_only: bool = False) -> "SegmentFile":
        """Raises DamagedError where it is not a segment file, OSError."""
        if not path.stem.isdecimal():
            raise DamagedError("the name is not a number")
        file = Descriptor(path, os.O_RDONLY if read_only else os.O_RDWR)
        superblock = decode_superblock(os.pread(file.number, PAGE_BYTES, 0))
        _bypass_cache(file.number)
        return cls(int(path.stem), path, superblock, file)

    @property
    def file_bytes(self) -> int:
        """Length of the file; a torn tail counts too."""
        return self._file_bytes

    # -- headers and recency

    def headers(self) -> Iterator[tuple[int, memoryview]]:
        """Every slot whose header is not blank, with its bytes; a slot that is cut off is short."""
        step, slot = self.layout.header_bytes, 0
        batch = max(1, SCAN_BYTES // step)
        while slot < self.layout.extents:
            count = min(batch, self.layout.extents - slot)
            at = self.layout.header_at(slot)
            data = memoryview(os.pread(self._file.number, count * step, at))
            for index in range(count):
                piece = data[index * step : (index + 1) * step]
                if piece and not is_blank(piece):
                    yield slot + index, piece
            slot += count

    def recency(self) -> "array[int]":
        """Last use of every extent in ms since 1970, 0 where unknown."""
        data = os.pread(self._file.number, 8 * self.layout.extents, PAGE_BYTES)
        used = array("q", data.ljust(8 * self.layout.extents, b"\0"))
        if sys.byteorder == "big":
            used.byteswap()
        return used

    def write_recency(self, used: "array[int]") -> None:
        if sys.byteorder == "big":
            used = array("q", used)
            used.byteswap()
        write_all(self._file.number, used.tobytes(), PAGE_BYTES)

    def write_header(self, slot: int, header: bytes) -> None:
        write_all(self._file.number, header, self.layout.header_at(slot))
        self._is_dirty = True

    def wipe_header(self, slot: int) -> None:
        """The record of this slot is no more, before its payload is overwritten."""
        write_all(self._file.number, bytes(SECTOR_BYTES), self.layout.header_at(slot))
        self._is_dirty = True

    # -- payloads

    def grow(self) -> int:
        """One more payload slot; returns its number. Raises OSError."""
        os.ftruncate(self._file.number, self.layout.file_bytes(self.grown + 1))
        self.grown += 1
        self._file_bytes = self.layout.file_bytes(self.grown)
        return self.grown - 1

    def write_payload(self, slot: int, payload: bytes | memoryview) -> None:
        """At most a slot of bytes. Raises OSError."""
        if len(payload) > self.layout.payload_bytes:
            raise ValueError(f"{len(payload)} bytes for a slot of {self.layout.payload_bytes}")
        write_all(self._file.number, payload, self.layout.payload_at(slot))
        self._is_dirty = True

    def read_payloads(self, first_slot: int, buffers: Sequence[memoryview], direct: bool) -> None:
        """Neighbouring slots from ``first_slot`` on, each into one buffer of a whole slot.

        Buffers must begin at a page. Raises DamagedError where the file is too short, OSError.
        """
        for start in range(0, len(buffers), MAX_BUFFERS):
            some = list(buffers[start : start + MAX_BUFFERS])
            at = self.layout.payload_at(first_slot + start)
            wanted = len(some) * self.layout.payload_bytes
            read = self._read_once(some, at, direct)
            while read < wanted:  # rare: a signal, or the end of the file
                more = self._read_once(_behind(some, read), at + read, False)
                if more == 0:
                    raise DamagedError(f"{self.path.name} ends too early")
                read += more

    def _read_once(self, buffers: list[memoryview], at: int, direct: bool) -> int:
        if direct:
            try:
                return os.preadv(self._direct_file(), buffers, at)
            except OSError:
                self._direct = self._file  # this file system takes no direct reads
        return os.preadv(self._file.number, buffers, at)

    def _direct_file(self) -> int:
        if self._direct is None:
            flag = getattr(os, "O_DIRECT", 0)
            self._direct = Descriptor(self.path, os.O_RDONLY | flag) if flag else self._file
        return self._direct.number

    # -- ends

    def sync(self) -> None:
        """What was written survives a power cut. Raises OSError."""
        if not self._is_dirty:
            return
        self._is_dirty = False
        getattr(os, "fdatasync", os.fsync)(self._file.number)
        if hasattr(os, "posix_fadvise"):  # written once, read rarely: no copy in memory
            os.posix_fadvise(self._file.number, 0, 0, os.POSIX_FADV_DONTNEED)

    def unlink(self) -> None:
        self.path.unlink(missing_ok=True)


def write_all(file: int, data: bytes | memoryview, at: int) -> None:
    """Raises OSError."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def aligned_buffer(num_bytes: int) -> memoryview:
    """Fresh memory that begins at a page."""
    return memoryview(mmap.mmap(-1, num_bytes))


def _behind(buffers: list[memoryview], skip: int) -> list[memoryview]:
    """What is left of the buffers after ``skip`` bytes."""
    left = []
    for buffer in buffers:
        if skip < len(buffer):
            left.append(buffer[skip:])
        skip = max(0, skip - len(buffer))
    return left


def _bypass_cache(file: int) -> None:
    """macOS has no O_DIRECT but a switch of an open file."""
    switch = getattr(fcntl, "F_NOCACHE", None)
    if switch is not None:
        fcntl.fcntl(file, switch, 1)
