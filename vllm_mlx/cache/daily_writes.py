"""How many bytes may still be written to the SSD today. Flash wears; a user may set a limit."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from vllm_mlx.cache.disk_directory import DiskState, load_state, save_state

STEP_BYTES = 64 << 20


class DailyWrites:
    """Counts the bytes written on a UTC day, against a limit if there is one; thread safe.

    The file says at any moment at least what was written: a step is reserved ahead, so that a
    crash makes the rest of the day's budget smaller and never larger.
    """

    def __init__(
        self, directory: Path, limit_bytes: int | None, clock: Callable[[], float]
    ) -> None:
        self.limit_bytes = limit_bytes
        self._directory, self._clock = directory, clock
        self._lock = threading.Lock()
        self.state: DiskState = load_state(directory)
        self._reserved_bytes = self.state.written_bytes

    @property
    def written_bytes(self) -> int:
        """Today, what is queued included."""
        with self._lock:
            self._turn_page()
            return self.state.written_bytes

    def take(self, num_bytes: int) -> bool:
        """False where today's budget has no room for them."""
        with self._lock:
            self._turn_page()
            after = self.state.written_bytes + num_bytes
            if self.limit_bytes is not None and after > self.limit_bytes:
                return False
            self.state.written_bytes = after
            return True

    def give_back(self, num_bytes: int) -> None:
        """Taken but not written."""
        with self._lock:
            self.state.written_bytes = max(0, self.state.written_bytes - num_bytes)

    def reserve(self) -> None:
        """Before writing what was taken; one thread only. Raises OSError."""
        with self._lock:
            ahead = self.state.written_bytes + STEP_BYTES
            if self.limit_bytes is not None:
                ahead = min(ahead, self.limit_bytes)
            is_enough = self.state.written_bytes <= self._reserved_bytes
        if not is_enough:
            self._save(ahead)

    def save(self) -> None:
        """The exact count: at the end, or when nothing is queued; one thread. Raises OSError."""
        self._save(self.written_bytes)

    def _turn_page(self) -> None:
        today = datetime.fromtimestamp(self._clock(), UTC).date().isoformat()
        if self.state.day != today:
            self.state.day, self.state.written_bytes, self._reserved_bytes = today, 0, 0

    def _save(self, written_bytes: int) -> None:
        """Without the lock: nobody waits for this file."""
        self._reserved_bytes = written_bytes
        rate = self.state.read_bytes_per_second
        save_state(self._directory, DiskState(self.state.day, written_bytes, rate))
