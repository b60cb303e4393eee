"""An engine without a model for the tests above ``engine/``: real protocol, scripted deltas."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_mlx.core.card import EngineStatus, ModelCard
from vllm_mlx.core.delta import (
    Delta,
    Finished,
    PromptScored,
    TextDelta,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from vllm_mlx.core.generation import Generation
from vllm_mlx.errors import EngineStopped, PromptTooLong, QueueFull, TemplateFailed

BOS = 256
VOCAB = 260


class ByteCodec:
    """One token per byte, 256 begins a text, 257 ends it."""

    def __init__(self) -> None:
        self.rendered: list[dict[str, Any]] = []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [*([BOS] if add_special_tokens else []), *text.encode()]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return b"".join(
            self.token_text(i)[1] for i in token_ids if i < BOS or not skip_special_tokens
        ).decode("utf-8", "replace")

    def token_text(self, token_id: int) -> tuple[str, bytes]:
        if token_id >= BOS:
            return f"<{token_id}>", f"<{token_id}>".encode()
        return bytes([token_id]).decode("utf-8", "replace"), bytes([token_id])

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_arguments: dict[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> list[int]:
        self.rendered.append(
            {
                "messages": messages,
                "tools": tools,
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
                "template_arguments": template_arguments,
                "chat_template": chat_template,
            }
        )
        if any(message["content"] == "raise in template" for message in messages):
            raise TemplateFailed("the template says no", param="messages", code="template_failed")
        text = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return self.encode(text + ("assistant:" if add_generation_prompt else ""))


class FakeStream:
    """A DeltaStream; the test or the engine's own player feeds it."""

    def __init__(self, generation: Generation, on_end: Callable[["FakeStream"], None]) -> None:
        self.generation = generation
        self.aborts = 0
        self.given_ids = 0
        self.ended = False
        self._on_end = on_end
        self._ready: deque[Delta | Exception] = deque()
        self._wake = asyncio.Event()

    def feed(self, *deltas: Delta | Exception) -> None:
        for delta in deltas:
            if self.ended:
                return
            self._ready.append(delta)
            if isinstance(delta, TextDelta):
                self.given_ids += len(delta.token_ids)
            if isinstance(delta, Finished | Exception):
                self.ended = True
                self._on_end(self)
        self._wake.set()

    def finish(self, reason: Any = "stop", **more: Any) -> None:
        usage = Usage(len(self.generation.prompt_ids), self.given_ids)
        self.feed(Finished(reason, usage, **more))

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self._ready:
            if self.ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if isinstance(self._ready[0], Exception):
            raise self._ready.popleft()  # type: ignore[misc]
        return self._ready.popleft()  # type: ignore[return-value]

    def take_ready(self) -> Sequence[Delta]:
        ready: list[Delta] = []
        while self._ready and not isinstance(self._ready[0], Exception):
            ready.append(self._ready.popleft())  # type: ignore[arg-type]
        return ready

    def abort(self) -> None:
        """As the engine: nothing more comes, and who waits already is not told."""
        self.aborts += 1
        if not self.ended:
            self.ended = True
            self._on_end(self)


Player = Callable[[FakeStream], Any]  # coroutine function that feeds one stream


@dataclass
class FakeEngine:
    """Records what was submitted; ``player`` decides what each generation answers."""

    player: Player | None = None
    context_tokens: int = 4096
    queue_limit: int = 64
    start_error: Exception | None = None
    start_gate: asyncio.Event | None = None
    card_more: dict[str, Any] = field(default_factory=dict)
    codec: ByteCodec = field(default_factory=ByteCodec)
    state: Any = "starting"
    failure: str | None = None
    streams: list[FakeStream] = field(default_factory=list)
    stopped_with: float | None = None

    def __post_init__(self) -> None:
        self.players: set[asyncio.Task[Any]] = set()
        self.prompt_tokens = self.completion_tokens = 0

    @property
    def card(self) -> ModelCard:
        if self.state != "ready":
            raise EngineStopped(f"The model is {self.state}.")
        told: dict[str, Any] = {
            "id": "fake/bytes",
            "aliases": ("bytes",),
            "created": 1700000000,
            "architecture": "fake",
            "mode": "toy",
            "mode_reason": "it is a fake",
            "dtype": "none",
            "context_tokens": self.context_tokens,
            "vocab_tokens": VOCAB,
            "weights_bytes": 0,
            "kv_bytes_per_token": 0,
            "capabilities": {"chat": True, "tools": False},
            "notes": ("a fake",),
            "eos_token_ids": (257,),
        }
        return ModelCard(**(told | self.card_more))

    @property
    def live(self) -> list[FakeStream]:
        return [stream for stream in self.streams if not stream.ended]

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self.state,
            running=len(self.live),
            waiting=0,
            steps=0,
            preemptions=0,
            kv_used_tokens=10,
            kv_capacity_tokens=40,
            kv_allocated_bytes=0,
            prompt_tokens_total=self.prompt_tokens,
            completion_tokens_total=self.completion_tokens,
            failure=self.failure,
        )

    async def start(self) -> None:
        if self.start_gate is not None:
            await self.start_gate.wait()
        if self.start_error is not None:
            self.state, self.failure = "failed", str(self.start_error)
            raise self.start_error
        self.state = "ready"

    async def stop(self, drain_seconds: float) -> None:
        self.state, self.stopped_with = "draining", drain_seconds
        if self.players:
            await asyncio.wait(self.players, timeout=drain_seconds)
        for stream in self.live:
            stream.feed(EngineStopped("the server is shutting down"))
        for task in self.players:
            task.cancel()
        self.state = "stopped"

    def submit(self, generation: Generation) -> FakeStream:
        if self.state != "ready":
            raise EngineStopped(f"The model is {self.state}.")
        if len(generation.prompt_ids) >= self.context_tokens:
            raise PromptTooLong(len(generation.prompt_ids), self.context_tokens)
        if len(self.live) >= self.queue_limit:
            # a limit of 0 stands for a queue that others keep full
            limit = self.queue_limit or None
            raise QueueFull("The queue is full.", retry_after_seconds=7, limit=limit)
        stream = FakeStream(generation, self._ended)
        self.streams.append(stream)
        if self.player is not None:
            task = asyncio.get_running_loop().create_task(self._play(stream))
            self.players.add(task)
            task.add_done_callback(self.players.discard)
        return stream

    async def _play(self, stream: FakeStream) -> None:
        assert self.player is not None
        await self.player(stream)

    def _ended(self, stream: FakeStream) -> None:
        self.prompt_tokens += len(stream.generation.prompt_ids)
        self.completion_tokens += stream.given_ids


def entry(token_id: int, codec: ByteCodec, top: int, logprob: float | None = -0.5) -> TokenLogprob:
    """A logprob entry with ``top`` alternatives, the token itself first."""
    text, raw = codec.token_text(token_id)
    others = [(token_id + k) % 256 for k in range(top)]
    tops = tuple(TopLogprob(i, *codec.token_text(i), -0.5 - k) for k, i in enumerate(others))
    return TokenLogprob(token_id, text, raw, logprob, tops if logprob is not None else ())


def say(*pieces: str, seconds: float = 0.0, reason: str = "stop", end: bool = True) -> Player:
    """Answers with these pieces, one delta each, honouring max_tokens and logprobs."""

    async def play(stream: FakeStream) -> None:
        generation, codec = stream.generation, ByteCodec()
        if generation.prompt_logprobs is not None:
            ids = generation.prompt_ids
            scored = [
                entry(i, codec, generation.prompt_logprobs, None if k == 0 else -0.25)
                for k, i in enumerate(ids)
            ]
            stream.feed(PromptScored(tuple(scored)))
        left = generation.stopping.max_tokens
        total: float | None = None if generation.top_logprobs is None else 0.0
        for piece in pieces:
            ids = tuple(piece.encode())[: len(piece.encode()) if left is None else left]
            if seconds:
                await asyncio.sleep(seconds)
            if ids:
                logprobs: tuple[TokenLogprob, ...] = ()
                if generation.top_logprobs is not None:
                    logprobs = tuple(entry(i, codec, generation.top_logprobs) for i in ids)
                    total = (total or 0.0) - 0.5 * len(ids)
                stream.feed(TextDelta(bytes(ids).decode("utf-8", "replace"), ids, logprobs))
            left = None if left is None else left - len(ids)
            if left == 0:
                stream.finish("length", cumulative_logprob=total)
                return
        if end:
            stream.finish(reason, cumulative_logprob=total)

    return play


def by_choice(*players: Player) -> Player:
    """The j-th choice is played by the j-th player."""

    async def play(stream: FakeStream) -> None:
        await players[stream.generation.choice](stream)

    return play


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until it holds; fails after so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


def flat(items: Iterable[Iterable[Any]]) -> list[Any]:
    return [item for inner in items for item in inner]
