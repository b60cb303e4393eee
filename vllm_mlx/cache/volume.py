"""All segment files of one fingerprint as one space of extents, inside the directory's byte cap.

An extent is an integer: segment number and slot. One thread writes; reading and freeing is safe
from any. Segment numbers are never used twice, so an extent of a removed file means nothing.
"""

import heapq
import logging
import threading
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from vllm_mlx.cache.disk_directory import ByteCap, segment_paths
from vllm_mlx.cache.extents import (
    DamagedError,
    Layout,
    RecordHeader,
    Superblock,
    decode_header,
    encode_header,
)
from vllm_mlx.cache.segment_file import SegmentFile

SLOT_BITS = 32

logger = logging.getLogger(__name__)


class Found(Struct, frozen=True):
    """A header that is whole, where it lies, and when its record was last used."""

    extent: int
    header: RecordHeader
    used_ms: int


class Volume:
    """Takes, writes, reads and frees extents of ``payload_bytes`` each."""

    def __init__(
        self, folder: Path, layout: Layout, fingerprint: bytes, words: str, cap: ByteCap
    ) -> None:
        self.layout, self.fingerprint = layout, fingerprint
        self._folder, self._cap = folder, cap
        self._superblock = Superblock(fingerprint, layout, words)
        self._lock = threading.Lock()
        self._segments: dict[int, SegmentFile] = {}
        self._recency: dict[int, array[int]] = {}
        self._written: set[int] = set()  # extents whose header on disk is not blank
        self._free: list[int] = []  # heap, so that neighbours are handed out in order
        self._next_number = 0
        self.damaged_headers = 0

    @property
    def payload_bytes(self) -> int:
        """Of one extent."""
        return self.layout.payload_bytes

    @property
    def extent_bytes(self) -> int:
        """What an extent takes on disk, its header included."""
        return self.layout.payload_bytes + self.layout.header_bytes + 8

    @property
    def file_bytes(self) -> int:
        return sum(segment.file_bytes for segment in list(self._segments.values()))

    @property
    def num_free(self) -> int:
        return len(self._free)

    # -- opening

    def open(self) -> list[Found]:
        """Every whole header there is; all other extents are free. Raises OSError."""
        found: list[Found] = []
        for path in self._cap.fit(segment_paths(self._folder)):
            segment = self._open_segment(path)
            if segment is not None:
                found += self._scan(segment)
        taken = {item.extent for item in found}
        for segment in self._segments.values():
            extents = (_extent(segment.number, slot) for slot in range(segment.grown))
            self._free += [extent for extent in extents if extent not in taken]
        heapq.heapify(self._free)
        return found

    def _open_segment(self, path: Path) -> SegmentFile | None:
        """None, and no file any more, where it cannot be one of ours."""
        try:
            segment = SegmentFile.open(path)
            theirs = segment.layout
            if segment.superblock.fingerprint != self.fingerprint:
                raise DamagedError("a segment of another model or format")
            if (theirs.payload_bytes, theirs.header_bytes) != (
                self.layout.payload_bytes,
                self.layout.header_bytes,
            ):
                raise DamagedError("sizes of another format")
        except DamagedError as error:
            logger.warning("%s is damaged and was removed: %s", path, error)
            self._cap.give_back(path.stat().st_size)
            path.unlink()
            return None
        self._segments[segment.number] = segment
        self._next_number = max(self._next_number, segment.number + 1)
        return segment

    def _scan(self, segment: SegmentFile) -> Iterator[Found]:
        used = self._recency[segment.number] = segment.recency()
        for slot, data in segment.headers():
            extent = _extent(segment.number, slot)
            self._written.add(extent)
            try:
                header = decode_header(data, self.fingerprint)
                if slot >= segment.grown:
                    raise DamagedError("the file ends before the payload")
            except DamagedError:
                self.damaged_headers += 1
                continue
            yield Found(extent, header, used[slot])

    # -- extents

    def take(self, count: int) -> list[int] | None:
        """Free extents, in order; the files grow where the cap allows.

        None (and nothing taken) where there is no room. Raises OSError.
        """
        taken: list[int] = []
        try:
            while len(taken) < count:
                extent = self._take_one()
                if extent is None:
                    break
                taken.append(extent)
        finally:
            if len(taken) < count:
                self.free(taken)
        return sorted(taken) if len(taken) == count else None

    def free(self, extents: Sequence[int]) -> None:
        with self._lock:
            for extent in extents:
                if extent >> SLOT_BITS in self._segments:
                    heapq.heappush(self._free, extent)

    def _take_one(self) -> int | None:
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)
        segment = self._segments.get(self._next_number - 1)
        if segment is None or segment.grown == segment.layout.extents:
            segment = self._add_segment()
        if segment is None or not self._cap.take(segment.layout.payload_bytes):
            return None
        try:
            return _extent(segment.number, segment.grow())
        except OSError:
            self._cap.give_back(segment.layout.payload_bytes)
            raise

    def _add_segment(self) -> SegmentFile | None:
        first = self.layout.file_bytes(0)
        if not self._cap.take(first + self.layout.payload_bytes):  # empty it is of no use
            return None
        self._cap.give_back(self.layout.payload_bytes)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            segment = SegmentFile.create(self._folder, self._next_number, self._superblock)
        except OSError:
            self._cap.give_back(first)
            raise
        with self._lock:
            self._segments[segment.number] = segment
            self._recency[segment.number] = array("q", bytes(8 * self.layout.extents))
            self._next_number = segment.number + 1
        return segment

    # -- records

    def write_payload(self, extent: int, payload: bytes | memoryview) -> None:
        """The header that was there is wiped first. Raises OSError."""
        segment, slot = self._segment(extent), _slot(extent)
        if extent in self._written:
            segment.wipe_header(slot)
            self._written.discard(extent)
        segment.write_payload(slot, payload)

    def write_header(self, extent: int, header: RecordHeader) -> None:
        """Raises OSError."""
        self._written.add(extent)
        self._segment(extent).write_header(_slot(extent), encode_header(header))

    def wipe(self, extents: Sequence[int]) -> None:
        """No record is found there again. Raises OSError."""
        for extent in extents:
            segment = self._segments.get(extent >> SLOT_BITS)
            if segment is not None:
                segment.wipe_header(_slot(extent))

    def read(self, extents: Sequence[int], buffers: Sequence[memoryview], direct: bool) -> None:
        """Each extent into one buffer of a whole slot; neighbours are read at once.

        Raises DamagedError, OSError, KeyError where a segment was removed meanwhile.
        """
        order = sorted(range(len(extents)), key=extents.__getitem__)
        start = 0
        for end in range(1, len(order) + 1):
            if end == len(order) or extents[order[end]] != extents[order[end - 1]] + 1:
                run = order[start:end]
                first = extents[run[0]]
                some = [buffers[index] for index in run]
                self._segment(first).read_payloads(_slot(first), some, direct)
                start = end

    def note_used(self, touched: dict[int, int]) -> None:
        """Last use in ms by extent, to disk. Raises OSError."""
        changed = set()
        for extent, used_ms in touched.items():
            used = self._recency.get(extent >> SLOT_BITS)
            if used is not None:
                used[_slot(extent)] = used_ms
                changed.add(extent >> SLOT_BITS)
        for number in changed:
            segment = self._segments.get(number)
            if segment is not None:
                segment.write_recency(self._recency[number])

    def sync(self) -> None:
        """Raises OSError."""
        for segment in list(self._segments.values()):
            segment.sync()

    def clear(self) -> None:
        """Every file goes. Nobody may write meanwhile; who still reads finishes. Raises OSError."""
        with self._lock:
            segments, self._segments = self._segments, {}
            self._recency, self._free = {}, []
            self._written.clear()
        for segment in segments.values():
            segment.unlink()
            self._cap.give_back(segment.file_bytes)

    def close(self) -> None:
        """Files close as soon as nobody reads them any more."""
        self._segments = {}

    def _segment(self, extent: int) -> SegmentFile:
        return self._segments[extent >> SLOT_BITS]


def _extent(number: int, slot: int) -> int:
    return number << SLOT_BITS | slot


def _slot(extent: int) -> int:
    return extent & ((1 << SLOT_BITS) - 1)
