"""The delta streams of one request, merged in the order in which things arrive."""

import asyncio
from collections.abc import Sequence

from vllm_mlx.core.delta import Delta
from vllm_mlx.engine.base import DeltaStream

Arrived = Sequence[tuple[int, Delta]]


class OneChoice:
    """The usual case: no task, no queue, nothing between the engine and the writer."""

    def __init__(self, stream: DeltaStream) -> None:
        self._stream = stream

    async def take(self) -> Arrived:
        """At least one delta with everything that is ready behind it; empty only at the end.

        Raises what the engine raised. Cancelling loses nothing but what was about to be returned.
        """
        try:
            first = await self._stream.__anext__()
        except StopAsyncIteration:
            return ()
        ready = self._stream.take_ready()
        return [(0, first), *((0, delta) for delta in ready)] if ready else [(0, first)]

    def abort(self) -> None:
        """Stop the engine's work; whoever waits in ``take`` may wait for ever then."""
        self._stream.abort()

    def close(self) -> None:
        self._stream.abort()


class ManyChoices:
    """One task per stream, which hands its deltas over to whoever takes."""

    def __init__(self, streams: Sequence[DeltaStream]) -> None:
        self._streams = streams
        self._arrived: list[tuple[int, Delta]] = []
        self._failure: BaseException | None = None
        self._something = asyncio.Event()
        self._open = len(streams)
        self._pumps = [asyncio.ensure_future(self._pump(i)) for i in range(len(streams))]

    async def take(self) -> Arrived:
        """As OneChoice; deltas that came before a failure are given first."""
        while not self._arrived and self._open:
            self._something.clear()
            await self._something.wait()
        if not self._arrived and self._failure is not None:
            raise self._failure
        arrived, self._arrived = self._arrived, []
        return arrived

    def abort(self) -> None:
        for stream in self._streams:
            stream.abort()

    def close(self) -> None:
        self.abort()
        for pump in self._pumps:
            pump.cancel()

    async def _pump(self, choice: int) -> None:
        stream = self._streams[choice]
        try:
            async for delta in stream:
                self._arrived.append((choice, delta))
                self._arrived.extend((choice, more) for more in stream.take_ready())
                self._something.set()
        except Exception as error:  # handed to the taker, who answers for all choices
            self._failure = self._failure or error
            self._open = 0
        else:
            self._open -= 1
        self._something.set()


def to_choices(streams: Sequence[DeltaStream]) -> OneChoice | ManyChoices:
    return OneChoice(streams[0]) if len(streams) == 1 else ManyChoices(streams)
