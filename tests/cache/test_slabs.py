"""The arrays behind the blocks: what is written stays through growing and shrinking."""

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mlx.cache.slabs import KvSlabs, LayerSpec

BLOCK_TOKENS = 4
LAYERS = [
    LayerSpec(kv_heads=2, key_dim=3, value_dim=5, dtype=mx.float32),
    LayerSpec(kv_heads=1, key_dim=4, value_dim=4, dtype=mx.float16, window_tokens=8),
]


def rows_of(block: int, layer: LayerSpec) -> slice:
    per_block = layer.kv_heads * BLOCK_TOKENS
    return slice(block * per_block, (block + 1) * per_block)


def write(slabs: KvSlabs, block: int, value: float) -> None:
    for index, layer in enumerate(slabs.layers):
        slabs.keys[index][rows_of(block, layer)] = value
        slabs.values[index][rows_of(block, layer)] = -value


def written(slabs: KvSlabs, block: int) -> set[float]:
    """The value of a block in every layer; keys and values hold it with opposite signs."""
    found: set[float] = set()
    for index, layer in enumerate(slabs.layers):
        rows = rows_of(block, layer)
        found |= set(np.array(slabs.keys[index][rows]).reshape(-1).tolist())
        found |= set((-np.array(slabs.values[index][rows])).reshape(-1).tolist())
    return found


def test_bytes_are_those_of_the_arrays() -> None:
    slabs = KvSlabs(LAYERS, BLOCK_TOKENS)
    slabs.ensure(7, 100)
    arrays = [*slabs.keys, *slabs.values]
    assert slabs.allocated_bytes == sum(array.nbytes for array in arrays)
    assert slabs.block_bytes == BLOCK_TOKENS * (2 * 8 * 4 + 1 * 8 * 2)


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(1, 120)), max_size=6))
@settings(max_examples=25)
def test_growing_and_shrinking_keep_what_is_in_use(steps: list[tuple[bool, int]]) -> None:
    limit = 120
    slabs = KvSlabs(LAYERS, BLOCK_TOKENS)
    kept: dict[int, float] = {}
    for number, (grows, blocks) in enumerate(steps, start=1):
        before = slabs.extent_blocks
        if grows:
            slabs.ensure(blocks, limit)
            assert blocks <= slabs.extent_blocks <= limit
            if blocks > before:  # by a step, not to the limit
                assert slabs.extent_blocks <= max(blocks, before + max(16, before // 16))
            else:
                assert slabs.extent_blocks == before
            write(slabs, blocks - 1, float(number))
            kept[blocks - 1] = float(number)
        else:
            shrank = slabs.shrink(blocks)
            assert shrank is (before - blocks >= 2 * slabs.MIN_GROWTH_BLOCKS)
            assert slabs.extent_blocks == (blocks if shrank else before)
            kept = {b: v for b, v in kept.items() if b < slabs.extent_blocks}
        for block, value in kept.items():
            assert written(slabs, block) == {value}


def test_scrubbing_zeroes_those_blocks_and_no_other() -> None:
    slabs = KvSlabs(LAYERS, BLOCK_TOKENS)
    slabs.ensure(6, 6)
    for block in range(6):
        write(slabs, block, float("nan") if block in (2, 4) else float(block + 1))
    slabs.scrub([2, 4])
    assert [written(slabs, block) for block in range(6)] == [
        {1.0},
        {2.0},
        {0.0},
        {4.0},
        {0.0},
        {6.0},
    ]


def test_reset_forgets_everything() -> None:
    slabs = KvSlabs(LAYERS, BLOCK_TOKENS)
    slabs.ensure(5, 5)
    write(slabs, 0, 3.0)
    slabs.reset()
    assert slabs.extent_blocks == 1
    assert written(slabs, 0) == {0.0}
