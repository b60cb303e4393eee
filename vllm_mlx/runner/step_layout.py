"""Where each token row of a step goes and what it may see. Host integers, uploaded once a step."""

import mlx.core as mx
import numpy as np
from msgspec import Struct

from vllm_mlx.cache.blocks import blocks_for
from vllm_mlx.cache.slabs import NULL_BLOCK, LayerSpec
from vllm_mlx.core.tiles import TILE_TOKENS
from vllm_mlx.runner.base import Grant

# A group of decode rows is padded to its longest; a new group starts when the padding would
# exceed a quarter of what the group reads, plus a few blocks (a group costs some ten small ops).
PADDING_SHARE = 0.25
PADDING_BLOCKS = 16


class DecodeGroup(Struct, frozen=True):
    """Rows ``first`` to ``last - 1`` of the step, one query each, padded to ``num_blocks`` blocks.

    ``index`` [rows, kv_heads, num_blocks]: which block-heads to gather; ``mask`` [rows, 1, 1,
    num_blocks * block_tokens], added to scores.
    """

    first: int
    last: int
    index: mx.array
    mask: mx.array


class PrefillSpan(Struct, frozen=True):
    """Rows ``first`` to ``last - 1``: consecutive queries of one sequence from position ``start``.

    ``index`` [1, kv_heads, blocks]: blocks from position ``keys_start`` on, to the end of a tile.
    """

    first: int
    last: int
    start: int
    keys_start: int
    index: mx.array


class LayerLayout(Struct, frozen=True):
    """The part of a layout that depends on kv_heads and window: shared by all layers alike."""

    slots: mx.array  # [rows * kv_heads]: where each row's key (and value) is written
    groups: list[DecodeGroup]
    spans: list[PrefillSpan]

    @property
    def covered_rows(self) -> range:
        """All rows but the padding."""
        edges = [(piece.first, piece.last) for piece in self.groups]
        edges += [(piece.first, piece.last) for piece in self.spans]
        return range(edges[0][0], edges[-1][1])


class StepLayout:
    """Rows are: ``lead`` padding rows, decode grants by context length, prefill grants, padding.

    ``total_rows`` may exceed what the grants need. With ``exact`` no row's result depends on
    another row's length.
    """

    def __init__(
        self,
        grants: list[Grant],
        block_tokens: int,
        total_rows: int,
        lead: int = 0,
        exact: bool = False,
    ) -> None:
        self.block_tokens = block_tokens
        self.total_rows, self.lead, self.exact = total_rows, lead, exact
        decode = sorted(
            (i for i, grant in enumerate(grants) if grant.is_decode), key=lambda i: grants[i].start
        )
        prefill = [i for i, grant in enumerate(grants) if not grant.is_decode]
        self.order = [*decode, *prefill]  # grant numbers in row order
        self.decode = [grants[i] for i in decode]
        self.prefill = [grants[i] for i in prefill]
        self.trail = total_rows - lead - sum(grant.count for grant in grants)
        self.positions = mx.array(self._positions())
        self._layers: dict[tuple[int, int | None], LayerLayout] = {}

    def first_rows(self) -> list[int]:
        """For each grant in the caller's order, its first row."""
        rows, row = [0] * len(self.order), self.lead
        for number, grant in zip(self.order, [*self.decode, *self.prefill], strict=True):
            rows[number] = row
            row += grant.count
        return rows

    def layer(self, spec: LayerSpec) -> LayerLayout:
        """The layout for a layer; made once for all layers of the same kind."""
        kind = (spec.kv_heads, spec.window_tokens)
        if kind not in self._layers:
            self._layers[kind] = LayerLayout(
                slots=mx.array(self._slots(spec.kv_heads)),
                groups=self._groups(spec),
                spans=self._spans(spec),
            )
        return self._layers[kind]

    def _positions(self) -> np.ndarray:
        parts = [np.zeros(self.lead, dtype=np.int32)]
        parts.append(np.array([grant.start for grant in self.decode], dtype=np.int32))
        parts += [np.arange(g.start, g.end, dtype=np.int32) for g in self.prefill]
        parts.append(np.zeros(self.trail, dtype=np.int32))
        return np.concatenate(parts)

    def _slots(self, kv_heads: int) -> np.ndarray:
        """Flat row in a slab of each (token row, head)."""
        size = self.block_tokens
        blocks = [grant.sequence.block_ids[grant.start // size] for grant in self.decode]
        offsets = [grant.start % size for grant in self.decode]
        block_parts = [np.full(self.lead, NULL_BLOCK), np.array(blocks, dtype=np.int64)]
        offset_parts = [np.arange(self.lead) % size, np.array(offsets, dtype=np.int64)]
        for grant in self.prefill:
            positions = np.arange(grant.start, grant.end)
            table = np.array(grant.sequence.block_ids, dtype=np.int64)
            block_parts.append(table[positions // size])
            offset_parts.append(positions % size)
        block_parts.append(np.full(self.trail, NULL_BLOCK))
        offset_parts.append(np.arange(self.trail) % size)
        block, offset = np.concatenate(block_parts), np.concatenate(offset_parts)
        heads = np.arange(kv_heads)
        flat = (block[:, None] * kv_heads + heads[None]) * size + offset[:, None]
        return flat.reshape(-1).astype(np.int32)

    def _groups(self, spec: LayerSpec) -> list[DecodeGroup]:
        size, window = self.block_tokens, spec.window_tokens
        starts = [g.start for g in self.decode]
        firsts = [0 if window is None else max(0, s - window + 1) // size for s in starts]
        counts = [s // size + 1 - f for s, f in zip(starts, firsts, strict=True)]
        runs = split_by_equality(counts) if self.exact else split_by_padding(counts)
        return [self._group(first, last, firsts, counts, spec) for first, last in runs]

    def _group(
        self, first: int, last: int, firsts: list[int], counts: list[int], spec: LayerSpec
    ) -> DecodeGroup:
        size, rows = self.block_tokens, range(first, last)
        width = max(counts[first:last])
        table = np.full((last - first, width), NULL_BLOCK, dtype=np.int32)
        for i, row in enumerate(rows):
            begin = firsts[row]
            table[i, : counts[row]] = self.decode[row].sequence.block_ids[
                begin : begin + counts[row]
            ]
        index = (
            table[:, None] * spec.kv_heads + np.arange(spec.kv_heads, dtype=np.int32)[None, :, None]
        )
        starts = np.array([self.decode[row].start for row in rows])
        begins = np.array([firsts[row] * size for row in rows])
        keys = np.arange(width * size)[None]
        seen = keys <= (starts - begins)[:, None]
        if spec.window_tokens is not None:
            seen &= keys > (starts - begins - spec.window_tokens)[:, None]
        mask = np.where(seen, np.float32(0), np.float32(-np.inf))
        return DecodeGroup(
            first + self.lead, last + self.lead, mx.array(index), mx.array(mask)[:, None, None]
        )

    def _spans(self, spec: LayerSpec) -> list[PrefillSpan]:
        spans, row = [], self.lead + len(self.decode)
        for grant in self.prefill:
            spans.append(self._span(grant, row, spec))
            row += grant.count
        return spans

    def _span(self, grant: Grant, row: int, spec: LayerSpec) -> PrefillSpan:
        size = self.block_tokens
        base = grant.start - grant.start % TILE_TOKENS
        seen_from = 0 if spec.window_tokens is None else max(0, base - spec.window_tokens + 1)
        first = seen_from // size
        tile_end = blocks_for(grant.end, TILE_TOKENS) * TILE_TOKENS
        table = np.full(blocks_for(tile_end, size) - first, NULL_BLOCK, dtype=np.int32)
        held = grant.sequence.block_ids[first : blocks_for(grant.end, size)]
        table[: len(held)] = held
        index = table[None] * spec.kv_heads + np.arange(spec.kv_heads, dtype=np.int32)[:, None]
        return PrefillSpan(row, row + grant.count, grant.start, first * size, mx.array(index)[None])


def split_by_padding(counts: list[int]) -> list[tuple[int, int]]:
    """Cut an ascending list of block counts into runs whose padding stays small: (first, last)."""
    runs: list[tuple[int, int]] = []
    first = total = 0
    for i, count in enumerate(counts):
        padding = count * (i - first + 1) - (total + count)
        if i > first and padding > PADDING_SHARE * (total + count) + PADDING_BLOCKS:
            runs.append((first, i))
            first, total = i, 0
        total += count
    if counts:
        runs.append((first, len(counts)))
    return runs


def split_by_equality(counts: list[int]) -> list[tuple[int, int]]:
    """Cut into runs of equal counts: nothing is padded, so no row's sums depend on another row.

    (A BLAS splits a long inner dimension by its length, so even padding with zeros changes bits.)
    """
    edges = [i for i in range(len(counts)) if i == 0 or counts[i] != counts[i - 1]]
    return list(zip(edges, [*edges[1:], len(counts)], strict=False))
