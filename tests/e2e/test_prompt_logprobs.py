"""Logprobs of prompt tokens equal those of one plain forward pass, however they were computed."""

import asyncio
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.checkpoints import VOCAB_TOKENS, build_checkpoint
from tests.engine_driver import Answer, ask, greedy, running_engine
from vllm_mlx.model.load import load_checkpoint

PROMPT_TOKENS = (1, 2, 64, 65, 150)
POOL_TOKENS = 260  # all of them at once need more: the later ones start over
KV_BYTES_PER_TOKEN = 512  # two layers, two heads, 16 + 16 numbers of 4 bytes


def prompts() -> list[list[int]]:
    key = mx.random.key(3)
    ids: Any = mx.random.randint(8, VOCAB_TOKENS, (max(PROMPT_TOKENS),), key=key).tolist()
    return [ids[:count] for count in PROMPT_TOKENS]


async def scored(folder: Path, mode: str, tight: bool) -> tuple[list[Answer], int]:
    pressure: dict[str, Any] = {
        "memory_gib": POOL_TOKENS * KV_BYTES_PER_TOKEN / (1 << 30),
        "block_tokens": 2,
        "prefill_chunk_tokens": 16,
    }
    async with running_engine(folder, mode=mode, **(pressure if tight else {})) as engine:
        for_each = [ask(engine, greedy(p, 70, prompt_logprobs=3)) for p in prompts()]
        return await asyncio.gather(*for_each), engine.status.preemptions


@pytest.mark.parametrize("mode", ["token_rows", "rows"])
@pytest.mark.parametrize("tight", [False, True], ids=["roomy", "tight"])
def test_prompt_logprobs_are_the_plain_forward(
    checkpoint_root: Path, mode: str, tight: bool
) -> None:
    folder = build_checkpoint("llama", checkpoint_root)
    model = load_checkpoint(folder).model
    answers, preemptions = asyncio.run(scored(folder, mode, tight))
    assert (preemptions > 0) == tight
    for prompt, answer in zip(prompts(), answers, strict=True):
        logits = model(mx.array([prompt]))[0]
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        given = answer.prompt_logprobs
        assert [entry.token_id for entry in given] == prompt
        assert given[0].logprob is None
        for place, entry in enumerate(given[1:]):
            row = logprobs[place]
            assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-3)
            best: Any = mx.argsort(-row)[:3].tolist()
            assert [top.token_id for top in entry.top] == best
            assert [top.logprob for top in entry.top] == pytest.approx(
                row[mx.array(best)].tolist(), abs=1e-3
            )
