"""Decode and prefill of our engine in process against mlx-lm's BatchGenerator in process.

    uv run python benchmarks/engine_vs_mlx_lm.py [--pairs 10] [--no-openblas] [--rows 1 8 16]

One process, the same weights loaded twice, runs interleaved; prints ratios of tokens per second
(above 1: ours is faster), with the 95 % interval of the median, and process CPU seconds per token.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

from common import interleave, make_engine, median_ratio, preload_blas, random_prompt, save

PROMPT_TOKENS = 139
OUTPUT_TOKENS = 64


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


def reference_model() -> Any:
    """The default model as mlx-lm loads it, unpacked to float32 as ours is on a CPU."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import dequantize_model, load_model

    from vllm_mlx.model.load import runs_on_cpu
    from vllm_mlx.model.resolve import resolve_model

    model, _ = load_model(resolve_model("embedded"))
    if runs_on_cpu():
        model = dequantize_model(model)
        model.update(
            tree_map(
                lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a,
                model.parameters(),
            )
        )
    mx.eval(model.parameters())
    return model


class Duel:
    """Both sides at one number of rows, run by run."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Any, model: Any, rows: int) -> None:
        self._loop, self._engine, self._model, self._rows = loop, engine, model, rows
        self.clear()

    def clear(self) -> None:
        self.windows: dict[str, list[Window]] = {"ours": [], "theirs": []}
        self.prefill: dict[str, list[float]] = {"ours": [], "theirs": []}

    def ours(self, pair: int) -> float:
        return self._both("ours", pair, self._run_ours)

    def theirs(self, pair: int) -> float:
        return self._both("theirs", pair, self._run_theirs)

    def result(self) -> dict[str, Any]:
        mine, others = self.windows["ours"], self.windows["theirs"]
        return {
            "decode": median_ratio([w.decode_rate for w in mine], [w.decode_rate for w in others]),
            "decode_cpu_theirs_per_ours": median_ratio(
                [w.cpu_per_token for w in others], [w.cpu_per_token for w in mine]
            ),
            "prefill": median_ratio(self.prefill["theirs"], self.prefill["ours"]),
        }

    def _both(self, side: str, pair: int, run: Callable[[int, int], Window]) -> float:
        self.prefill[side].append(run(pair + 500, 1).prefill_seconds)
        self.windows[side].append(run(pair, OUTPUT_TOKENS))
        return self.windows[side][-1].decode_rate

    def _run_ours(self, seed: int, tokens: int) -> Window:
        return self._loop.run_until_complete(run_ours(self._engine, self._prompts(seed), tokens))

    def _run_theirs(self, seed: int, tokens: int) -> Window:
        return run_theirs(self._model, self._prompts(seed), tokens)

    def _prompts(self, seed: int) -> list[tuple[int, ...]]:
        vocab = self._engine.card.vocab_tokens
        return [random_prompt(PROMPT_TOKENS, vocab, seed * 1000 + i) for i in range(self._rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--no-openblas", action="store_true")
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--save", default=None)
    args = parser.parse_args()
    result: dict[str, Any] = {"blas": preload_blas(not args.no_openblas), "rows": {}}
    loop = asyncio.new_event_loop()
    engine = make_engine("cache=none", *args.overrides)
    loop.run_until_complete(engine.start())
    model = reference_model()
    for rows in args.rows:
        duel = Duel(loop, engine, model, rows)
        interleave(1, duel.ours, duel.theirs)  # both have everything compiled and touched
        duel.clear()
        interleave(args.pairs, duel.ours, duel.theirs)
        result["rows"][rows] = duel.result()
        print(rows, result["rows"][rows], flush=True)
    loop.run_until_complete(engine.stop(0))
    if args.save:
        save(args.save, {"prompt_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS, **result})


if __name__ == "__main__":
    main()
