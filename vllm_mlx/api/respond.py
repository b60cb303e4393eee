"""Asks the engine and writes the answer into the response, streamed or whole."""

import asyncio
from collections.abc import Sequence

import falcon
import falcon.asgi
from msgspec import Struct

from vllm_mlx.api.answer import Answer, Question, submit_all
from vllm_mlx.api.body import write_json
from vllm_mlx.api.exchange import Exchange, exchange_of
from vllm_mlx.api.running import RunningAnswers
from vllm_mlx.api.sse import EVENT_STREAM, EventStream
from vllm_mlx.dialect.base import ReplyFold, ReplyStream
from vllm_mlx.engine.base import Engine
from vllm_mlx.metrics import AnswerMetrics


class Responder:
    """One path for every resource that generates."""

    def __init__(
        self,
        engine: Engine,
        running: RunningAnswers,
        metrics: AnswerMetrics,
        *,
        first_delta_seconds: float,
        limit_seconds: float | None,
    ) -> None:
        self._engine, self._running, self._metrics = engine, running, metrics
        self._first_delta_seconds, self._limit_seconds = first_delta_seconds, limit_seconds

    def limit_seconds(self, asked: float | None) -> float | None:
        """The shorter of the request's own limit and the operator's."""
        limits = [limit for limit in (asked, self._limit_seconds) if limit is not None]
        return min(limits, default=None)

    async def respond(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        question: Question,
        reply: ReplyStream,
        fold: ReplyFold,
    ) -> None:
        """Raises what submit and the engine raise, before anything is written."""
        streams = submit_all(self._engine, question.generations)
        answer = Answer(question, streams, reply, self._metrics)
        exchange = exchange_of(req)
        answer.on_close(lambda: self._settle(answer, exchange))
        exchange.on_close(answer.close)  # whatever happens, also before the first byte
        self._running.add(answer)
        if question.stream:
            await self._stream(resp, answer)
        else:
            await self._whole(resp, answer, fold)

    async def _stream(self, resp: falcon.asgi.Response, answer: Answer) -> None:
        """The first delta is awaited, so that an early failure still has its status code.

        If it takes long, the stream begins without it, so that comments can keep the line open.
        """
        first: asyncio.Task[Sequence[Struct]] = asyncio.ensure_future(answer.take())
        first.add_done_callback(look_at_failure)
        answer.on_close(first.cancel)
        await asyncio.wait({first}, timeout=self._first_delta_seconds)
        if first.done() and first.exception() is not None:
            first.result()
        resp.content_type = EVENT_STREAM + "; charset=utf-8"
        resp.set_header("cache-control", "no-cache")
        resp.set_header("x-accel-buffering", "no")
        resp.stream = EventStream(answer, first)

    async def _whole(self, resp: falcon.asgi.Response, answer: Answer, fold: ReplyFold) -> None:
        try:
            while not answer.is_done:
                for chunk in await answer.take():
                    fold.add(chunk)
            write_json(resp, fold.body(answer.finished))
        finally:
            answer.close()

    def _settle(self, answer: Answer, exchange: Exchange) -> None:
        prompt_tokens, ends = answer.question.prompt_tokens, answer.finished
        reasons = [
            ends[i].reason if i in ends else "abort"
            for i in range(len(answer.question.generations))
        ]
        self._metrics.finished(
            reasons, exchange.age_seconds, answer.completion_tokens, answer.first_token_seconds
        )
        exchange.notes |= {
            "answer": answer.id,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "finish": ",".join(sorted(set(reasons))),
        }
        if answer.first_token_seconds is not None:
            exchange.notes["first_token_ms"] = round(answer.first_token_seconds * 1000, 1)


def look_at_failure(first: "asyncio.Task[Sequence[Struct]]") -> None:
    """A failure that comes after the client has left is nobody's: asyncio need not complain."""
    if not first.cancelled():
        first.exception()
