"""The real engine in process, driven like a server drives it; and mlx-lm's own generation."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.generate import generate_step

from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.core.delta import Finished, PromptScored, TextDelta, TokenLogprob
from vllm_mlx.core.generation import Generation, Sampling, Stopping
from vllm_mlx.engine.engine import GenerationEngine
from vllm_mlx.model.progress import no_progress
from vllm_mlx.runner.source import CheckpointModel
from vllm_mlx.scheduler.continuous import ContinuousScheduler
from vllm_mlx.settings import DownloadSettings, SamplingDefaults

ROUNDING = 1e-3  # of logits with a standard deviation of about 4
GREEDY = Sampling(temperature=0.0)
CACHES = {"paged": PagedCache, "none": NoCache}


@dataclass
class Answer:
    """What one generation gave, delta by delta and folded."""

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finished: Finished | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def checkpoint_source(path: Path | str, mode: str = "auto") -> CheckpointModel:
    """As ``model=auto model.path=...`` builds it."""
    silent = SamplingDefaults(
        temperature=None,
        top_p=None,
        top_k=None,
        min_p=None,
        presence_penalty=None,
        repetition_penalty=None,
    )
    return CheckpointModel(
        path=str(path),
        revision=None,
        dtype="auto",
        mode=mode,
        context_tokens=None,
        trust_remote_code=False,
        download=DownloadSettings(timeout_seconds=10, retries=0, offline=True),
        chat_template=None,
        chat_template_kwargs={},
        sampling=silent,
    )


@asynccontextmanager
async def running_engine(
    path: Path | str,
    *,
    mode: str = "auto",
    cache: str = "paged",
    block_tokens: int = 16,
    memory_gib: float | str = "auto",
    **scheduler: Any,
) -> AsyncIterator[GenerationEngine]:
    """A started engine; ``scheduler`` overrides the defaults of ``scheduler=continuous``."""
    defaults: dict[str, Any] = {
        "max_running": 256,
        "max_waiting": 1024,
        "step_tokens": 2048,
        "prefill_chunk_tokens": 512,
        "stretch": 2.0,
        "target_itl_ms": None,
    }
    engine = GenerationEngine(
        checkpoint_source(path, mode),
        ContinuousScheduler(**{**defaults, **scheduler}),
        CACHES[cache](block_tokens, memory_gib),
        progress=no_progress,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(0)


def greedy(prompt: Sequence[int], max_tokens: int, **changes: Any) -> Generation:
    """A request for exactly ``max_tokens`` tokens, each the most likely one."""
    stopping = Stopping(max_tokens=max_tokens, ignore_eos=True)
    return Generation(
        id="test", prompt_ids=tuple(prompt), sampling=GREEDY, stopping=stopping, **changes
    )


async def ask(
    engine: GenerationEngine,
    generation: Generation,
    on_tokens: Callable[[int], None] = lambda count: None,
    abort_after: int | None = None,
) -> Answer:
    """Submit and read to the end, or hang up after ``abort_after`` tokens."""
    answer = Answer()
    stream = engine.submit(generation)
    async for delta in stream:
        match delta:
            case TextDelta():
                answer.pieces.append(delta.text)
                answer.token_ids += delta.token_ids
                answer.logprobs += delta.logprobs
                on_tokens(len(delta.token_ids))
            case PromptScored():
                answer.prompt_logprobs = delta.logprobs
            case Finished():
                answer.finished = delta
        if abort_after is not None and len(answer.token_ids) >= abort_after:
            stream.abort()
            break
    return answer


class Progress:
    """Counts the tokens that all requests of a test have been given, and lets others wait for it:
    requests join at a place in the work, not at a time."""

    def __init__(self) -> None:
        self._count = 0
        self._moved = asyncio.Event()

    def add(self, tokens: int) -> None:
        self._count += tokens
        self._moved.set()

    async def reaches(self, tokens: int) -> None:
        while self._count < tokens:
            self._moved.clear()
            await self._moved.wait()


async def settle(engine: GenerationEngine) -> None:
    """Until nothing runs or waits: an abort is read at the next step."""
    # polled, since the engine tells nobody that it has become idle
    while engine.status.running or engine.status.waiting or engine.status.kv_used_tokens:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class Solo(NamedTuple):
    """The most likely tokens, and by how much each logit exceeded the runner-up's."""

    token_ids: list[int]
    leads: list[float]


def solo_greedy(model: Any, prompt: Sequence[int], max_tokens: int) -> Solo:
    """The same request by mlx-lm, alone."""
    solo = Solo([], [])
    for token, logprobs in generate_step(mx.array(list(prompt)), model, max_tokens=max_tokens):
        best: Any = mx.topk(logprobs, 2).tolist()
        solo.token_ids.append(int(token))
        solo.leads.append(abs(best[1] - best[0]))
    return solo


def assert_same_tokens(found: list[int], solo: Solo) -> None:
    """Equal, up to where mlx-lm itself chose by less than float32 rounding can move."""
    assert len(found) == len(solo.token_ids)
    for place, (mine, theirs, lead) in enumerate(zip(found, *solo, strict=True)):
        if mine != theirs:
            assert lead < ROUNDING, f"token {place} is {mine}, mlx-lm's is {theirs}"
            return
