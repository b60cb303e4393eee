"""Deltas on their way from the engine thread to the event loop that asked for them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from vllm_mlx.core.delta import Delta, Finished


class EngineStream:
    """See ``engine.base.DeltaStream``. Everything but construction happens on the event loop."""

    def __init__(self, number: int, abort: Callable[[int], None]) -> None:
        self.number = number
        self._abort = abort
        self._ready: deque[Delta | Exception] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_over = False  # nothing more will be put

    def put(self, deltas: Sequence[Delta | Exception]) -> None:
        """Called on the loop, in order."""
        self._ready.extend(deltas)
        last = deltas[-1]
        self._is_over = self._is_over or isinstance(last, (Finished, Exception))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def take_ready(self) -> list[Delta]:
        taken: list[Delta] = []
        while self._ready and not isinstance(self._ready[0], Exception):
            taken.append(self._take())
        return taken

    def abort(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._abort(self.number)

    def _take(self) -> Delta:
        item = self._ready.popleft()
        if isinstance(item, Exception):
            self._ready.clear()
            raise item
        return item
