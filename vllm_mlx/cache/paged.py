"""``cache=paged``: a block pool whose full blocks are found again by prefix."""

from vllm_mlx.cache.base import KvStats
from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.trie import PrefixTrie
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.tiles import TILE_TOKENS


class PagedCache(NoCache):
    """Adds the prefix index; see ``cache.base.KvCache``."""

    def __init__(self, block_tokens: int, memory_gib: float | str) -> None:
        super().__init__(block_tokens, memory_gib)
        self._trie = PrefixTrie(self._pool, block_tokens)
        self._committed: dict[int, int] = {}  # sequence number -> blocks known to the index
        self._queried_tokens = self._hit_tokens = 0

    def open(self, weights_bytes: int, kv_bytes_per_token: int, context_tokens: int) -> int:
        blocks = super().open(weights_bytes, kv_bytes_per_token, context_tokens)
        self._trie = PrefixTrie(self._pool, self.block_tokens)
        return blocks

    def match(self, sequence: Sequence) -> None:
        prompt = sequence.tokens_between(0, sequence.length)
        # one token must be computed, or there is nothing to sample from
        keys = self._trie.keys_of(prompt)[: (len(prompt) - 1) // self.block_tokens]
        if sequence.scores_prompt:  # every prompt token's logits are wanted
            keys = []
        sequence.block_ids = self._trie.match(keys)
        if sequence.is_reproducible:  # its tiles must be computed whole, or not at all
            self._cut_to_tiles(sequence)
        sequence.computed_tokens = len(sequence.block_ids) * self.block_tokens
        if sequence.num_preemptions == 0:
            sequence.cached_tokens = sequence.computed_tokens
            self._queried_tokens += len(prompt)
            self._hit_tokens += sequence.computed_tokens
        self._committed[sequence.number] = len(sequence.block_ids)

    def commit(self, sequence: Sequence) -> None:
        read = sequence.prompt_tokens + len(sequence.output_ids)
        full = min(sequence.computed_tokens, read) // self.block_tokens
        if full > self._committed.get(sequence.number, 0):
            keys = self._trie.keys_of(sequence.tokens_between(0, full * self.block_tokens))
            self._trie.insert(keys, sequence.block_ids[:full])
            self._committed[sequence.number] = full

    def release(self, sequence: Sequence) -> list[int]:
        was_matched = self._committed.pop(sequence.number, None) is not None
        if was_matched and sequence.state == "waiting" and sequence.num_preemptions == 0:
            # it was not admitted: nothing was saved, and it will ask again
            self._queried_tokens -= sequence.length
            self._hit_tokens -= len(sequence.block_ids) * self.block_tokens
        return super().release(sequence)

    def clear(self) -> None:
        self._trie.evict(len(self._trie))

    @property
    def stats(self) -> KvStats:
        cached = self._trie.evictable_blocks()
        return KvStats(
            used_blocks=self._pool.used_blocks - 1 - cached,
            capacity_blocks=self._pool.capacity_blocks - 1,
            cached_blocks=cached,
            queried_tokens=self._queried_tokens,
            hit_tokens=self._hit_tokens,
        )

    def _cut_to_tiles(self, sequence: Sequence) -> None:
        while len(sequence.block_ids) * self.block_tokens % TILE_TOKENS:
            self._pool.release([sequence.block_ids.pop()])

    def _make_room(self, num_blocks: int) -> bool:
        missing = num_blocks - self._pool.free_blocks
        if missing > 0:
            self._trie.evict(missing)
        return self._pool.can_allocate(num_blocks)
