"""How long running streams wait while a long prompt arrives; over HTTP, default settings.

    uv run python benchmarks/gap_under_prefill.py [--rounds 3] [OVERRIDES ...]

Eight streams run undisturbed for a while, then a 2,000-token prompt comes. Prints the p99 of the
gaps between tokens of the eight while it prefills, over the p50 of their undisturbed gaps.
"""

import argparse
import asyncio
import statistics
import time
from itertools import pairwise

from common import percentile, random_prompt, save
from http_overhead import launch
from streams import stream_chat

STREAMS = 8
LONG_PROMPT_TOKENS = 2000
CALM_SECONDS = 6.0
VOCAB_TOKENS = 49152


def body(prompt_tokens: int, max_tokens: int, seed: int) -> dict[str, object]:
    return {
        "prompt": list(random_prompt(prompt_tokens, VOCAB_TOKENS, seed)),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


async def one_round(port: int, number: int) -> dict[str, float]:
    arrivals: list[list[float]] = [[] for _ in range(STREAMS)]
    running = [
        asyncio.create_task(
            stream_chat("127.0.0.1", port, body(64, 4000, number * 100 + i), arrivals[i])
        )
        for i in range(STREAMS)
    ]
    while not all(arrivals):
        await asyncio.sleep(0.05)
    calm_from = time.perf_counter()
    await asyncio.sleep(CALM_SECONDS)
    prefill_from = time.perf_counter()
    await stream_chat("127.0.0.1", port, body(LONG_PROMPT_TOKENS, 1, number * 100 + 99))
    prefill_to = time.perf_counter()
    await asyncio.sleep(1.0)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    calm = gaps(arrivals, calm_from, prefill_from)
    busy = gaps(arrivals, prefill_from, prefill_to)
    p50 = statistics.median(calm)
    return {
        "calm_p50_ms": p50 * 1e3,
        "busy_p50_ms": statistics.median(busy) * 1e3,
        "busy_p99_ms": percentile(busy, 0.99) * 1e3,
        "busy_longest_ms": max(busy) * 1e3,
        "p99_per_calm_p50": percentile(busy, 0.99) / p50,
        "prefill_seconds": prefill_to - prefill_from,
    }


def gaps(arrivals: list[list[float]], start: float, end: float) -> list[float]:
    """Gaps that end within the window, of all streams."""
    return [b - a for stream in arrivals for a, b in pairwise(stream) if start < b <= end]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", default=None)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    server, port = launch(args.overrides)
    try:
        rounds = [asyncio.run(one_round(port, n)) for n in range(args.rounds)]
    finally:
        server.terminate()
        server.wait()
    ratio = statistics.median(r["p99_per_calm_p50"] for r in rounds)
    result = {"p99_per_calm_p50": ratio, "rounds": rounds}
    print(result)
    if args.save:
        save(args.save, result)


if __name__ == "__main__":
    main()
