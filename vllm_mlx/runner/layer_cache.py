"""What an mlx-lm model sees as its cache, one object a layer, while its tokens are rows."""

import mlx.core as mx

import vllm_mlx.kernels.attention  # noqa: F401 - the seam through which models reach attend()
from vllm_mlx.cache.slabs import KvSlabs, LayerSpec
from vllm_mlx.kernels.paged_attention import attend_decode, attend_prefill
from vllm_mlx.runner.step_layout import LayerLayout, StepLayout


class PagedLayerCache:
    """Speaks mlx-lm's cache protocol for inputs of shape [rows, 1]; every row is one token.

    ``offset`` is an array of one position a row: mlx-lm passes it to rope, which takes one offset
    per batch row. Keys and values go to the slabs, attention reads them from there.
    """

    def __init__(self, index: int, slabs: KvSlabs, fused: bool) -> None:
        self._index, self._slabs, self._fused = index, slabs, fused
        self._layout: LayerLayout | None = None
        self.offset: mx.array = mx.array([0])

    def begin(self, layout: StepLayout) -> None:
        """Serve this step from now on."""
        self._layout = layout.layer(self._slabs.layers[self._index])
        self.offset = layout.positions

    def make_mask(self, tokens: int, **_: object) -> None:
        """Rows have length 1; what each may see is decided in ``attend``."""
        return None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write ``keys`` and ``values`` [rows, kv_heads, 1, head_dim]; returned unchanged."""
        slots = self._current.slots
        slabs, index = self._slabs, self._index
        slabs.keys[index][slots] = keys.reshape(-1, keys.shape[-1])
        slabs.values[index][slots] = values.reshape(-1, values.shape[-1])
        return keys, values

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """``queries`` [rows, heads, 1, key_dim] -> [rows, heads, 1, value_dim]."""
        layout, spec = self._current, self._slabs.layers[self._index]
        covered = layout.covered_rows
        parts = self._padding_rows(queries, covered.start, spec)
        parts += [
            attend_decode(
                queries[group.first : group.last],
                *self._gather(group.index),
                group.mask,
                scale,
                sinks,
                self._fused,
            )
            for group in layout.groups
        ]
        parts += [
            attend_prefill(
                queries[span.first : span.last],
                *self._gather(span.index),
                span.start,
                span.keys_start,
                spec.window_tokens,
                scale,
                sinks,
                self._fused,
            )
            for span in layout.spans
        ]
        parts += self._padding_rows(queries, queries.shape[0] - covered.stop, spec)
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    @staticmethod
    def _padding_rows(queries: mx.array, rows: int, spec: LayerSpec) -> list[mx.array]:
        shape = (rows, queries.shape[1], 1, spec.value_dim)
        return [mx.zeros(shape, dtype=queries.dtype)] if rows else []

    @property
    def _current(self) -> LayerLayout:
        if self._layout is None:
            raise RuntimeError("attention was asked for outside a step")
        return self._layout

    def _gather(self, index: mx.array) -> tuple[mx.array, mx.array]:
        """Blocks to contiguous keys and values [n, kv_heads, tokens, head_dim], one copy each."""
        n, kv_heads, blocks = index.shape
        slabs = self._slabs
        size = slabs.block_tokens

        def take(slab: mx.array) -> mx.array:
            pieces = slab.reshape(-1, size, slab.shape[-1])[index]
            return pieces.reshape(n, kv_heads, blocks * size, slab.shape[-1])

        return take(slabs.keys[self._index]), take(slabs.values[self._index])
