"""The typed hand-over between event loops and the engine thread."""

import asyncio
import contextlib
import time
from queue import Empty, SimpleQueue

from msgspec import Struct

from vllm_mlx.core.delta import Delta, Finished
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.stream import EngineStream

PACE_SECONDS = 0.004


class Submit(Struct, frozen=True):
    sequence: Sequence
    stream: EngineStream


class Abort(Struct, frozen=True):
    number: int


class Drain(Struct, frozen=True):
    """Finish what runs, until ``deadline`` on the monotonic clock, then end the thread."""

    deadline: float


Letter = Submit | Abort | Drain


class Inbox:
    """To the engine thread, from any thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Letter] = SimpleQueue()

    @property
    def num_letters(self) -> int:
        return self._queue.qsize()

    def post(self, letter: Letter) -> None:
        self._queue.put(letter)

    def take_all(self, wait_seconds: float) -> list[Letter]:
        """Everything that is here; waits for a first letter for so long."""
        letters: list[Letter] = []
        try:
            letters.append(self._queue.get(timeout=wait_seconds) if wait_seconds else self._next())
            while True:
                letters.append(self._next())
        except Empty:
            return letters

    def _next(self) -> Letter:
        return self._queue.get_nowait()


class Outbox:
    """From the engine thread to one event loop: one wake-up a step, however many streams.

    Steps shorter than ``PACE_SECONDS`` share one: nobody sees a difference, and waking a task per
    token and stream would cost more than such a step. First and last deltas never wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._batch: list[tuple[EngineStream, list[Delta | Exception]]] = []
        self._is_urgent = False
        self._flushed_at = 0.0

    def put(self, stream: EngineStream, deltas: list[Delta | Exception]) -> None:
        self._batch.append((stream, deltas))
        if not stream.has_begun or isinstance(deltas[-1], (Finished, Exception)):
            stream.has_begun = self._is_urgent = True

    def flush(self, more_comes_soon: bool = False) -> None:
        """Hand over what is here; may keep it if ``more_comes_soon``, within PACE_SECONDS."""
        if not self._batch:
            return
        now = time.monotonic()
        if more_comes_soon and not self._is_urgent and now - self._flushed_at < PACE_SECONDS:
            return
        self._flushed_at, self._is_urgent = now, False
        batch, self._batch = self._batch, []
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to read
            self._loop.call_soon_threadsafe(_deliver, batch)


def _deliver(batch: list[tuple[EngineStream, list[Delta | Exception]]]) -> None:
    for stream, deltas in batch:
        stream.put(deltas)
