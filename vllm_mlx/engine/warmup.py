"""A few steps before the port opens: kernels get compiled and the cost model its first numbers."""

import time

import mlx.core as mx

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.generation import Generation
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant
from vllm_mlx.runner.base import GenerationRunner
from vllm_mlx.scheduler.cost import StepCost

PROMPT_TOKENS = 48
DECODE_ROWS = (1, 8)


def measure_cost(runner: GenerationRunner, kv: KvCache, cost: StepCost) -> None:
    """Prefill and decode throw-away sequences; leaves nothing behind but what ``cost`` observed."""
    sequences = [
        Sequence(Generation(id="warm-up", prompt_ids=(1,) * PROMPT_TOKENS), -1 - i, 4)
        for i in range(max(DECODE_ROWS))
    ]
    held = [s for s in sequences if kv.extend(s, PROMPT_TOKENS + 4)]
    for sequence in held:
        _timed(runner, [_prefill(sequence)])
    for rows in DECODE_ROWS:
        # the first one of a kind compiles kernels and touches memory; the second one counts
        for _ in range(2):
            batch = held[:rows]
            seconds = _timed(runner, [_decode(sequence) for sequence in batch])
        cost.observe(len(batch), 0, seconds)
    again = held[0]
    again.rewind()
    cost.observe(0, PROMPT_TOKENS, _timed(runner, [_prefill(again)]))
    for sequence in held:
        runner.forget(sequence)
        kv.release(sequence)
    runner.trim(kv.extent_blocks())


def _prefill(sequence: Sequence) -> Grant:
    return Grant(sequence, 0, PROMPT_TOKENS, samples=True)


def _decode(sequence: Sequence) -> Grant:
    sequence.output_ids.append(1)
    sequence.num_sampled += 1
    return Grant(sequence, sequence.length - 1, 1, samples=True)


def _timed(runner: GenerationRunner, grants: list[Grant]) -> float:
    started = time.perf_counter()
    mx.eval(runner.forward(grants, None), runner.state())
    return time.perf_counter() - started
