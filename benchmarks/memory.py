"""Bytes of keys and values allocated for sequences of very unequal length, against what they hold.

    uv run python benchmarks/memory.py [--layers 2] [OVERRIDES ...]

One sequence of 8,192 tokens, one of 2,048 and thirty of 64, all there at once, with the default
model's first layers (its head counts and sizes; every layer stores the same). Prints the peak of
what was allocated over the peak of what was held, and the peak of all memory that MLX took.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, make_engine, preload_blas, random_prompt, save

# tokens of each sequence at its end, and how many of them are decoded: the long ones come first
# and still decode when the last short one ends
SEQUENCES = ((8192, 600), (2048, 300), *[(64, 48)] * 30)
LIMIT = 1.15


class Watch:
    """Tokens held and bytes allocated, looked at whenever tokens arrive."""

    def __init__(self, engine: Any, cached_bytes: Callable[[], int]) -> None:
        self._engine, self._cached_bytes = engine, cached_bytes
        self._tokens: dict[int, int] = {}
        self.most_tokens = self.most_allocated = self.most_sequences = self.most_cached = 0

    def holds(self, number: int, tokens: int) -> None:
        self._tokens[number] = tokens
        self.most_tokens = max(self.most_tokens, sum(self._tokens.values()))
        self.most_sequences = max(self.most_sequences, len(self._tokens))
        self.look()

    def ends(self, number: int) -> None:
        del self._tokens[number]

    def look(self) -> None:
        self.most_allocated = max(self.most_allocated, self._engine.status.kv_allocated_bytes)
        self.most_cached = max(self.most_cached, self._cached_bytes())


async def run_all(engine: Any, watch: Watch) -> None:
    from vllm_mlx.core.delta import TextDelta
    from vllm_mlx.core.generation import Generation, Sampling, Stopping

    async def one(number: int, started: asyncio.Event) -> None:
        length, decoded = SEQUENCES[number]
        tokens = length - decoded
        generation = Generation(
            id=str(number),
            prompt_ids=random_prompt(tokens, engine.card.vocab_tokens, number),
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=decoded, ignore_eos=True),
        )
        async for delta in engine.submit(generation):
            if isinstance(delta, TextDelta) and delta.token_ids:
                tokens += len(delta.token_ids)
                watch.holds(number, tokens)
                started.set()
        watch.ends(number)

    tasks = []
    for number, (length, _) in enumerate(SEQUENCES):
        started = asyncio.Event()
        tasks.append(asyncio.create_task(one(number, started)))
        if length > 64:
            await started.wait()
    await asyncio.gather(*tasks)


async def measure(folder: Path, overrides: list[str]) -> dict[str, Any]:
    import mlx.core as mx

    engine = make_engine("model=auto", f"model.path={folder}", *overrides)
    await engine.start()
    card, idle = engine.card, engine.status.kv_allocated_bytes
    mx.reset_peak_memory()
    watch = Watch(engine, mx.get_cache_memory)
    await run_all(engine, watch)
    peak = mx.get_peak_memory()
    await engine.stop(10)
    held = watch.most_tokens * card.kv_bytes_per_token
    return {
        "sequences_at_once": watch.most_sequences,
        "tokens_held": watch.most_tokens,
        "kv_bytes_per_token": card.kv_bytes_per_token,
        "kv_held_bytes": held,
        "kv_allocated_bytes": watch.most_allocated,
        "kv_allocated_bytes_before": idle,
        "allocated_over_held": round(watch.most_allocated / held, 4),
        "limit": LIMIT,
        "weights_bytes": card.weights_bytes,
        "mlx_peak_bytes": peak,
        "transient_peak_bytes": peak - card.weights_bytes - watch.most_allocated,
        "transient_reserve_bytes": engine._kv.memory.transient_bytes,
        "mlx_cache_peak_bytes": watch.most_cached,
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    preload_blas(True)
    sys.path.insert(0, str(ROOT))
    from tests.checkpoints import cut_smollm2

    with tempfile.TemporaryDirectory() as root:
        folder = cut_smollm2(Path(root), options.layers)
        result = asyncio.run(measure(folder, options.overrides))
    save("memory", {"layers": options.layers, "overrides": options.overrides, **result})
    if result["allocated_over_held"] > LIMIT:
        raise SystemExit(f"{result['allocated_over_held']} is more than {LIMIT}")
    if result["transient_peak_bytes"] > result["transient_reserve_bytes"]:
        raise SystemExit("a step took more than what is reserved for it")


if __name__ == "__main__":
    main()
