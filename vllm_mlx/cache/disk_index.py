"""Which records the SSD tier holds, and which of them goes first. No file is touched here.

A record whose parent is missing is kept: it is found again as soon as its parent is written again.
Eviction is least recently used, leaves first. Safe from any thread; no method waits for the disk.
"""

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from vllm_mlx.cache.extents import NO_PARENT


class Record:
    """One block (or sidecar) on disk; ``extents`` in the order of its parts."""

    __slots__ = (
        "checksums",
        "extents",
        "in_heap",
        "is_gone",
        "key",
        "parent",
        "payload_bytes",
        "pins",
        "serial",
        "token_ids",
        "used_ms",
    )

    def __init__(
        self,
        key: bytes,
        parent: bytes,
        token_ids: bytes,
        extents: tuple[int, ...],
        payload_bytes: int,
        checksums: tuple[int, ...],
        serial: int,
        used_ms: int,
    ) -> None:
        self.key, self.parent, self.token_ids = key, parent, token_ids
        self.extents, self.payload_bytes = extents, payload_bytes
        self.checksums, self.serial, self.used_ms = checksums, serial, used_ms
        self.pins = 0
        self.in_heap = self.is_gone = False


class DiskIndex:
    """Key to record. ``on_free`` gets the extents of records that are gone and not being read."""

    def __init__(
        self,
        on_free: Callable[[Sequence[int]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._on_free, self._clock = on_free, clock
        self._lock = threading.Lock()
        self._records: dict[bytes, Record] = {}
        self._num_children: dict[bytes, int] = {}  # by key, present or not
        self._heap: list[tuple[int, bytes]] = []  # every leaf once; its time may be too early
        self._touched: dict[int, int] = {}  # extent -> ms, not yet on disk
        self.payload_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: bytes) -> bool:
        return key in self._records

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    def get(self, key: bytes) -> Record | None:
        return self._records.get(key)

    def add(self, record: Record) -> bool:
        """False where the key is known already: the older record stays."""
        with self._lock:
            if record.key in self._records:
                return False
            self._records[record.key] = record
            self.payload_bytes += record.payload_bytes
            if record.parent != NO_PARENT:
                self._num_children[record.parent] = self._num_children.get(record.parent, 0) + 1
            self._offer(record)
            self._note(record)
            return True

    def touch(self, keys: Iterable[bytes]) -> None:
        """These were wanted just now."""
        now = self.now_ms()
        with self._lock:
            for key in keys:
                record = self._records.get(key)
                if record is not None:
                    record.used_ms = max(record.used_ms, now)
                    self._note(record)

    def pin(self, keys: Sequence[bytes]) -> list[Record]:
        """Records of the leading keys that are present; their extents stay until ``unpin``."""
        with self._lock:
            pinned = []
            for key in keys:
                record = self._records.get(key)
                if record is None:
                    break
                record.pins += 1
                pinned.append(record)
            return pinned

    def unpin(self, records: Sequence[Record]) -> None:
        with self._lock:
            freed = [extent for record in records for extent in self._unpin(record)]
        if freed:
            self._on_free(freed)

    def drop(self, record: Record) -> None:
        """The record is damaged, or no longer wanted. What follows it stays."""
        with self._lock:
            if self._records.get(record.key) is not record:
                return
            freed = self._remove(record)
        if freed:
            self._on_free(freed)

    def evict(self, num_extents: int) -> int:
        """Give up leaves, least recently used first, until so many extents are free.

        Returns how many records went; fewer extents become free where all the rest is pinned.
        """
        freed: list[int] = []
        aside: list[Record] = []
        count = 0
        with self._lock:
            while len(freed) < num_extents and self._heap:
                used_ms, key = heapq.heappop(self._heap)
                record = self._records.get(key)
                if record is None or not record.in_heap:
                    continue
                record.in_heap = False
                if self._num_children.get(key, 0):
                    continue  # comes back when its last child goes
                if used_ms < record.used_ms:
                    self._offer(record)
                elif record.pins:
                    aside.append(record)
                else:
                    freed += self._remove(record)
                    count += 1
            for record in aside:
                self._offer(record)
        if freed:
            self._on_free(freed)
        return count

    def clear(self) -> None:
        """Forget everything; extents are not handed back, the files go as a whole."""
        with self._lock:
            for record in self._records.values():
                record.is_gone = True
            self._records.clear()
            self._num_children.clear()
            self._heap.clear()
            self._touched.clear()
            self.payload_bytes = 0

    def keys(self) -> list[bytes]:
        return list(self._records)

    def take_touched(self) -> dict[int, int]:
        """Last use in ms by extent, since the last call."""
        with self._lock:
            touched, self._touched = self._touched, {}
            return touched

    # -- with the lock held

    def _note(self, record: Record) -> None:
        for extent in record.extents:
            self._touched[extent] = record.used_ms

    def _offer(self, record: Record) -> None:
        if not record.in_heap and not self._num_children.get(record.key, 0):
            record.in_heap = True
            heapq.heappush(self._heap, (record.used_ms, record.key))

    def _unpin(self, record: Record) -> tuple[int, ...]:
        record.pins -= 1
        return record.extents if record.is_gone and record.pins == 0 else ()

    def _remove(self, record: Record) -> tuple[int, ...]:
        """Returns the extents that are free now."""
        del self._records[record.key]
        record.is_gone = True
        record.in_heap = False
        self.payload_bytes -= record.payload_bytes
        for extent in record.extents:
            self._touched.pop(extent, None)
        if record.parent != NO_PARENT:
            self._num_children[record.parent] -= 1
            if not self._num_children[record.parent]:
                del self._num_children[record.parent]
                parent = self._records.get(record.parent)
                if parent is not None:
                    self._offer(parent)
        return () if record.pins else record.extents
