"""Row mode's memory, as other threads see it."""

from typing import Any

import mlx.core as mx

from tests.sequences import make_sequence
from vllm_mlx.core.step import Grant
from vllm_mlx.runner.rows import RowsRunner


class WatchedCache:
    """Holds 4 bytes a token; its arrays may be touched by the engine's thread only."""

    def __init__(self) -> None:
        self.tokens = 0
        self.may_be_touched = True

    @property
    def state(self) -> list[mx.array]:
        assert self.may_be_touched
        return [mx.zeros((self.tokens,))]


def model(tokens: mx.array, cache: list[WatchedCache]) -> mx.array:
    cache[0].tokens += tokens.shape[1]
    return mx.zeros((1, tokens.shape[1], 5))


def test_bytes_are_counted_with_the_step_and_read_without_touching_a_cache() -> None:
    caches = [WatchedCache(), WatchedCache()]
    unused = iter(caches)
    anything: Any = model
    runner = RowsRunner(anything, lambda: [next(unused)], batched=False)
    sequences = [make_sequence([1] * n, number=n) for n in (3, 4)]
    assert runner.allocated_bytes == 0
    runner.forward([Grant(s, 0, s.length, samples=True) for s in sequences], None)
    mx.eval(runner.state())
    for cache in caches:
        cache.may_be_touched = False
    assert runner.allocated_bytes == 4 * 7
    runner.forget(sequences[0])
    runner.forget(sequences[1])
    assert runner.allocated_bytes == 0


def test_reset_holds_nothing() -> None:
    anything: Any = model
    runner = RowsRunner(anything, lambda: [WatchedCache()], batched=False)
    runner.forward([Grant(make_sequence(), 0, 3, samples=True)], None)
    mx.eval(runner.state())
    assert runner.allocated_bytes == 12
    runner.reset()
    assert runner.allocated_bytes == 0
