"""``cache=none``: a block pool that remembers nothing after a sequence ends."""

from vllm_mlx.cache.base import KvStats
from vllm_mlx.cache.blocks import BlockPool, blocks_for
from vllm_mlx.cache.budget import MemoryPlan, plan_memory
from vllm_mlx.cache.slabs import NULL_BLOCK
from vllm_mlx.core.sequence import Sequence


class NoCache:
    """Blocks by sequence, admission by bytes; see ``cache.base.KvCache``."""

    def __init__(self, block_tokens: int, memory_gib: float | str) -> None:
        self.block_tokens = block_tokens
        self._memory_gib = memory_gib
        self._pool = BlockPool(1)
        self.memory: MemoryPlan | None = None  # known once open

    @property
    def capacity_tokens(self) -> int:
        return (self._pool.capacity_blocks - 1) * self.block_tokens

    def open(self, weights_bytes: int, kv_bytes_per_token: int, context_tokens: int) -> int:
        self.memory = plan_memory(
            self._memory_gib, weights_bytes, kv_bytes_per_token, self.block_tokens
        )
        self._pool = BlockPool(self.memory.blocks + 1)
        null = self._pool.allocate(1)
        if null != [NULL_BLOCK]:
            raise RuntimeError(f"the null block must be block {NULL_BLOCK}, not {null}")
        return self._pool.capacity_blocks

    def match(self, sequence: Sequence) -> None:
        sequence.block_ids = []
        sequence.computed_tokens = 0

    def extend(self, sequence: Sequence, tokens: int, spare_blocks: int = 0) -> bool:
        missing = blocks_for(tokens, self.block_tokens) - len(sequence.block_ids)
        if missing <= 0:
            return True
        if not self._make_room(missing + spare_blocks):
            return False
        taken = self._pool.allocate(missing)
        if taken is None:
            return False
        sequence.block_ids += taken
        return True

    def commit(self, sequence: Sequence) -> None:
        """Nothing is shared."""

    def release(self, sequence: Sequence) -> list[int]:
        held, sequence.block_ids = sequence.block_ids, []
        self._pool.release(held)
        return [block for block in held if self._pool.references(block) == 0]

    def extent_blocks(self) -> int:
        return self._pool.extent_blocks

    def clear(self) -> None:
        """Nothing is remembered."""

    @property
    def stats(self) -> KvStats:
        used = self._pool.used_blocks - 1
        return KvStats(used, self._pool.capacity_blocks - 1, 0, 0, 0)

    def _make_room(self, num_blocks: int) -> bool:
        return self._pool.can_allocate(num_blocks)
