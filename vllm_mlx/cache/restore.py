"""A request for records of the SSD tier, on its way up; and how fast such requests are served."""

import math
import threading
import time
from collections.abc import Callable

from vllm_mlx.cache.staging import Staging, StagingPool

SMOOTHING_BYTES = 64 << 20  # a sample of so many bytes replaces 63 % of the estimate


class Chunk:
    """Verified payloads of neighbouring keys, in order, valid until ``release``."""

    def __init__(
        self, payloads: list[memoryview], pool: StagingPool, staging: Staging | None
    ) -> None:
        self.payloads = payloads
        self._pool, self._staging = pool, staging
        self._is_released = False

    def release(self) -> None:
        """Give the memory back; the payloads end. An array made of one stays valid: it
        keeps the memory."""
        if not self._is_released:
            self._is_released = True
            self._pool.give_back(self._staging, self.payloads)
            self.payloads = []


class Restore:
    """One request's records on their way up. Any thread; ``next`` is one consumer's.

    ``num_keys`` payloads come at most; fewer where a record turned out damaged.
    """

    def __init__(self, num_keys: int, on_ready: Callable[[], None] | None) -> None:
        self.num_keys = num_keys
        self.num_chunks = 0
        self.is_urgent = False
        self._on_ready = on_ready
        self._changed = threading.Condition()
        self._ready: dict[int, Chunk] = {}
        self._next_number = 0
        self.is_cut = False  # cancelled, or a record was damaged: fewer payloads than keys
        self._end: int | None = None  # so many chunks come, where that is known to be fewer

    @property
    def is_done(self) -> bool:
        """Nothing more will come out of ``next``."""
        with self._changed:
            return self._is_done()

    def next(self, timeout_seconds: float = 0.0) -> Chunk | None:
        """The next chunk in order; None where it is not there yet, or all are out."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._next_number in self._ready or self._is_done(), timeout_seconds
            )
            chunk = self._ready.pop(self._next_number, None)
            if chunk is not None:
                self._next_number += 1
            return chunk

    def cancel(self) -> None:
        """The rest is not wanted: give back what is ready, read no more."""
        with self._changed:
            self._end = min(self._next_number, self._last())
            self.is_cut = True
            left, self._ready = list(self._ready.values()), {}
            self._changed.notify_all()
        for chunk in left:
            chunk.release()

    def wants(self, number: int) -> bool:
        return number < self._last()

    def deliver(self, number: int, chunk: Chunk, is_whole: bool) -> None:
        """By a reader. A chunk that is not whole is the last one."""
        with self._changed:
            if number < self._last() and not is_whole:
                self._end, self.is_cut = number + bool(chunk.payloads), True
            is_wanted = number < self._last()
            if is_wanted:
                self._ready[number] = chunk
            behind = [self._ready.pop(i) for i in list(self._ready) if i >= self._last()]
            self._changed.notify_all()
        for unwanted in behind if is_wanted else [*behind, chunk]:
            unwanted.release()
        if self._on_ready is not None:
            self._on_ready()

    def _last(self) -> int:
        return self.num_chunks if self._end is None else self._end

    def _is_done(self) -> bool:
        return self._next_number >= self._last()


class ReadMeter:
    """Bytes a second of all threads together while any of them reads; verification included."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self.bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._active = 0
        self._since = 0.0
        self._bytes = 0
        self.total_bytes = 0

    def begin(self) -> None:
        with self._lock:
            if self._active == 0:
                self._since, self._bytes = time.perf_counter(), 0
            self._active += 1

    def end(self, num_bytes: int) -> None:
        with self._lock:
            self._active -= 1
            self._bytes += num_bytes
            self.total_bytes += num_bytes
            now = time.perf_counter()
            if self._bytes and (self._active == 0 or self._bytes >= SMOOTHING_BYTES):
                self._fold(self._bytes / max(1e-9, now - self._since))
                self._since, self._bytes = now, 0

    def _fold(self, rate: float) -> None:
        if self.bytes_per_second is None:
            self.bytes_per_second = rate
        share = 1 - math.exp(-self._bytes / SMOOTHING_BYTES)
        # time adds up, not speed: the mean is one of seconds a byte
        slowness = (1 - share) / self.bytes_per_second + share / rate
        self.bytes_per_second = 1 / slowness
