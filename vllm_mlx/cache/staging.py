"""Memory that restored payloads wait in: page aligned, reused, bounded."""

import mmap
import sys
import threading
from collections.abc import Sequence


class Staging:
    """A piece of memory that begins at a page. It is used again only if nobody looks at it."""

    def __init__(self, num_bytes: int) -> None:
        self._memory = mmap.mmap(-1, num_bytes)
        self.num_bytes = num_bytes
        self._idle_references = self._references()
        self.view = memoryview(self._memory)

    def renew(self) -> bool:
        """End the views of the last use; False where an array made of one of them still lives."""
        self.view.release()
        if self._references() != self._idle_references:
            return False
        self.view = memoryview(self._memory)
        return True

    def _references(self) -> int:
        # Every view, however it was derived, refers to the mapping; a view itself does not tell.
        return sys.getrefcount(self._memory)


class StagingPool:
    """Memory up to ``limit_bytes`` together; pieces of ``standard_bytes`` are kept for reuse.

    ``changed`` is notified when memory comes back.
    """

    def __init__(self, limit_bytes: int, standard_bytes: int) -> None:
        self.limit_bytes, self.standard_bytes = limit_bytes, standard_bytes
        self.changed = threading.Condition()
        self._idle: list[Staging] = []
        self.used_bytes = 0  # held by somebody

    def take(self, num_bytes: int, beyond_limit: bool) -> Staging | None:
        """At least so many bytes, or None where they are not there now. Never waits."""
        size = max(num_bytes, self.standard_bytes)
        with self.changed:
            fits = self.used_bytes == 0 or self.used_bytes + size <= self.limit_bytes
            if not (fits or beyond_limit):
                return None
            self.used_bytes += size
            is_standard = size == self.standard_bytes
            return self._idle.pop() if is_standard and self._idle else Staging(size)

    def give_back(self, staging: Staging | None, views: Sequence[memoryview]) -> None:
        """``views`` end here, and so does all that is known of the memory."""
        for view in views:
            view.release()
        if staging is None:
            return
        is_idle = staging.renew()
        with self.changed:
            self.used_bytes -= staging.num_bytes
            room = (len(self._idle) + 1) * self.standard_bytes <= self.limit_bytes
            if is_idle and room and staging.num_bytes == self.standard_bytes:
                self._idle.append(staging)
            self.changed.notify_all()
