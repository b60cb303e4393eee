"""Decode and prefill of our engine in process against mlx-lm's BatchGenerator in process.

    uv run python benchmarks/engine_vs_mlx_lm.py [--pairs 10] [--no-openblas] [--rows 1 8 16]

One process, the same weights loaded twice, runs interleaved; prints ratios of tokens per second
(above 1: ours is faster), with the 95 % interval of the median, and process CPU seconds per token.
"""

import argparse
import asyncio
import time
from typing import Any

from common import interleave, make_engine, median_ratio, preload_blas, random_prompt, save

PROMPT_TOKENS = 139
OUTPUT_TOKENS = 48


class Window:
    """Decode rate while every sequence of a batch runs; prefill rate until the last began."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.began: set[Any] = set()
        self.ended = False
        self.tokens = 0
        self.start_time = time.perf_counter()
        self.first_time = self.last_time = self.start_time
        self.first_cpu = self.last_cpu = time.process_time()

    def token(self, who: Any, is_last: bool) -> None:
        if len(self.began) < self.rows:
            self.began.add(who)
            if len(self.began) == self.rows:
                self.first_time, self.first_cpu = time.perf_counter(), time.process_time()
            return
        if not self.ended:
            self.tokens += 1
            self.last_time, self.last_cpu = time.perf_counter(), time.process_time()
        self.ended = self.ended or is_last

    @property
    def decode_rate(self) -> float:
        return self.tokens / (self.last_time - self.first_time)

    @property
    def cpu_per_token(self) -> float:
        return (self.last_cpu - self.first_cpu) / self.tokens

    @property
    def prefill_seconds(self) -> float:
        return self.first_time - self.start_time


async def run_ours(engine: Any, prompts: list[tuple[int, ...]], tokens: int) -> Window:
    from vllm_mlx.core.delta import Finished, TextDelta
    from vllm_mlx.core.generation import Generation, Sampling, Stopping

    window = Window(len(prompts))

    async def one(number: int, prompt: tuple[int, ...]) -> None:
        stream = engine.submit(
            Generation(
                id=str(number),
                prompt_ids=prompt,
                sampling=Sampling(temperature=0.0),
                stopping=Stopping(max_tokens=tokens, ignore_eos=True),
                skip_special_tokens=False,
            )
        )
        count = 0
        async for delta in stream:
            if isinstance(delta, TextDelta):
                for _ in delta.token_ids:
                    count += 1
                    window.token(number, count == tokens)
            elif isinstance(delta, Finished):
                break

    await asyncio.gather(*(one(i, p) for i, p in enumerate(prompts)))
    return window


def run_theirs(model: Any, prompts: list[tuple[int, ...]], tokens: int) -> Window:
    from mlx_lm.generate import BatchGenerator

    window = Window(len(prompts))
    generator = BatchGenerator(model, max_tokens=tokens)
    generator.insert([list(prompt) for prompt in prompts])
    while responses := generator.next_generated():
        for response in responses:
            window.token(response.uid, response.finish_reason is not None)
    generator.close()
    return window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--no-openblas", action="store_true")
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--save", default=None)
    args = parser.parse_args()
    blas = preload_blas(not args.no_openblas)
    from vllm_mlx.model.load import load_checkpoint
    from vllm_mlx.model.resolve import resolve_model

    loop = asyncio.new_event_loop()
    engine = make_engine("cache=none", *args.overrides)
    loop.run_until_complete(engine.start())
    model = load_checkpoint(resolve_model("embedded")).model
    vocab = engine.card.vocab_tokens
    result: dict[str, Any] = {"blas": blas, "prompt_tokens": PROMPT_TOKENS, "rows": {}}

    for rows in args.rows:
        windows: dict[str, list[Window]] = {"ours": [], "theirs": []}
        prefill: dict[str, list[float]] = {"ours": [], "theirs": []}

        def prompts(pair: int, rows: int = rows) -> list[tuple[int, ...]]:
            return [random_prompt(PROMPT_TOKENS, vocab, pair * 1000 + i) for i in range(rows)]

        def ours(pair: int) -> float:
            only = loop.run_until_complete(run_ours(engine, prompts(pair + 500), 1))
            prefill["ours"].append(only.prefill_seconds)
            windows["ours"].append(
                loop.run_until_complete(run_ours(engine, prompts(pair), OUTPUT_TOKENS))
            )
            return windows["ours"][-1].decode_rate

        def theirs(pair: int) -> float:
            prefill["theirs"].append(run_theirs(model, prompts(pair + 500), 1).prefill_seconds)
            windows["theirs"].append(run_theirs(model, prompts(pair), OUTPUT_TOKENS))
            return windows["theirs"][-1].decode_rate

        interleave(1, ours, theirs)  # both have everything compiled and touched
        for kept in (*windows.values(), *prefill.values()):
            kept.clear()
        mine, others = interleave(args.pairs, ours, theirs)
        cpu = median_ratio(
            [w.cpu_per_token for w in windows["theirs"]],
            [w.cpu_per_token for w in windows["ours"]],
        )
        result["rows"][rows] = {
            "decode": median_ratio(mine, others),
            "decode_cpu_theirs_per_ours": cpu,
            "prefill": median_ratio(prefill["theirs"], prefill["ours"]),
        }
        print(rows, result["rows"][rows], flush=True)
    loop.run_until_complete(engine.stop(0))
    if args.save:
        save(args.save, result)


if __name__ == "__main__":
    main()
