"""The prefix index against a plain dictionary of prefixes."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_mlx.cache.blocks import BlockPool
from vllm_mlx.cache.trie import PrefixTrie

Prefix = tuple[int, ...]
CAPACITY = 24
BLOCK_TOKENS = 2
prompts = st.lists(st.integers(0, 1), max_size=11)  # few tokens: prefixes meet often


@dataclass
class Naive:
    """Every known prefix of whole blocks, its block, and when it was last used."""

    blocks: dict[Prefix, int] = field(default_factory=dict)
    used_at: dict[Prefix, int] = field(default_factory=dict)
    clock: int = 0

    def prefixes(self, tokens: list[int]) -> list[Prefix]:
        ends = range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS)
        return [tuple(tokens[:end]) for end in ends]

    def match(self, tokens: list[int]) -> list[int]:
        self.clock += 1
        found = []
        for prefix in self.prefixes(tokens):
            if prefix not in self.blocks:
                break
            self.used_at[prefix] = self.clock
            found.append(self.blocks[prefix])
        return found

    def insert(self, tokens: list[int], block_ids: list[int]) -> None:
        self.clock += 1
        for prefix, block in zip(self.prefixes(tokens), block_ids, strict=True):
            self.blocks.setdefault(prefix, block)
            self.used_at[prefix] = self.clock

    def leaves(self) -> list[Prefix]:
        parents = {prefix[:-BLOCK_TOKENS] for prefix in self.blocks}
        return [prefix for prefix in self.blocks if prefix not in parents]

    def drop(self, prefix: Prefix) -> None:
        del self.blocks[prefix], self.used_at[prefix]


class TrieMachine(RuleBasedStateMachine):
    """Prompts come, are matched, computed, indexed and let go; the index is asked to shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(CAPACITY)
        self.trie = PrefixTrie(self.pool, BLOCK_TOKENS)
        self.naive = Naive()
        self.holders: list[list[int]] = []

    def in_use(self) -> set[int]:
        return {block for holder in self.holders for block in holder}

    @rule(tokens=prompts)
    def run(self, tokens: list[int]) -> None:
        keys = self.trie.keys_of(tokens)
        found = self.trie.match(keys)
        assert found == self.naive.match(tokens)
        new = self.pool.allocate(len(keys) - len(found))
        if new is None:
            self.pool.release(found)
            return
        self.holders.append(found + new)
        self.trie.insert(keys, found + new)
        self.naive.insert(tokens, found + new)

    @rule(tokens=prompts)
    def compute_what_is_known(self, tokens: list[int]) -> None:
        """Two equal prompts at once: both compute, the blocks of the first stay in the index."""
        keys = self.trie.keys_of(tokens)
        own = self.pool.allocate(len(keys))
        if own is not None:
            self.holders.append(own)
            self.trie.insert(keys, own)
            self.naive.insert(tokens, own)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.holders) - 1))
        self.pool.release(self.holders.pop(place))

    @rule(count=st.integers(0, 5))
    def evict(self, count: int) -> None:
        in_use = self.in_use()
        before = dict(self.naive.blocks)
        freed = self.trie.evict(count)
        gone = [p for p, block in before.items() if self.pool.references(block) == 0]
        assert len(gone) == freed
        for prefix in sorted(gone, key=len, reverse=True):
            assert before[prefix] not in in_use
            assert prefix in self.naive.leaves()  # nothing below it is left behind
            self.naive.drop(prefix)
        if freed < count:  # then nothing more could go
            assert all(self.naive.blocks[leaf] in in_use for leaf in self.naive.leaves())

    @invariant()
    def blocks_are_counted(self) -> None:
        in_use = self.in_use()
        assert len(self.trie) == len(self.naive.blocks)
        idle = [block for block in self.naive.blocks.values() if block not in in_use]
        assert self.trie.evictable_blocks() == len(idle)
        assert self.pool.used_blocks == len(in_use) + len(idle)

    def teardown(self) -> None:
        for holder in self.holders:
            self.pool.release(holder)
        self.trie.evict(CAPACITY)
        assert len(self.trie) == 0
        assert self.pool.used_blocks == 0


TestTrie = TrieMachine.TestCase
TestTrie.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.booleans(), prompts), max_size=12))
@settings(max_examples=60)
def test_eviction_takes_the_least_recently_used_leaf(steps: list[tuple[bool, list[int]]]) -> None:
    pool = BlockPool(200)
    trie, naive = PrefixTrie(pool, BLOCK_TOKENS), Naive()
    for inserts, tokens in steps:
        keys = trie.keys_of(tokens)
        if inserts:
            blocks = pool.allocate(len(keys))
            assert blocks is not None
            trie.insert(keys, blocks)
            naive.insert(tokens, blocks)
            pool.release(blocks)
        else:
            pool.release(trie.match(keys))
            naive.match(tokens)
    while naive.blocks:
        victim = min(naive.leaves(), key=naive.used_at.__getitem__)
        assert trie.evict(1) == 1
        assert pool.references(naive.blocks[victim]) == 0, victim
        naive.drop(victim)
    assert trie.evict(1) == 0


def fill(trie: PrefixTrie, pool: BlockPool, tokens: list[int]) -> list[int]:
    keys = trie.keys_of(tokens)
    blocks = pool.allocate(len(keys))
    assert blocks is not None
    trie.insert(keys, blocks)
    return blocks


def test_prompts_that_differ_only_in_the_first_block_share_nothing() -> None:
    pool = BlockPool(50)
    trie = PrefixTrie(pool, 4)
    tail = list(range(40))
    fill(trie, pool, [7, 7, 7, 7, *tail])
    assert trie.match(trie.keys_of([7, 7, 7, 8, *tail])) == []
    assert trie.match(trie.keys_of(tail)) == []


def test_a_middle_is_not_a_beginning() -> None:
    """X+Y is known; Y+Z finds nothing, X+Z finds X, X+Y+Z finds X+Y."""
    pool = BlockPool(50)
    trie = PrefixTrie(pool, 4)
    x, y, z = [1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]
    of_x, of_y = fill(trie, pool, x + y)
    assert trie.match(trie.keys_of(y + z)) == []
    assert trie.match(trie.keys_of(x + z)) == [of_x]
    assert trie.match(trie.keys_of(x + y + z)) == [of_x, of_y]
    assert trie.match(trie.keys_of(x + x)) == [of_x]


def test_only_whole_blocks_have_keys() -> None:
    trie = PrefixTrie(BlockPool(4), 4)
    assert [len(trie.keys_of(list(range(n)))) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]
    assert trie.keys_of((1, 2, 3, 4)) == trie.keys_of([1, 2, 3, 4, 5])


@pytest.mark.parametrize("tokens", [[2**31 - 1] * 4, [0] * 4])
def test_large_ids_have_keys_too(tokens: list[int]) -> None:
    assert len(set(PrefixTrie(BlockPool(4), 2).keys_of(tokens))) == 2


class InterruptedPool(BlockPool):
    """While somebody counts references, another thread gets its turn."""

    def __init__(self, capacity_blocks: int) -> None:
        super().__init__(capacity_blocks)
        self.turns: list[Callable[[], None]] = []

    def references(self, block_id: int) -> int:
        if self.turns:
            self.turns.pop()()
        return super().references(block_id)


def test_blocks_are_counted_while_another_thread_works() -> None:
    pool = InterruptedPool(20)
    trie = PrefixTrie(pool, 2)
    pool.release(fill(trie, pool, [1, 2, 3, 4]))

    def index_another() -> None:
        fill(trie, pool, [5, 6, 7, 8])

    def evict_all() -> None:
        assert trie.evict(2) == 2
        assert pool.extent_blocks == 0

    pool.turns = [index_another]
    assert trie.evictable_blocks() == 2
    pool = InterruptedPool(20)
    trie = PrefixTrie(pool, 2)
    pool.release(fill(trie, pool, [1, 2, 3, 4]))
    pool.turns = [evict_all]
    assert trie.evictable_blocks() == 0
