"""Prefix reuse as the scheduler sees it."""

from collections.abc import Sequence as Items

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.pools import open_cache
from tests.sequences import GREEDY, make_sequence
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.core.generation import Sampling
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.tiles import TILE_TOKENS

SEEDED = Sampling(temperature=1.0, seed=1)


def admit(cache: PagedCache, sequence: Sequence) -> bool:
    """What the scheduler does, and then the whole prompt is computed."""
    cache.match(sequence)
    if not cache.extend(sequence, sequence.length + 1):
        cache.release(sequence)
        sequence.computed_tokens = 0
        return False
    sequence.state = "running"
    sequence.computed_tokens = sequence.length
    return True


def run(cache: PagedCache, prompt: Items[int], number: int) -> Sequence:
    """A sequence from admission to its end."""
    sequence = make_sequence(prompt, number=number)
    assert admit(cache, sequence)
    cache.commit(sequence)
    sequence.state = "finished"
    cache.release(sequence)
    return sequence


def matched(cache: PagedCache, prompt: Items[int], **changes: object) -> int:
    """How many tokens of the prompt are known."""
    sequence = make_sequence(prompt, number=1000, **changes)  # type: ignore[arg-type]
    cache.match(sequence)
    assert sequence.computed_tokens == len(sequence.block_ids) * cache.block_tokens
    cache.release(sequence)
    return sequence.computed_tokens


@pytest.mark.parametrize(
    ("prompt_tokens", "known"), [(15, 0), (16, 0), (17, 16), (32, 16), (33, 32), (50, 48)]
)
def test_one_token_is_left_to_compute(prompt_tokens: int, known: int) -> None:
    cache = open_cache(PagedCache)
    prompt = list(range(prompt_tokens))
    run(cache, prompt, 0)
    assert matched(cache, prompt) == known


def test_a_middle_is_not_a_beginning() -> None:
    cache = open_cache(PagedCache)
    x, y, z = ([k] * 16 for k in (1, 2, 3))
    run(cache, x + y + [9], 0)
    assert matched(cache, y + z) == 0
    assert matched(cache, x + y + z) == 32
    assert matched(cache, x + z + y) == 16


def test_output_is_shared_as_far_as_it_was_read_and_computed() -> None:
    cache = open_cache(PagedCache)
    sequence = make_sequence([1] * 10)
    assert admit(cache, sequence)
    cache.extend(sequence, 40)
    sequence.output_ids = [2] * 25
    sequence.num_sampled = 26  # one is still on the device
    sequence.computed_tokens = 34  # the last one read is not computed yet
    cache.commit(sequence)
    assert matched(cache, [1] * 10 + [2] * 30) == 32
    sequence.output_ids = [2] * 5
    other = open_cache(PagedCache)
    again = make_sequence([1] * 10)
    assert admit(other, again)
    other.extend(again, 40)
    again.output_ids, again.num_sampled, again.computed_tokens = [2] * 5, 30, 39
    other.commit(again)
    assert matched(other, [1] * 10 + [2] * 30) == 0  # 15 tokens are known by name: no whole block


def test_a_reproducible_sequence_takes_whole_tiles() -> None:
    cache = open_cache(PagedCache, tokens=512)
    prompt = list(range(200))
    run(cache, prompt, 0)
    assert matched(cache, prompt) == 192
    assert matched(cache, prompt[:190]) == 176
    assert matched(cache, prompt[:190], sampling=SEEDED) == 2 * TILE_TOKENS
    assert matched(cache, prompt[:60], sampling=SEEDED) == 0
    assert cache.stats.used_blocks == 0  # what was cut off is given back


def test_a_prompt_that_is_scored_is_computed() -> None:
    cache = open_cache(PagedCache)
    run(cache, list(range(40)), 0)
    assert matched(cache, list(range(40)), prompt_logprobs=0) == 0


def test_memory_pressure_evicts_what_nobody_uses() -> None:
    cache = open_cache(PagedCache)  # 16 blocks
    run(cache, [1] * 64, 0)
    run(cache, [2] * 64, 1)
    assert cache.stats.cached_blocks == 8
    user = make_sequence([1] * 64, number=2)
    assert admit(cache, user)  # holds the blocks of the first, 3 of them known and 2 new
    large = make_sequence([3] * 175, number=3)
    assert admit(cache, large)  # 11 blocks, only 6 were free
    assert cache.stats.cached_blocks == 0
    assert matched(cache, [1] * 64) == 48
    assert matched(cache, [2] * 64) == 0
    assert not cache.extend(large, 16 * 11 + 1)


def test_clear_keeps_what_is_in_use() -> None:
    cache = open_cache(PagedCache)
    run(cache, [1] * 64, 0)
    run(cache, [2] * 64, 1)
    user = make_sequence([1] * 33, number=2)
    assert admit(cache, user)
    cache.clear()
    assert matched(cache, [1] * 64) == 32
    assert matched(cache, [2] * 64) == 0


def test_savings_are_counted_once_and_only_where_work_was_saved() -> None:
    cache = open_cache(PagedCache)
    run(cache, [1] * 64, 0)
    assert (cache.stats.queried_tokens, cache.stats.hit_tokens) == (64, 0)
    holder = make_sequence([2] * 100, number=1)
    assert admit(cache, holder)
    waiting = make_sequence([1] * 64 + [3] * 120, number=2)
    for _ in range(3):  # asks again in every step while there is no room
        assert not admit(cache, waiting)
    assert (cache.stats.queried_tokens, cache.stats.hit_tokens) == (164, 0)
    cache.release(holder)
    assert admit(cache, waiting)
    assert waiting.cached_tokens == 64
    assert (cache.stats.queried_tokens, cache.stats.hit_tokens) == (164 + 184, 64)


def test_after_preemption_reuse_is_not_billed() -> None:
    cache = open_cache(PagedCache)
    sequence = make_sequence([1] * 64)
    assert admit(cache, sequence)
    cache.commit(sequence)
    cache.release(sequence)
    sequence.rewind()
    sequence.num_preemptions = 1
    assert admit(cache, sequence)
    assert len(sequence.block_ids) == 5
    assert sequence.cached_tokens == 0
    assert cache.stats.hit_tokens == 0


operations = st.tuples(
    st.integers(0, 2),  # which prompt family
    st.integers(1, 90),  # prompt tokens
    st.booleans(),  # finish at once, or stay
    st.sampled_from([GREEDY, SEEDED]),
)


@given(st.lists(operations, max_size=25))
@settings(max_examples=60)
def test_any_load_gives_everything_back(steps: list[tuple[int, int, bool, Sampling]]) -> None:
    cache = open_cache(PagedCache)
    known: set[tuple[int, int]] = set()  # (family, tokens) that were once complete
    running: list[Sequence] = []
    for number, (family, tokens, finishes, sampling) in enumerate(steps):
        prompt = [family] * 8 + list(range(tokens))
        sequence = make_sequence(prompt, number=number, sampling=sampling)
        if not admit(cache, sequence):
            assert cache.stats.used_blocks > 0  # an empty cache has room for each of them
            oldest = running.pop(0)
            oldest.state = "finished"
            cache.release(oldest)
            continue
        cached = sequence.cached_tokens
        assert cached < len(prompt)
        assert cached == 0 or any(f == family and n >= cached for f, n in known)
        if sequence.is_reproducible:
            assert cached % TILE_TOKENS == 0
        cache.commit(sequence)
        known.add((family, len(prompt)))
        held = {block for s in [*running, sequence] for block in s.block_ids}
        assert cache.stats.used_blocks == len(held)
        if finishes:
            sequence.state = "finished"
            cache.release(sequence)
        else:
            running.append(sequence)
    for sequence in running:
        cache.release(sequence)
    assert cache.stats.used_blocks == 0
    cache.clear()
    assert cache.stats.cached_blocks == 0
    assert cache.extent_blocks() == 1
