"""Block ids: nobody gets what another holds, and everything comes back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_mlx.cache.blocks import BlockPool, blocks_for

CAPACITY = 9


class PoolMachine(RuleBasedStateMachine):
    """Any order of allocate, pin and release against a plain count by id."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(CAPACITY)
        self.counts = dict.fromkeys(range(CAPACITY), 0)

    @property
    def held(self) -> list[int]:
        return [block for block, count in self.counts.items() if count]

    @property
    def free(self) -> list[int]:
        return [block for block, count in self.counts.items() if not count]

    @rule(count=st.integers(0, CAPACITY + 1))
    def allocate(self, count: int) -> None:
        expected = self.free[:count] if count <= len(self.free) else None
        assert self.pool.can_allocate(count) is (expected is not None)
        assert self.pool.allocate(count) == expected  # the lowest free ids, in order
        for block in expected or []:
            self.counts[block] = 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(self.held), max_size=4))
        self.pool.pin(blocks)
        for block in blocks:
            self.counts[block] += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held))
        times = data.draw(st.integers(1, self.counts[block]))
        self.pool.release([block] * times)
        self.counts[block] -= times

    @precondition(lambda self: self.free)
    @rule(data=st.data())
    def touch_a_free_block(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.free))
        with pytest.raises(ValueError, match="free already"):
            self.pool.release([block])
        with pytest.raises(ValueError, match="cannot be pinned"):
            self.pool.pin([block])

    @rule()
    def look_at_the_extent(self) -> None:
        assert self.pool.extent_blocks == max(self.held, default=-1) + 1

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.used_blocks == len(self.held)
        assert self.pool.free_blocks == CAPACITY - len(self.held)
        assert {b: self.pool.references(b) for b in range(CAPACITY)} == self.counts

    def teardown(self) -> None:
        for block, count in self.counts.items():
            self.pool.release([block] * count)
        assert self.pool.used_blocks == 0
        assert self.pool.extent_blocks == 0
        assert self.pool.allocate(CAPACITY) == list(range(CAPACITY))


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_pool_holds_at_least_one_block() -> None:
    with pytest.raises(ValueError, match="capacity_blocks"):
        BlockPool(0)


@given(tokens=st.integers(0, 10_000), block_tokens=st.integers(1, 300))
def test_blocks_for_is_the_least_number_that_fits(tokens: int, block_tokens: int) -> None:
    blocks = blocks_for(tokens, block_tokens)
    assert blocks * block_tokens >= tokens > (blocks - 1) * block_tokens
