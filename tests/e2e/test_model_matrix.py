"""Every kind of model, in the mode the probe gives it: requests that join and leave get the tokens
that mlx-lm gives each of them alone."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import VOCAB_TOKENS, build_checkpoint
from tests.engine_driver import (
    Answer,
    Progress,
    Solo,
    ask,
    assert_same_tokens,
    greedy,
    running_engine,
    settle,
    solo_greedy,
)
from vllm_mlx.engine.engine import GenerationEngine
from vllm_mlx.model.load import load_checkpoint
from vllm_mlx.runner.rows import DecodeBatch

TOKEN_ROWS = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma3_text",
    "gpt_oss",
    "phi3",
    "mixtral",
    "glm4",
    "cohere2",
    "granite",
    "smollm3",
    "olmoe",
)
BATCHED_ROWS = ("qwen3_next", "qwen3_5", "mamba2", "lfm2", "deepseek_v3")
SINGLE_ROWS = ("gemma2",)
MODELS = (*TOKEN_ROWS, *BATCHED_ROWS, *SINGLE_ROWS)
# row mode when asked for: merged windows of mlx-lm, shorter than the prompts
FORCED_ROWS = ("llama", "gemma3_text", "gpt_oss")

PROMPT_TOKENS = (31, 300, 3, 64, 100, 17, 200, 33)
MAX_TOKENS = (40, 8, 30, 5, 12, 34, 10, 16)
JOINS_AFTER = (0, 0, 2, 6, 11, 20, 40, 60)  # tokens that all requests together have been given
POOL_TOKENS = 360  # the longest request needs 308, all together about 900
GIB = 1 << 30
LARGEST_PROBED_BATCH = 3

SoloRuns = dict[str, list[Solo]]


def prompt_of(number: int, tokens: int) -> list[int]:
    """Distinct from the first token on, so that nothing is shared by chance."""
    return [
        (7919 * number + 104729 * (i + 1) + i * i) % (VOCAB_TOKENS - 8) + 8 for i in range(tokens)
    ]


PROMPTS = [prompt_of(number, tokens) for number, tokens in enumerate(PROMPT_TOKENS)]


@pytest.fixture(scope="session")
def solo_runs() -> SoloRuns:
    return {}


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences shared a batch of row mode, whenever one joined."""
    sizes: list[int] = []
    join = DecodeBatch.join

    def counted(self: DecodeBatch, number: int, caches: list[Any]) -> None:
        join(self, number, caches)
        sizes.append(len(self.numbers))

    monkeypatch.setattr(DecodeBatch, "join", counted)
    return sizes


@pytest.fixture
def expected(request: pytest.FixtureRequest, checkpoint_root: Path, solo_runs: SoloRuns) -> Any:
    """For a model's name: its folder, and each request's tokens by mlx-lm alone."""

    def run(name: str) -> tuple[Path, list[Solo]]:
        folder = build_checkpoint(name, checkpoint_root)
        if name not in solo_runs:
            model = load_checkpoint(folder).model
            pairs = zip(PROMPTS, MAX_TOKENS, strict=True)
            solo_runs[name] = [solo_greedy(model, prompt, count) for prompt, count in pairs]
        return folder, solo_runs[name]

    return run


async def staggered(engine: GenerationEngine) -> list[Answer]:
    """Eight requests that join at different times, while a ninth hangs up on the way."""
    progress = Progress()

    async def one(prompt: Sequence[int], max_tokens: int, after: int) -> Answer:
        await progress.reaches(after)
        return await ask(engine, greedy(prompt, max_tokens), on_tokens=progress.add)

    leaver = asyncio.create_task(ask(engine, greedy(prompt_of(99, 50), 200), abort_after=4))
    rows = zip(PROMPTS, MAX_TOKENS, JOINS_AFTER, strict=True)
    answers = await asyncio.gather(*(one(*row) for row in rows))
    assert len((await leaver).token_ids) >= 4
    await asyncio.wait_for(settle(engine), 10)
    return answers


def assert_same(answers: list[Answer], solo: list[Solo]) -> None:
    for answer, alone in zip(answers, solo, strict=True):
        assert_same_tokens(answer.token_ids, alone)


async def cold_then_warm(folder: Path, mode: str) -> tuple[list[Answer], list[Answer]]:
    async with running_engine(folder, mode=mode) as engine:
        return await staggered(engine), await staggered(engine)


@pytest.mark.parametrize("name", MODELS)
def test_company_changes_no_token(name: str, expected: Any, batch_sizes: list[int]) -> None:
    folder, solo = expected(name)
    cold, warm = asyncio.run(cold_then_warm(folder, "auto"))
    assert_same(cold, solo)
    assert_same(warm, solo)
    if name in BATCHED_ROWS:
        assert max(batch_sizes) > LARGEST_PROBED_BATCH
    elif name in SINGLE_ROWS:
        assert max(batch_sizes) <= LARGEST_PROBED_BATCH
    else:
        assert batch_sizes == []
    saved = [a.finished.usage.cached_tokens for a in warm if a.finished]
    # whole blocks of 16, one token left to compute; row mode has no prefix to share
    assert saved == [(n - 1) // 16 * 16 if name in TOKEN_ROWS else 0 for n in PROMPT_TOKENS]


async def under_pressure(folder: Path, memory_gib: float) -> tuple[list[Answer], int]:
    engine = running_engine(
        folder,
        cache="none",
        block_tokens=4,
        memory_gib=memory_gib,
        prefill_chunk_tokens=7,
        stretch=1.0,
    )
    async with engine as running:
        return await staggered(running), running.status.preemptions


async def bytes_per_token(folder: Path) -> int:
    async with running_engine(folder) as engine:
        return engine.card.kv_bytes_per_token


@pytest.mark.parametrize("name", MODELS)
def test_preemption_and_small_chunks_change_no_token(name: str, expected: Any) -> None:
    folder, solo = expected(name)
    pool_gib = POOL_TOKENS * asyncio.run(bytes_per_token(folder)) / GIB
    answers, preemptions = asyncio.run(under_pressure(folder, pool_gib))
    assert_same(answers, solo)
    assert preemptions > 0


@pytest.mark.parametrize("name", FORCED_ROWS)
def test_row_mode_past_windows(name: str, expected: Any, batch_sizes: list[int]) -> None:
    folder, solo = expected(name)
    cold, _ = asyncio.run(cold_then_warm(folder, "rows"))
    assert_same(cold, solo)
    assert max(batch_sizes) > LARGEST_PROBED_BATCH
