"""One answer in progress, from submit to the last chunk: its clock, its limit, its abort."""

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from vllm_mlx.api.choices import to_choices
from vllm_mlx.core.delta import Delta, Finished, ReasoningDelta, TextDelta, Usage
from vllm_mlx.core.generation import Generation
from vllm_mlx.dialect.base import ReplyStream
from vllm_mlx.engine.base import DeltaStream, Engine
from vllm_mlx.errors import GenerationFailed, RequestTimedOut
from vllm_mlx.metrics import AnswerMetrics


class Question(Struct, frozen=True, kw_only=True):
    """What a resource has made of a request."""

    id: str  # what the client sees
    path: str
    model: str  # the name the client used
    generations: Sequence[Generation]
    prompt_tokens: int  # over all prompts, each counted once
    stream: bool
    limit_seconds: float | None
    started: float  # perf_counter when the request arrived


def submit_all(engine: Engine, generations: Sequence[Generation]) -> list[DeltaStream]:
    """All or none: if one does not fit, those before it are aborted and the error is raised."""
    streams: list[DeltaStream] = []
    try:
        for generation in generations:
            streams.append(engine.submit(generation))
    except BaseException:
        for stream in streams:
            stream.abort()
        raise
    return streams


class Answer:
    """Deltas of all choices to chunks. Must be closed; closing aborts what still runs."""

    def __init__(
        self,
        question: Question,
        streams: Sequence[DeltaStream],
        reply: ReplyStream,
        metrics: AnswerMetrics,
    ) -> None:
        self.question, self.id = question, question.id
        self.started = question.started
        self.first_token_seconds: float | None = None
        self.completion_tokens = 0
        self.finished: dict[int, Finished] = {}
        self.is_done = False
        self._choices, self._count = to_choices(streams), len(streams)
        self._reply, self._metrics = reply, metrics
        self._last_token = [0.0] * len(streams)  # per choice, when its last token came
        self._tokens = [0] * len(streams)  # per choice, how many came
        self._closers: list[Callable[[], object]] = []
        self._waiting: asyncio.Task[object] | None = None
        self._timed_out = self._aborted = False
        self._timer = self._start_timer(question.limit_seconds)

    def _start_timer(self, limit_seconds: float | None) -> asyncio.TimerHandle | None:
        if limit_seconds is None:
            return None
        return asyncio.get_running_loop().call_later(limit_seconds, self._expire)

    async def take(self) -> Sequence[Struct]:
        """The next chunks, without waiting for more than one delta; may be empty.

        Raises GenerationFailed, EngineStopped, RequestTimedOut. ``is_done`` after the last ones.
        """
        arrived = await self._wait()
        if not arrived:
            raise GenerationFailed("The generation ended without saying why.")
        now = time.perf_counter()
        chunks: list[Struct] = []
        for choice, delta in arrived:
            self._note(choice, delta, now)
            chunks.extend(self._reply.add(choice, delta))
        if len(self.finished) == self._count:
            self.is_done = True
            chunks.extend(self._reply.end())
        return chunks

    async def _wait(self) -> Sequence[tuple[int, Delta]]:
        if self._timed_out or self._aborted:
            return self._cut()
        task = self._waiting = asyncio.current_task()
        try:
            return await self._choices.take()
        except asyncio.CancelledError:
            interrupted = self._timed_out or self._aborted
            if not interrupted or task is None or task.uncancel() > 0:
                raise  # not ours, or not only ours
            return self._cut()
        finally:
            self._waiting = None

    def _cut(self) -> Sequence[tuple[int, Delta]]:
        """How an interrupted answer ends; the engine says nothing more about aborted work."""
        if self._timed_out:
            raise RequestTimedOut(self.question.limit_seconds or 0.0)
        generations = self.question.generations
        return [
            (i, Finished("abort", Usage(len(generations[i].prompt_ids), self._tokens[i])))
            for i in range(self._count)
            if i not in self.finished
        ]

    def _note(self, choice: int, delta: Delta, now: float) -> None:
        if isinstance(delta, TextDelta | ReasoningDelta):
            if delta.token_ids:
                self._note_tokens(choice, len(delta.token_ids), now)
        elif isinstance(delta, Finished):
            self.finished[choice] = delta

    def _note_tokens(self, choice: int, count: int, now: float) -> None:
        self.completion_tokens += count
        self._tokens[choice] += count
        if self.first_token_seconds is None:
            self.first_token_seconds = now - self.started
            self._metrics.first_token(self.first_token_seconds)
        last, self._last_token[choice] = self._last_token[choice], now
        if last:
            self._metrics.tokens(count, now - last)

    def abort(self) -> None:
        """Stop the work; the answer then ends with what there is, as ``abort``."""
        self._aborted = True
        self._interrupt()

    def _expire(self) -> None:
        self._timed_out = True
        self._interrupt()

    def _interrupt(self) -> None:
        self._choices.abort()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def on_close(self, closer: Callable[[], object]) -> None:
        self._closers.append(closer)

    def close(self) -> None:
        """Abort what still runs and settle the accounts. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.is_done:
            self._choices.close()
        while self._closers:
            self._closers.pop()()
