"""Chunks to frames: encoding, comments while nothing is sent, the error frame, ``[DONE]``."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from vllm_mlx.api.answer import Answer
from vllm_mlx.api.asgi import AsgiApp, Message, Receive, Scope, Send
from vllm_mlx.api.errors import to_api_error

log = logging.getLogger(__name__)

encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
EVENT_STREAM = "text/event-stream"


def to_frames(chunks: Iterable[Struct]) -> bytes:
    return b"".join([b"data: " + encode(chunk) + b"\n\n" for chunk in chunks])


class EventStream:
    """The frames of one Answer, for Falcon's ``resp.stream``.

    Whatever is ready goes out in one write. A failure becomes an error frame, then ``[DONE]``.
    """

    def __init__(self, answer: Answer, first: "asyncio.Task[Sequence[Struct]]") -> None:
        self._answer = answer
        self._first: asyncio.Task[Sequence[Struct]] | None = first
        self._ended = False

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            chunks = await self._take()
            while not chunks and not self._answer.is_done:
                chunks = await self._answer.take()
        except Exception as error:  # the status line is gone: a frame is all that can be said
            self._ended = True
            return to_frames([to_api_error(error).body()]) + DONE
        if not self._answer.is_done:
            return to_frames(chunks)
        self._ended = True
        return to_frames(chunks) + DONE

    async def _take(self) -> Sequence[Struct]:
        first, self._first = self._first, None
        return await (self._answer.take() if first is None else first)

    async def close(self) -> None:
        self._answer.close()


class KeepAlive:
    """ASGI wrapper: a comment after so many seconds of silence on an event stream.

    One timer per stream, moved only when it fires; nothing is done per event but reading a clock.
    """

    def __init__(self, app: AsgiApp, silence_seconds: float) -> None:
        self._app, self._silence_seconds = app, silence_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        line = _Line(send, self._silence_seconds)
        try:
            await self._app(scope, receive, line.send)
        finally:
            line.close()


class _Line:
    """The sending side of one exchange."""

    def __init__(self, send: Send, silence_seconds: float) -> None:
        self._send, self._silence_seconds = send, silence_seconds
        self._loop = asyncio.get_running_loop()
        self._last = 0.0  # loop time of the last write
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        if self._comment is not None:
            await self._comment
        if message["type"] == "http.response.start":
            if is_event_stream(message):
                self._arm(self._silence_seconds)
        elif not message.get("more_body", False):
            self.close()
        self._writing = True
        try:
            await self._send(message)
        finally:
            self._writing = False
            self._last = self._loop.time()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._comment is not None:
            self._comment.cancel()

    def _arm(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        quiet = self._loop.time() - self._last
        if self._writing or quiet < self._silence_seconds:
            self._arm(self._silence_seconds - (0.0 if self._writing else quiet))
            return
        self._comment = self._loop.create_task(self._say())
        self._arm(self._silence_seconds)

    async def _say(self) -> None:
        try:
            await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
        finally:
            self._last = self._loop.time()
            self._comment = None


def is_event_stream(message: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(EVENT_STREAM.encode())
        for name, value in message["headers"]
    )
