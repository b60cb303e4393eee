"""Read-ahead: threads that fetch and verify records while their request waits to run.

A request is cut into chunks of about ``CHUNK_BYTES``; chunks of one request are read by several
threads and handed out in order. A payload is handed out only if its checksum matches.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from vllm_mlx.cache.disk_index import Record
from vllm_mlx.cache.extents import DamagedError, payload_checksum
from vllm_mlx.cache.restore import Chunk, ReadMeter, Restore
from vllm_mlx.cache.staging import Staging, StagingPool
from vllm_mlx.cache.volume import Volume

CHUNK_BYTES = 8 << 20

logger = logging.getLogger(__name__)

Source = Record | memoryview  # on disk, or not written yet


class Task(Struct, eq=False):
    """One chunk to read; ``number`` in the order of its request."""

    restore: Restore
    number: int
    sources: list[Source]
    num_bytes: int  # of staging memory; what is not on disk needs none


class DiskReader:
    """See the module docstring. ``on_damage`` gets a record that failed; ``on_end`` every record
    that was asked for, when it is not needed on disk any more. Both run on reader threads."""

    def __init__(
        self,
        volume: Volume,
        pool: StagingPool,
        meter: ReadMeter,
        on_damage: Callable[[Record, Exception], None],
        on_end: Callable[[Sequence[Record]], None],
        num_threads: int = 2,
        direct: bool = True,
    ) -> None:
        self._volume, self._pool, self.meter = volume, pool, meter
        self._on_damage, self._on_end, self._direct = on_damage, on_end, direct
        self._changed = pool.changed  # one condition: a task waits for its turn and for memory
        self._tasks: deque[Task] = deque()
        self._waiting_bytes = 0
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"disk-reader-{i}", daemon=True)
            for i in range(num_threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Asked for and not begun."""
        return self._waiting_bytes

    def request(
        self, sources: Sequence[Source], on_ready: Callable[[], None] | None = None
    ) -> Restore:
        """Fetch these, in this order. Records must be pinned; each is handed to ``on_end`` once.

        ``on_ready`` is called by a reader thread after every chunk.
        """
        restore = Restore(len(sources), on_ready)
        tasks = self._cut(restore, sources)
        restore.num_chunks = len(tasks)
        with self._changed:
            self._tasks.extend(tasks)
            self._waiting_bytes += sum(task.num_bytes for task in tasks)
            self._changed.notify_all()
        return restore

    def hurry(self, restore: Restore) -> None:
        """Its request is about to run: read it first, also beyond the bound of the staging memory
        (which others may fill that wait for what this request holds)."""
        with self._changed:
            restore.is_urgent = True
            first = [task for task in self._tasks if task.restore is restore]
            rest = [task for task in self._tasks if task.restore is not restore]
            self._tasks = deque([*first, *rest])
            self._changed.notify_all()

    def cancel(self, restore: Restore) -> None:
        """What is ready is given back, the rest is not read."""
        restore.cancel()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop; requests that are not finished end where they are."""
        with self._changed:
            self._is_closed = True
            left, self._tasks = list(self._tasks), deque()
            self._changed.notify_all()
        for task in left:
            self._end(task)
            task.restore.cancel()
        for thread in self._threads:
            thread.join()

    def _cut(self, restore: Restore, sources: Sequence[Source]) -> list[Task]:
        tasks: list[Task] = []
        slot = self._volume.payload_bytes
        for source in sources:
            size = len(source.extents) * slot if isinstance(source, Record) else 0
            if not tasks or tasks[-1].num_bytes + size > CHUNK_BYTES:
                tasks.append(Task(restore, len(tasks), [], 0))
            tasks[-1].sources.append(source)
            tasks[-1].num_bytes += size
        return tasks

    # -- the threads

    def _run(self) -> None:
        while (step := self._next()) is not None:
            task, staging = step
            try:
                self._read_task(task, staging)
            except Exception:  # of any kind: a dead thread would leave requests waiting
                logger.exception("SSD tier: reading failed")
                task.restore.cancel()
            self._end(task)

    def _next(self) -> tuple[Task, Staging | None] | None:
        """The first task, once there is memory for it: in order, so that the chunk that a consumer
        waits for never waits for memory that later chunks hold."""
        with self._changed:
            while not self._is_closed:
                if self._tasks:
                    task, staging = self._tasks[0], None
                    needs = task.num_bytes > 0 and task.restore.wants(task.number)
                    if needs:
                        staging = self._pool.take(task.num_bytes, task.restore.is_urgent)
                    if staging is not None or not needs:
                        self._waiting_bytes -= task.num_bytes
                        return self._tasks.popleft(), staging
                self._changed.wait()
            return None

    def _end(self, task: Task) -> None:
        self._on_end([source for source in task.sources if isinstance(source, Record)])

    def _read_task(self, task: Task, staging: Staging | None) -> None:
        payloads: list[memoryview] = []
        if task.restore.wants(task.number):
            self.meter.begin()
            try:
                payloads = self._read(task.sources, staging.view if staging else None)
            except BaseException:
                self._pool.give_back(staging, [])
                raise
            finally:
                self.meter.end(sum(len(payload) for payload in payloads) if staging else 0)
        chunk = Chunk(payloads, self._pool, staging)
        task.restore.deliver(task.number, chunk, len(payloads) == len(task.sources))

    def _read(self, sources: Sequence[Source], buffer: memoryview | None) -> list[memoryview]:
        """Payloads of the leading sources that are whole."""
        payloads: list[memoryview] = []
        places = self._places(sources, buffer)
        are_read = self._read_at_once(sources, places)
        for source, place in zip(sources, places, strict=True):
            if not isinstance(source, Record):
                payloads.append(source[:])  # a view of its own: it will be released
                continue
            try:
                if not are_read:
                    self._volume.read(source.extents, self._slots(place), self._direct)
                self._verify(source, place)
            except (DamagedError, OSError, KeyError) as error:
                self._on_damage(source, error)
                break
            payloads.append(place[: source.payload_bytes].toreadonly())
        return payloads

    def _read_at_once(self, sources: Sequence[Source], places: Sequence[memoryview]) -> bool:
        """False where that failed: then each is read alone, to find out which."""
        extents: list[int] = []
        slots: list[memoryview] = []
        for source, place in zip(sources, places, strict=True):
            if isinstance(source, Record):
                extents += source.extents
                slots += self._slots(place)
        try:
            self._volume.read(extents, slots, self._direct)
        except (DamagedError, OSError, KeyError):
            return False
        return True

    def _places(self, sources: Sequence[Source], buffer: memoryview | None) -> list[memoryview]:
        """Whole slots of the buffer for each record, nothing for what is not on disk."""
        places, at = [], 0
        whole = buffer if buffer is not None else memoryview(b"")
        for source in sources:
            size = 0
            if isinstance(source, Record):
                size = len(source.extents) * self._volume.payload_bytes
            places.append(whole[at : at + size])
            at += size
        return places

    def _slots(self, place: memoryview) -> list[memoryview]:
        size = self._volume.payload_bytes
        return [place[at : at + size] for at in range(0, len(place), size)]

    def _verify(self, record: Record, place: memoryview) -> None:
        """Raises DamagedError."""
        left = record.payload_bytes
        for part, slot in enumerate(self._slots(place)):
            data = slot[: min(left, len(slot))]
            left -= len(data)
            found = payload_checksum(data, record.key, record.serial, part)
            if found != record.checksums[part]:
                raise DamagedError("the checksum of a payload does not match")
