"""Keys and values of very unequal sequences take little more memory than they fill; and it is
given back when they have gone."""

import asyncio
from pathlib import Path
from typing import Any

from tests.checkpoints import build_checkpoint
from tests.engine_driver import ask, greedy, running_engine, settle
from vllm_mlx.engine.engine import GenerationEngine

# prompt and decoded tokens: the long ones come first and are there when the last short one ends
LONG = ((3500, 500), (700, 300))
SHORT = [(16, 48)] * 30


async def most(engine: GenerationEngine) -> tuple[int, int, int]:
    """The most tokens held at once, the most bytes allocated, and most sequences at once."""
    held: dict[int, int] = {}
    peaks = [0, 0, 0]

    async def one(number: int, prompt_tokens: int, decoded: int, started: asyncio.Event) -> None:
        def count(tokens: int) -> None:
            held[number] = held.get(number, prompt_tokens) + tokens
            now = (sum(held.values()), engine.status.kv_allocated_bytes, len(held))
            peaks[:] = map(max, peaks, now)
            started.set()

        prompt = [8 + (number * 37 + place) % 2000 for place in range(prompt_tokens)]
        await ask(engine, greedy(prompt, decoded), on_tokens=count)
        del held[number]

    tasks = []
    for number, lengths in enumerate((*LONG, *SHORT)):
        started = asyncio.Event()
        tasks.append(asyncio.create_task(one(number, *lengths, started)))
        if lengths in LONG:
            await started.wait()
    await asyncio.gather(*tasks)
    return peaks[0], peaks[1], peaks[2]


def test_unequal_sequences_waste_little(checkpoint_root: Path) -> None:
    async def run() -> Any:
        folder = build_checkpoint("llama", checkpoint_root)
        async with running_engine(folder, cache="none", stretch=100.0) as engine:
            tokens, allocated, sequences = await most(engine)
            await settle(engine)
            await asyncio.sleep(0.1)  # an idle engine gives back
            left = engine.status.kv_allocated_bytes
            return sequences, allocated / (tokens * engine.card.kv_bytes_per_token), allocated, left

    sequences, ratio, allocated, left = asyncio.run(run())
    assert sequences == len(LONG) + len(SHORT)
    assert 1.0 <= ratio <= 1.15
    assert left < allocated / 10
