"""The typed hand-over between event loops and the engine thread."""

import asyncio
import contextlib
from queue import Empty, SimpleQueue

from msgspec import Struct

from vllm_mlx.core.delta import Delta
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.stream import EngineStream


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
    """From the engine thread to one event loop: one wake-up a step, however many streams."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._batch: list[tuple[EngineStream, list[Delta | Exception]]] = []

    def put(self, stream: EngineStream, deltas: list[Delta | Exception]) -> None:
        self._batch.append((stream, deltas))

    def flush(self) -> None:
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to read
            self._loop.call_soon_threadsafe(_deliver, batch)


def _deliver(batch: list[tuple[EngineStream, list[Delta | Exception]]]) -> None:
    for stream, deltas in batch:
        stream.put(deltas)
