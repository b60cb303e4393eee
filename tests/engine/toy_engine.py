"""The real engine over the toy model, on its own thread, driven from an event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from msgspec import structs

from tests.cache.pools import KV_BYTES_PER_TOKEN, gib_for
from vllm_mlx.cache.base import KvCache
from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.core.delta import Finished, PromptScored, TextDelta, TokenLogprob
from vllm_mlx.core.generation import Generation, Sampling, Stopping
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant
from vllm_mlx.engine.engine import GenerationEngine
from vllm_mlx.engine.stream import EngineStream
from vllm_mlx.model.progress import Progress, no_progress
from vllm_mlx.runner.base import Loaded, Unread
from vllm_mlx.runner.toy import ToyRunner
from vllm_mlx.scheduler.continuous import ContinuousScheduler

GREEDY = Sampling(temperature=0.0)


class GatedRunner(ToyRunner):
    """The toy, which can be stopped before a step, and told to go wrong for some requests.

    ``spoils`` gives a grant's logits NaN, ``raises`` an exception. The warm-up is left alone.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate = threading.Event()
        self.gate.set()
        self.spoils: Callable[[Grant], bool] = lambda grant: False
        self.raises: Callable[[Grant], bool] = lambda grant: False
        self.grants: list[Grant] = []

    def forward(self, grants: list[Grant], unread: Unread | None) -> mx.array:
        real = [grant for grant in grants if grant.sequence.number >= 0]
        self.grants += real
        if real:
            assert self.gate.wait(30), "nobody opened the gate"
        if any(self.raises(grant) for grant in real):
            raise RuntimeError("this row breaks the step")
        logits = super().forward(grants, unread)
        spoilt = [self.spoils(g) for g in grants for _ in range(g.num_logits)]
        return mx.where(mx.array(spoilt)[:, None], float("nan"), logits) if any(spoilt) else logits

    def computed(self, number: int) -> int:
        """Prompt tokens that were computed for a sequence."""
        mine = [g for g in self.grants if g.sequence.number == number and not g.is_decode]
        return sum(grant.count for grant in mine)

    def sequence(self, number: int) -> Sequence:
        return next(g.sequence for g in self.grants if g.sequence.number == number)


class ToySource:
    """A ``ModelSource`` that shares one tokenizer among all engines of a test run."""

    def __init__(self, loaded: Loaded, replies: list[str] | None, context_tokens: int) -> None:
        self._loaded, self._context_tokens, self._replies = loaded, context_tokens, replies
        self.runner: GatedRunner | None = None  # made on the engine's thread, as all of MLX

    def load(self, kv: KvCache, progress: Progress) -> Loaded:
        eos_id = self._loaded.card.eos_token_ids[0]
        self.runner = GatedRunner(self._loaded.codec, eos_id, self._replies)
        kv.open(0, KV_BYTES_PER_TOKEN, self._context_tokens)
        context = min(self._context_tokens, kv.capacity_tokens)
        card = structs.replace(self._loaded.card, context_tokens=context)
        return structs.replace(self._loaded, runner=self.runner, card=card)


@dataclass
class Answer:
    """A stream, folded."""

    deltas: list[Any] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(d.text for d in self.deltas if isinstance(d, TextDelta))

    @property
    def token_ids(self) -> list[int]:
        return [i for d in self.deltas if isinstance(d, TextDelta) for i in d.token_ids]

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [e for d in self.deltas if isinstance(d, TextDelta) for e in d.logprobs]

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        (scored,) = [d for d in self.deltas if isinstance(d, PromptScored)]
        return scored.logprobs

    @property
    def end(self) -> Finished:
        (end,) = [d for d in self.deltas if isinstance(d, Finished)]
        assert self.deltas[-1] is end
        return end


class Toy:
    """A started engine and how to ask it."""

    def __init__(self, engine: GenerationEngine, runner: GatedRunner) -> None:
        self.engine, self.runner = engine, runner

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.engine.codec.encode(text, add_special_tokens=False))

    def submit(
        self, prompt: str | tuple[int, ...], sampling: Sampling = GREEDY, **fields: Any
    ) -> EngineStream:
        """``fields`` are those of Stopping and of Generation."""
        known = set(Stopping.__struct_fields__)
        stopping = Stopping(**{k: v for k, v in fields.items() if k in known})
        more = {k: v for k, v in fields.items() if k not in known}
        ids = self.encode(prompt) if isinstance(prompt, str) else prompt
        return self.engine.submit(
            Generation(id="r", prompt_ids=ids, sampling=sampling, stopping=stopping, **more)
        )

    async def ask(self, prompt: str | tuple[int, ...], *args: Any, **fields: Any) -> Answer:
        return await read(self.submit(prompt, *args, **fields))

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.002)

    async def is_empty(self) -> None:
        """Waits until nothing runs, waits or holds a block."""
        await self.until(lambda: self.engine.status.running + self.engine.status.waiting == 0)
        await self.until(lambda: self.engine.status.kv_used_tokens == 0)


async def read(stream: EngineStream) -> Answer:
    answer = Answer()
    async for delta in stream:
        answer.deltas.append(delta)
    return answer


@asynccontextmanager
async def toy_engine(
    loaded: Loaded,
    *,
    replies: list[str] | None = None,
    context_tokens: int = 4096,
    pool_tokens: int = 4096,
    kind: type[NoCache] = PagedCache,
    **scheduling: Any,
) -> AsyncIterator[Toy]:
    options: dict[str, Any] = {
        "max_running": 8,
        "max_waiting": 64,
        "step_tokens": 256,
        "prefill_chunk_tokens": 64,
        "stretch": 2.0,
        "target_itl_ms": None,
    }
    source = ToySource(loaded, replies, context_tokens)
    engine = GenerationEngine(
        source,
        ContinuousScheduler(**{**options, **scheduling}),
        kind(16, gib_for(pool_tokens)),
        no_progress,
    )
    await engine.start()
    assert source.runner is not None
    try:
        yield Toy(engine, source.runner)
    finally:
        source.runner.gate.set()
        await engine.stop(0)
