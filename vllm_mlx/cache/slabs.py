"""The arrays behind the block ids, one pair a layer. They grow and shrink in steps of whole blocks.

Layout of a layer's keys (and of its values): ``[block, kv_head, block_tokens, head_dim]``, kept
flat as ``[block * kv_head * block_tokens, head_dim]`` so that one token row of one head is one
row to scatter, and ``block_tokens`` rows are one contiguous piece to gather. Gathering with an
index of (sequence, kv_head, block) then gives ``[sequence, kv_head, tokens, head_dim]`` in one
copy, without a transposition.
"""

import mlx.core as mx
from msgspec import Struct

NULL_BLOCK = 0  # never handed out: padding rows write here, padding gathers read here


class LayerSpec(Struct, frozen=True):
    """What one attention layer stores for a token, and how far back it looks."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: mx.Dtype
    window_tokens: int | None = None  # None: everything

    @property
    def bytes_per_token(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.size


class KvSlabs:
    """Keys and values of every layer for ``extent_blocks`` blocks, block 0 being the null block."""

    # Copying at a growth is repaid over the blocks it adds; 1/16 bounds what stands unused.
    MIN_GROWTH_BLOCKS = 16
    GROWTH_FRACTION = 16

    def __init__(self, layers: list[LayerSpec], block_tokens: int) -> None:
        self.layers = layers
        self.block_tokens = block_tokens
        self.extent_blocks = 0
        self.keys: list[mx.array] = []
        self.values: list[mx.array] = []
        self.reset()

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self.block_tokens * sum(layer.bytes_per_token for layer in self.layers)

    @property
    def allocated_bytes(self) -> int:
        return self.extent_blocks * self.block_bytes

    def reset(self) -> None:
        """Forget everything; also the way out when an evaluation failed half way."""
        self.extent_blocks = 1
        self.keys = [self._zeros(layer, layer.key_dim, 1) for layer in self.layers]
        self.values = [self._zeros(layer, layer.value_dim, 1) for layer in self.layers]

    def ensure(self, num_blocks: int, limit_blocks: int) -> None:
        """Hold at least ``num_blocks`` blocks, growing by a step but not beyond ``limit_blocks``.

        Evaluates one layer at a time: the transient cost is one layer's copy.
        """
        if num_blocks <= self.extent_blocks:
            return
        step = max(self.MIN_GROWTH_BLOCKS, self.extent_blocks // self.GROWTH_FRACTION)
        self._resize(min(limit_blocks, max(num_blocks, self.extent_blocks + step)))

    def shrink(self, num_blocks: int) -> bool:
        """Give back blocks above ``num_blocks`` if that is a step's worth; True when it did."""
        keep = max(1, num_blocks)
        if self.extent_blocks - keep < 2 * self.MIN_GROWTH_BLOCKS:
            return False
        self._resize(keep)
        return True

    def scrub(self, block_ids: list[int]) -> None:
        """Zero these blocks: a NaN left behind would reach their next holder through 0 * NaN."""
        for index, layer in enumerate(self.layers):
            rows = self._rows_of(block_ids, layer)
            self.keys[index][rows] = mx.zeros((1,), dtype=layer.dtype)
            self.values[index][rows] = mx.zeros((1,), dtype=layer.dtype)

    def _rows_of(self, block_ids: list[int], layer: LayerSpec) -> mx.array:
        per_block = layer.kv_heads * self.block_tokens
        first = mx.array(block_ids, dtype=mx.int32)[:, None] * per_block
        return (first + mx.arange(per_block, dtype=mx.int32)[None]).reshape(-1)

    def _zeros(self, layer: LayerSpec, head_dim: int, num_blocks: int) -> mx.array:
        rows = num_blocks * layer.kv_heads * self.block_tokens
        return mx.zeros((rows, head_dim), dtype=layer.dtype)

    def _resize(self, num_blocks: int) -> None:
        for index, layer in enumerate(self.layers):
            self.keys[index] = self._resized(self.keys[index], layer, layer.key_dim, num_blocks)
            mx.eval(self.keys[index])
            self.values[index] = self._resized(
                self.values[index], layer, layer.value_dim, num_blocks
            )
            mx.eval(self.values[index])
        self.extent_blocks = num_blocks

    def _resized(self, old: mx.array, layer: LayerSpec, head_dim: int, num_blocks: int) -> mx.array:
        added = num_blocks - self.extent_blocks
        if added > 0:
            return mx.concatenate([old, self._zeros(layer, head_dim, added)])
        rows = num_blocks * layer.kv_heads * self.block_tokens
        return mx.contiguous(old[:rows])
