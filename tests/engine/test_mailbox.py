"""The hand-over between threads."""

import asyncio
import threading
import time

import pytest

from tests.sequences import make_sequence
from vllm_mlx.core.delta import Finished, TextDelta, Usage
from vllm_mlx.engine.mailbox import Abort, Drain, Inbox, Outbox, Submit
from vllm_mlx.engine.stream import EngineStream

END = Finished("stop", Usage(1, 2))


def make_stream(number: int = 0) -> EngineStream:
    return EngineStream(number, lambda _: None)


def test_letters_come_in_order_and_all_at_once() -> None:
    inbox = Inbox()
    letters = [Submit(make_sequence(), make_stream()), Abort(0), Drain(1.0)]
    for letter in letters:
        inbox.post(letter)
    assert inbox.num_letters == 3
    assert inbox.take_all(0) == letters
    assert inbox.num_letters == 0
    assert inbox.take_all(0) == []


def test_an_empty_box_is_waited_for_no_longer_than_asked() -> None:
    started = time.monotonic()
    assert Inbox().take_all(0.05) == []
    assert 0.04 < time.monotonic() - started < 5


def test_a_letter_ends_the_waiting() -> None:
    inbox = Inbox()
    threading.Timer(0.02, inbox.post, [Abort(3)]).start()
    started = time.monotonic()
    assert inbox.take_all(30) == [Abort(3)]
    assert time.monotonic() - started < 20


def test_letters_of_many_threads_all_arrive_in_their_order() -> None:
    inbox, taken = Inbox(), []
    threads = [
        threading.Thread(target=lambda k=k: [inbox.post(Abort(k * 1000 + i)) for i in range(200)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    while len(taken) < 800:
        taken += inbox.take_all(1)
    for thread in threads:
        thread.join()
    numbers = [letter.number for letter in taken if isinstance(letter, Abort)]
    for k in range(4):
        assert [n for n in numbers if n // 1000 == k] == [k * 1000 + i for i in range(200)]


@pytest.mark.anyio
async def test_a_step_wakes_the_loop_once() -> None:
    loop = asyncio.get_running_loop()
    calls: list[object] = []

    class Watched:
        def call_soon_threadsafe(self, callback: object, *args: object) -> None:
            calls.append(callback)
            loop.call_soon_threadsafe(callback, *args)  # type: ignore[arg-type]

    outbox = Outbox(Watched())  # type: ignore[arg-type]
    outbox.flush()
    assert calls == []  # nothing to say
    one, other = make_stream(0), make_stream(1)

    def step() -> None:
        outbox.put(one, [TextDelta("a")])
        outbox.put(other, [END])
        outbox.put(one, [END])
        outbox.flush()

    await asyncio.to_thread(step)
    assert [delta async for delta in one] == [TextDelta("a"), END]
    assert [delta async for delta in other] == [END]
    assert len(calls) == 1


def test_a_closed_loop_has_nobody_to_tell() -> None:
    loop = asyncio.new_event_loop()
    outbox = Outbox(loop)
    loop.close()
    outbox.put(make_stream(), [END])
    outbox.flush()


@pytest.mark.anyio
async def test_short_steps_share_a_wake_up_but_first_and_last_deltas_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("vllm_mlx.engine.mailbox.time.monotonic", lambda: clock[0])
    outbox, stream = Outbox(asyncio.get_running_loop()), make_stream()

    async def seen(*deltas: object, after: float, soon: bool = True) -> list[object]:
        clock[0] += after
        outbox.put(stream, list(deltas))  # type: ignore[arg-type]
        outbox.flush(more_comes_soon=soon)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return list(stream.take_ready())

    a, b, c, d = (TextDelta(letter) for letter in "abcd")
    assert await seen(a, after=0.0) == [a]  # the first
    assert await seen(b, after=0.001) == []  # kept: more comes within the pace
    assert await seen(c, after=0.004) == [b, c]  # the pace is over
    assert await seen(d, after=0.001, soon=False) == [d]  # a long step follows
    assert await seen(END, after=0.001) == [END]  # the last
