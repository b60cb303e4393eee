"""What the scheduler and the engine ask of a KV cache. Bookkeeping only: no arrays."""

from typing import Protocol

from msgspec import Struct

from vllm_mlx.core.sequence import Sequence


class KvStats(Struct, frozen=True):
    """Blocks by state, and what the prefix index saved so far."""

    used_blocks: int
    capacity_blocks: int
    cached_blocks: int  # held by nobody but the prefix index
    queried_tokens: int
    hit_tokens: int


class KvCache(Protocol):
    """Which blocks belong to which sequence. Used by the engine thread only."""

    block_tokens: int

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the byte budget can hold at once."""
        ...

    def open(self, weights_bytes: int, kv_bytes_per_token: int, context_tokens: int) -> int:
        """Fix the capacity now that the model's sizes are known; returns it in blocks."""
        ...

    def match(self, sequence: Sequence) -> None:
        """Give a sequence without blocks the longest known prefix: sets its ``block_ids``,
        ``computed_tokens`` and ``cached_tokens``, and pins the blocks. At least one token stays
        to be computed."""
        ...

    def extend(self, sequence: Sequence, tokens: int, spare_blocks: int = 0) -> bool:
        """Have blocks for ``tokens`` tokens; False (and nothing changed) where they do not fit.

        ``spare_blocks`` must stay available besides.
        """
        ...

    def commit(self, sequence: Sequence) -> None:
        """What this sequence has computed so far is right and may be shared."""
        ...

    def release(self, sequence: Sequence) -> list[int]:
        """The sequence gives up its blocks; returns those that became free."""
        ...

    def extent_blocks(self) -> int:
        """One more than the highest block id in use."""
        ...

    def clear(self) -> None:
        """Forget every prefix that no sequence uses."""
        ...

    @property
    def stats(self) -> KvStats: ...
