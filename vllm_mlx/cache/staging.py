"""Memory that restored payloads wait in: page aligned, reused, bounded."""

import threading
from collections.abc import Sequence

from vllm_mlx.cache.segment_file import aligned_buffer


class StagingPool:
    """Buffers up to ``limit_bytes`` together; those of ``buffer_bytes``, the standard, are kept.

    ``changed`` is notified when memory comes back.
    """

    def __init__(self, limit_bytes: int, buffer_bytes: int) -> None:
        self.limit_bytes, self.buffer_bytes = limit_bytes, buffer_bytes
        self.changed = threading.Condition()
        self._idle: list[memoryview] = []
        self.used_bytes = 0  # held by somebody

    def take(self, num_bytes: int, beyond_limit: bool) -> memoryview | None:
        """At least so many bytes, or None where they are not there now. Never waits."""
        size = max(num_bytes, self.buffer_bytes)
        with self.changed:
            fits = self.used_bytes == 0 or self.used_bytes + size <= self.limit_bytes
            if not (fits or beyond_limit):
                return None
            self.used_bytes += size
            is_standard = size == self.buffer_bytes
            return self._idle.pop() if is_standard and self._idle else aligned_buffer(size)

    def give_back(self, buffer: memoryview | None, views: Sequence[memoryview]) -> None:
        """``views`` into the buffer end here. Where somebody still reads one of them (an array made
        of it), the memory is left to them and not used again."""
        is_ours = True
        for view in views:
            try:
                view.release()
            except BufferError:
                is_ours = False
        if buffer is None:
            return
        with self.changed:
            self.used_bytes -= len(buffer)
            room = (len(self._idle) + 1) * self.buffer_bytes <= self.limit_bytes
            if is_ours and room and len(buffer) == self.buffer_bytes:
                self._idle.append(buffer)
            self.changed.notify_all()
