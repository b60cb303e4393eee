"""Write-behind: one thread that puts records on disk while everybody else goes on.

A record's payload is written first, the headers of its parts last; a process that dies in between
leaves bytes that nobody finds. A disk that refuses a write ends writing, loudly; reading goes on.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

from vllm_mlx.cache.daily_writes import DailyWrites
from vllm_mlx.cache.disk_index import DiskIndex, Record
from vllm_mlx.cache.extents import NO_PARENT, RecordHeader, payload_checksum
from vllm_mlx.cache.volume import Volume

WritePolicy = Literal["first_sight", "second_sight"]
PutResult = Literal["taken", "known", "orphan", "queue_full", "daily_limit", "too_large", "off"]
SYNC_SECONDS = 1.0  # how long a busy writer goes on before it makes things durable
RECENCY_SECONDS = 10.0
SIGHTS = 1 << 16  # keys remembered by second_sight

logger = logging.getLogger(__name__)


class Pending(Struct, frozen=True, eq=False):
    """A record on its way to the disk."""

    key: bytes
    parent: bytes
    token_ids: bytes
    payload: memoryview
    cost_bytes: int


class WriteCounters(Struct):
    """Totals since start; written under the writer's lock, read by anyone."""

    records: int = 0
    bytes: int = 0  # on disk, headers and padding included
    evicted: int = 0
    no_room: int = 0  # taken, but everything else was in use
    failed: int = 0
    queue_full: int = 0
    daily_limit: int = 0


class DiskWriter:
    """See the module docstring. ``put`` and ``wants`` never wait for the disk."""

    def __init__(
        self,
        volume: Volume,
        index: DiskIndex,
        daily: DailyWrites,
        first_serial: int,
        queue_bytes: int,
        policy: WritePolicy,
    ) -> None:
        self._volume, self._index, self._daily = volume, index, daily
        self._queue_bytes, self._policy = queue_bytes, policy
        self._serial = first_serial
        self._changed = threading.Condition()
        self._queue: deque[Pending] = deque()
        self._pending: dict[bytes, Pending] = {}  # queued or being written
        self._pending_bytes = 0
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._is_closing = self._is_dirty = False
        self.refusal: str | None = None  # why writing is off
        self.counters = WriteCounters()
        self.disk_lock = threading.Lock()  # held while a record is written
        self._thread = threading.Thread(target=self._run, name="disk-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    def pending(self, key: bytes) -> Pending | None:
        """A record that is taken but not on disk yet: it can be read all the same."""
        return self._pending.get(key)

    def wants(self, keys: Sequence[bytes]) -> list[int]:
        """Positions in ``keys`` that are worth a ``put`` now; counts as a sight of each of them."""
        if self.refusal is not None:
            return []
        missing = [i for i, key in enumerate(keys) if not self._is_known(key)]
        if self._policy == "first_sight":
            return missing
        with self._changed:
            return [i for i in missing if self._was_seen(keys[i])]

    def put(
        self, key: bytes, parent: bytes, token_ids: bytes, payload: bytes | memoryview
    ) -> PutResult:
        """Queue a record; never waits. The payload must not change afterwards."""
        view = memoryview(payload).cast("B").toreadonly()
        parts = -(-len(view) // self._volume.payload_bytes)
        if not 1 <= parts < 1 << 16 or len(view) > self._queue_bytes:
            return "too_large"
        cost = parts * self._volume.extent_bytes
        with self._changed:
            if self.refusal is not None or self._is_closing:
                return "off"
            if self._is_known(key):
                return "known"
            if parent != NO_PARENT and not self._is_known(parent):
                return "orphan"  # nobody could find it
            if self._pending_bytes + len(view) > self._queue_bytes:
                self.counters.queue_full += 1
                return "queue_full"
            if not self._daily.take(cost):
                self.counters.daily_limit += 1
                return "daily_limit"
            item = Pending(key, parent, token_ids, view, cost)
            self._queue.append(item)
            self._pending[key] = item
            self._pending_bytes += len(view)
            self._changed.notify_all()
            return "taken"

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything that was taken is durable; False where that took too long."""
        with self._changed:
            ended = self._changed.wait_for(
                lambda: self.refusal is not None or not (self._pending or self._is_dirty),
                timeout_seconds,
            )
            return ended and self.refusal is None

    def forget(self) -> None:
        """Drop what is queued. With ``disk_lock`` held nothing is half written either."""
        with self._changed:
            while self._queue:
                self._done(self._queue.popleft(), written=False)
            self._seen.clear()

    def resume(self) -> None:
        """The disk may have room again."""
        with self._changed:
            self.refusal = None

    def close(self, timeout_seconds: float) -> bool:
        """Write what is queued if the time is enough; False where something was lost."""
        flushed = self.flush(timeout_seconds)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(max(1.0, timeout_seconds))
        return flushed and not self._thread.is_alive()

    # -- with the condition held

    def _is_known(self, key: bytes) -> bool:
        return key in self._pending or key in self._index

    def _was_seen(self, key: bytes) -> bool:
        if key in self._seen:
            self._seen.move_to_end(key)
            return True
        self._seen[key] = None
        if len(self._seen) > SIGHTS:
            self._seen.popitem(last=False)
        return False

    def _done(self, item: Pending, written: bool) -> None:
        del self._pending[item.key]
        self._pending_bytes -= len(item.payload)
        if not written:
            self._daily.give_back(item.cost_bytes)
        self._changed.notify_all()

    # -- the thread

    def _run(self) -> None:
        synced_at = time.monotonic()
        while True:
            item = self._next()
            if item is not None:
                self._write_next(item)
            now = time.monotonic()
            if item is None or now - synced_at > SYNC_SECONDS:
                self._attempt(self._make_durable)
                synced_at = now
            if item is None and self._is_closing:
                return

    def _next(self) -> Pending | None:
        """The oldest that is queued; None when there is nothing (more) to write."""
        with self._changed:
            if not self._queue and not self._is_dirty and not self._is_closing:
                self._changed.wait(RECENCY_SECONDS)
            return self._queue[0] if self._queue and not self._is_closing else None

    def _write_next(self, item: Pending) -> None:
        with self.disk_lock:
            with self._changed:
                if not self._queue or self._queue[0] is not item:  # forgotten meanwhile
                    return
                self._queue.popleft()
                self._is_dirty = True
            written = self.refusal is None and self._attempt(lambda: self._write(item))
            with self._changed:
                self._done(item, written)

    def _attempt(self, action: Callable[[], bool]) -> bool:
        """False, and writing is off from now on, where the disk refuses."""
        try:
            return action()
        except Exception as error:  # of any kind: a dead thread would be a silent end
            why = f"{type(error).__name__}: {error}"  # text: the error itself holds files open
            self.counters.failed += 1
            if self.refusal is None:
                logger.error("SSD tier: no more writes (%s); reading goes on", why)
            with self._changed:
                self.refusal, self._is_dirty = why, False  # nothing is tried again
                self._changed.notify_all()
            return False

    def _write(self, item: Pending) -> bool:
        self._daily.reserve()
        size = self._volume.payload_bytes
        parts = [item.payload[at : at + size] for at in range(0, len(item.payload), size)]
        parents = self._index.pin([item.parent])  # making room must not cost it its own root
        extents = None
        try:
            if parents or item.parent == NO_PARENT:
                extents = self._take(len(parts))
            if extents is None:
                self.counters.no_room += 1
                return False
            self._index.add(self._write_parts(item, parts, extents))
        except BaseException:
            self._volume.free(extents or [])
            raise
        finally:
            self._index.unpin(parents)
        self.counters.records += 1
        self.counters.bytes += item.cost_bytes
        return True

    def _take(self, count: int) -> list[int] | None:
        while (extents := self._volume.take(count)) is None:
            evicted = self._index.evict(count - self._volume.num_free)
            if not evicted:
                return None
            self.counters.evicted += evicted
        return extents

    def _write_parts(self, item: Pending, parts: list[memoryview], extents: list[int]) -> Record:
        serial, self._serial = self._serial, self._serial + 1
        now = self._index.now_ms()
        checksums = []
        for number, (part, extent) in enumerate(zip(parts, extents, strict=True)):
            checksums.append(payload_checksum(part, item.key, serial, number))
            self._volume.write_payload(extent, part)
        for number, (part, extent) in enumerate(zip(parts, extents, strict=True)):
            header = RecordHeader(
                key=item.key,
                parent=item.parent,
                fingerprint=self._volume.fingerprint,
                token_ids=item.token_ids,
                serial=serial,
                part=number,
                parts=len(parts),
                record_bytes=len(item.payload),
                part_bytes=len(part),
                checksum=checksums[number],
                written_ms=now,
            )
            self._volume.write_header(extent, header)
        return Record(
            item.key,
            item.parent,
            item.token_ids,
            tuple(extents),
            len(item.payload),
            tuple(checksums),
            serial,
            now,
        )

    def _make_durable(self) -> bool:
        is_idle = not self._queue
        with self.disk_lock:
            self._volume.note_used(self._index.take_touched())
            self._volume.sync()
            if self._is_dirty and is_idle:
                self._daily.save()
        with self._changed:
            self._is_dirty = self._is_dirty and bool(self._queue)
            self._changed.notify_all()
        return True
