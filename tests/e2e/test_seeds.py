"""A seeded request gives the same tokens, to the last bit of their logprobs, whatever else runs,
in whatever order, however its prompt is cut, preempted or found in the cache."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.checkpoints import build_checkpoint, cut_smollm2
from tests.engine_driver import running_engine
from tests.seeded_runs import at_once, exact, one_by_one, seeded_requests, shuffled, unseeded
from vllm_mlx.core.generation import Generation

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
BLOCK_TOKENS = 4  # so small that sequences outgrow a small pool
# how many requests, how long their prompts are at most, how many tokens each samples
LOADS = {
    "llama": (32, 200, 20),
    "gemma3_text": (12, 130, 16),
    "gpt_oss": (12, 130, 16),
    "qwen3_moe": (12, 130, 16),
    "qwen3_next": (12, 130, 16),
    "deepseek_v3": (12, 130, 16),
    "gemma2": (12, 130, 16),
    "smollm2": (32, 70, 10),  # the default model's weights, four of its layers
}
ROW_MODE = ("qwen3_next", "deepseek_v3", "gemma2")


async def check(folder: Path, name: str) -> None:
    requests = seeded_requests(*LOADS[name])
    plain = [unseeded(request) for request in requests]
    async with running_engine(folder, cache="none", block_tokens=BLOCK_TOKENS) as engine:
        alone = await one_by_one(engine, requests)
        assert await shuffled(engine, requests) == alone
        assert await shuffled(engine, requests, company=plain[:5]) == alone
        per_token = engine.card.kv_bytes_per_token
    async with running_engine(
        folder,
        cache="none",
        block_tokens=BLOCK_TOKENS,
        prefill_chunk_tokens=7,
        stretch=1.0,
        max_running=9,
    ) as engine:
        assert await shuffled(engine, requests, company=plain[:5]) == alone
    small = 260 * per_token / GIB
    async with running_engine(
        folder, cache="none", block_tokens=BLOCK_TOKENS, memory_gib=small
    ) as engine:
        assert await shuffled(engine, requests) == alone
        assert engine.status.preemptions > 0
    async with running_engine(folder, block_tokens=BLOCK_TOKENS) as engine:
        await at_once(engine, plain)  # their keys and values have other bits
        assert await shuffled(engine, requests) == alone
        warm = await at_once(engine, requests)
        assert [exact(answer) for answer in warm] == alone
        saved = sum(answer.finished.usage.cached_tokens for answer in warm if answer.finished)
        assert saved == 0 if name in ROW_MODE else saved > 0


@pytest.mark.parametrize("name", LOADS)
def test_nothing_else_changes_a_bit(name: str, checkpoint_root: Path) -> None:
    if name == "smollm2":
        folder = cut_smollm2(checkpoint_root, num_layers=4)
    else:
        folder = build_checkpoint(name, checkpoint_root)
    asyncio.run(check(folder, name))


def test_seed_and_choice_matter(checkpoint_root: Path) -> None:
    """The same request with another seed, or as another of n choices, goes another way."""
    request = seeded_requests(12, 130, 16)[5]
    free = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}

    def changed(seed: int, choice: int) -> Generation:
        sampling = replace(request.sampling, seed=seed, **free)
        return replace(request, choice=choice, sampling=sampling)

    async def run() -> list[list[int]]:
        async with running_engine(build_checkpoint("llama", checkpoint_root)) as engine:
            asked = [changed(seed, choice) for seed, choice in ((1, 0), (1, 0), (2, 0), (1, 1))]
            return [answer.token_ids for answer in await at_once(engine, asked)]

    first, same, other_seed, other_choice = asyncio.run(run())
    assert first == same
    assert len({tuple(first), tuple(other_seed), tuple(other_choice)}) == 3


@pytest.mark.parametrize("blas", ["openblas 1", "openblas 2", "none"])
def test_with_any_blas_and_any_number_of_threads(blas: str, checkpoint_root: Path) -> None:
    folder = build_checkpoint("llama", checkpoint_root)
    library, _, threads = blas.partition(" ")
    done = subprocess.run(
        [sys.executable, "-m", "tests.seeded_runs", library, str(folder)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": threads or "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["same"]
    assert len({tuple(ids) for ids in result["tokens"]}) > 12  # they are different requests
