"""Blocks by sequence, for both caches: admission, reserve, and everything given back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.pools import open_cache
from tests.sequences import make_sequence
from vllm_mlx.cache.blocks import blocks_for
from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.cache.slabs import NULL_BLOCK

KINDS = [NoCache, PagedCache]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_tokens", [1, 16, 64])
def test_capacity_is_what_the_budget_holds(
    kind: type[NoCache | PagedCache], block_tokens: int
) -> None:
    cache = open_cache(kind, 256, block_tokens)
    assert cache.capacity_tokens == 256
    assert cache.memory is not None
    assert cache.memory.kv_bytes == 256 * 1024
    sequence = make_sequence([1] * 256)
    assert cache.extend(sequence, 256)
    assert not cache.extend(sequence, 257)
    assert cache.stats.used_blocks == cache.stats.capacity_blocks == 256 // block_tokens


@pytest.mark.parametrize("kind", KINDS)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 200), st.integers(0, 4)), max_size=20
    )
)
@settings(max_examples=60)
def test_blocks_belong_to_one_sequence(
    kind: type[NoCache | PagedCache], steps: list[tuple[int, int, int]]
) -> None:
    cache = open_cache(kind)
    capacity = cache.stats.capacity_blocks
    sequences = [make_sequence([1] * 200, number=i) for i in range(4)]
    for which, tokens, spare in steps:
        sequence = sequences[which]
        before = list(sequence.block_ids)
        if tokens == 0:
            assert cache.release(sequence) == before
            assert sequence.block_ids == []
            continue
        missing = max(0, blocks_for(tokens, 16) - len(before))
        free = capacity - sum(len(s.block_ids) for s in sequences)
        fits = missing == 0 or missing + spare <= free
        assert cache.extend(sequence, tokens, spare) is fits
        assert sequence.block_ids[: len(before)] == before
        assert len(sequence.block_ids) == len(before) + (missing if fits else 0)
        held = [block for s in sequences for block in s.block_ids]
        assert len(set(held)) == len(held) == cache.stats.used_blocks
        assert NULL_BLOCK not in held
        assert cache.extent_blocks() == max(held, default=0) + 1
    for sequence in sequences:
        cache.release(sequence)
    assert cache.stats.used_blocks == 0
    assert cache.extent_blocks() == 1


def test_nothing_is_remembered() -> None:
    cache = open_cache(NoCache)
    prompt = list(range(40))
    first = make_sequence(prompt)
    cache.match(first)
    assert cache.extend(first, 41)
    first.computed_tokens = 40
    cache.commit(first)
    cache.release(first)
    second = make_sequence(prompt, number=1)
    second.block_ids, second.computed_tokens = [3], 16
    cache.match(second)
    assert (second.block_ids, second.computed_tokens, second.cached_tokens) == ([], 0, 0)
    cache.clear()
    assert cache.stats.cached_blocks == cache.stats.hit_tokens == 0
