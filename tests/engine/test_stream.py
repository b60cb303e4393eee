"""Deltas on their way to the caller."""

import asyncio

import pytest

from vllm_mlx.core.delta import Finished, TextDelta, Usage
from vllm_mlx.engine.stream import EngineStream
from vllm_mlx.errors import GenerationFailed

pytestmark = pytest.mark.anyio
END = Finished("stop", Usage(1, 2))


def make_stream() -> tuple[EngineStream, list[int]]:
    aborted: list[int] = []
    return EngineStream(7, aborted.append), aborted


async def rest(stream: EngineStream) -> list[object]:
    return [delta async for delta in stream]


async def test_deltas_come_in_order_and_then_no_more() -> None:
    stream, _ = make_stream()
    stream.put([TextDelta("a"), TextDelta("b")])
    stream.put([END])
    assert await rest(stream) == [TextDelta("a"), TextDelta("b"), END]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_reader_waits_for_what_comes() -> None:
    stream, _ = make_stream()
    reader = asyncio.create_task(rest(stream))
    await asyncio.sleep(0)
    assert not reader.done()
    stream.put([TextDelta("a")])
    await asyncio.sleep(0)
    stream.put([TextDelta("b")])
    stream.put([END])
    assert await reader == [TextDelta("a"), TextDelta("b"), END]


async def test_what_is_ready_is_taken_without_waiting() -> None:
    stream, _ = make_stream()
    assert stream.take_ready() == []
    stream.put([TextDelta("a"), TextDelta("b")])
    assert await anext(stream) == TextDelta("a")
    stream.put([END])
    assert stream.take_ready() == [TextDelta("b"), END]
    assert await rest(stream) == []


async def test_a_failure_is_raised_after_what_came_before_it() -> None:
    stream, aborted = make_stream()
    stream.put([TextDelta("a"), GenerationFailed("no")])
    assert stream.take_ready() == [TextDelta("a")]
    assert stream.take_ready() == []  # a failure is not taken, it is raised
    with pytest.raises(GenerationFailed, match="no"):
        await anext(stream)
    assert await rest(stream) == []
    stream.abort()
    assert aborted == []  # it is over


async def test_abort_is_told_once() -> None:
    stream, aborted = make_stream()
    stream.abort()
    stream.abort()
    assert aborted == [7]


async def test_abort_after_the_end_does_nothing() -> None:
    stream, aborted = make_stream()
    stream.put([END])
    stream.abort()
    assert aborted == []
    assert await rest(stream) == [END]


async def test_abort_ends_a_waiting_reader() -> None:
    stream, _ = make_stream()
    reader = asyncio.create_task(rest(stream))
    await asyncio.sleep(0)
    stream.abort()
    assert await asyncio.wait_for(reader, 5) == []


async def test_a_cancelled_reader_loses_nothing() -> None:
    stream, _ = make_stream()
    reader = asyncio.create_task(rest(stream))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    stream.put([TextDelta("a"), END])
    assert await rest(stream) == [TextDelta("a"), END]


async def test_a_reader_cancelled_while_it_is_woken_loses_nothing() -> None:
    stream, _ = make_stream()
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.put([TextDelta("a"), END])
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await rest(stream) == [TextDelta("a"), END]
