"""Block ids, reference counts and the free list. Plain integers: nothing here knows an array."""

import heapq


class BlockPool:
    """Hands out block ids ``0 .. capacity_blocks - 1`` with reference counts.

    The lowest free id is handed out first, so the ids in use stay dense and the arrays behind
    them can shrink from the top. A block is free when nobody holds it.
    """

    def __init__(self, capacity_blocks: int) -> None:
        if capacity_blocks < 1:
            raise ValueError(f"capacity_blocks must be at least 1, not {capacity_blocks}")
        self.capacity_blocks = capacity_blocks
        self._references: list[int] = []  # by block id; grows up to the highest id ever used
        self._free: list[int] = []  # heap of ids below len(_references) that nobody holds
        self._used_blocks = 0

    @property
    def used_blocks(self) -> int:
        return self._used_blocks

    @property
    def free_blocks(self) -> int:
        return self.capacity_blocks - self._used_blocks

    @property
    def extent_blocks(self) -> int:
        """One more than the highest id in use: what the arrays must hold."""
        self._drop_free_tail()
        return len(self._references)

    def references(self, block_id: int) -> int:
        held = self._references[block_id : block_id + 1]  # one step, for readers on other threads
        return held[0] if held else 0

    def can_allocate(self, num_blocks: int) -> bool:
        return num_blocks <= self.free_blocks

    def allocate(self, num_blocks: int) -> list[int] | None:
        """Take ``num_blocks`` blocks with one reference each, or None where they do not fit now."""
        if not self.can_allocate(num_blocks):
            return None
        taken = [self._take_lowest() for _ in range(num_blocks)]
        self._used_blocks += num_blocks
        return taken

    def pin(self, block_ids: list[int]) -> None:
        """One more reference to each block, which somebody must already hold."""
        for block_id in block_ids:
            if self.references(block_id) == 0:
                raise ValueError(f"block {block_id} is free and cannot be pinned")
            self._references[block_id] += 1

    def release(self, block_ids: list[int]) -> None:
        """One reference less to each block; those that nobody holds any more become free."""
        for block_id in block_ids:
            if self.references(block_id) == 0:
                raise ValueError(f"block {block_id} is free already")
            self._references[block_id] -= 1
            if self._references[block_id] == 0:
                heapq.heappush(self._free, block_id)
                self._used_blocks -= 1

    def _take_lowest(self) -> int:
        if self._free:
            block_id = heapq.heappop(self._free)
            self._references[block_id] = 1
            return block_id
        self._references.append(1)
        return len(self._references) - 1

    def _drop_free_tail(self) -> None:
        dropped = False
        while self._references and self._references[-1] == 0:
            self._references.pop()
            dropped = True
        if dropped:
            limit = len(self._references)
            self._free = [block_id for block_id in self._free if block_id < limit]
            heapq.heapify(self._free)


def blocks_for(tokens: int, block_tokens: int) -> int:
    """How many blocks hold ``tokens`` tokens."""
    return -(-tokens // block_tokens)
