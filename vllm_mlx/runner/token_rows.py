"""The token-row runner: a step is one forward call of shape [tokens, 1] over the paged pool.

Every token - of a decoding sequence or of a prefill chunk - is its own batch row of length 1, so
linear layers read the weights once for all of them and nothing is padded to a rectangle. Which
models may run like this is decided by ``probe.py``, not here.
"""

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from msgspec import Struct

from vllm_mlx.cache.slabs import KvSlabs, LayerSpec
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.runner.base import Grant, Unread
from vllm_mlx.runner.layer_cache import PagedLayerCache
from vllm_mlx.runner.row_padding import RowPadding
from vllm_mlx.runner.step_layout import StepLayout


class RowSelector(Module):
    """Stands for the body of a model and passes only the chosen rows on to its head.

    The head (``lm_head`` or the tied embedding) is the largest product of a step, and only rows
    that are sampled need it. Everything else of the body is reached through it unchanged.
    """

    def __init__(self, body: Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.body = body
        self._rows: mx.array | None = None

    def select(self, rows: mx.array | None) -> None:
        self._rows = rows

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = self.body(*args, **kwargs)
        return hidden if self._rows is None else hidden[self._rows]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("body"), name)


class TokenRowsRunner:
    """Runs an attention model over block-pool caches; see ``runner.base.GenerationRunner``."""

    def __init__(
        self,
        model: Module,
        layers: list[LayerSpec],
        block_tokens: int,
        capacity_blocks: int,
        padding: RowPadding,
        fused: bool,
    ) -> None:
        self._model = model
        self._slabs = KvSlabs(layers, block_tokens)
        self._caches = [PagedLayerCache(i, self._slabs, fused) for i in range(len(layers))]
        self._capacity_blocks = capacity_blocks
        self._padding = padding
        self._selector = self._wrap_body(model)

    def forward(self, grants: list[Grant], unread: Unread | None) -> mx.array:
        highest = max(max(grant.sequence.block_ids) for grant in grants)
        self._slabs.ensure(highest + 1, self._capacity_blocks)
        parts = self._split(grants)
        if len(parts) == 1:
            return self._run(parts[0], unread)
        pieces = [self._run(part, unread) for part in parts]
        return _in_order(grants, parts, pieces)

    def _split(self, grants: list[Grant]) -> list["Part"]:
        """One part for all, and parts of fixed shape for sequences that must be reproducible."""
        rows = self._padding.decode_rows
        exact = [g for g in grants if rows is not None and g.sequence.is_reproducible]
        if rows is None or not exact:
            return [self._part(grants)]
        decode = [g for g in exact if g.is_decode]
        parts = [
            Part(grants=decode[i : i + rows], total_rows=rows, exact=True)
            for i in range(0, len(decode), rows)
        ]
        for grant in exact:
            if not grant.is_decode:
                parts += _tiles_of(grant, self._padding.prefill_rows)
        rest = [g for g in grants if not g.sequence.is_reproducible]
        return [*([self._part(rest)] if rest else []), *parts]

    def _part(self, grants: list[Grant]) -> "Part":
        return Part(grants=grants, total_rows=self._padding.cheap(sum(g.count for g in grants)))

    def _run(self, part: "Part", unread: Unread | None) -> mx.array:
        """One forward call: logits of the part's rows, in the order of its grants."""
        layout = StepLayout(
            part.grants, self._slabs.block_tokens, part.total_rows, part.lead, part.exact
        )
        for cache in self._caches:
            cache.begin(layout)
        exact_rows = self._padding.decode_rows if part.exact else None
        return self._logits(_inputs(layout, unread), _logit_rows(part.grants, layout), exact_rows)

    def state(self) -> list[mx.array]:
        return [*self._slabs.keys, *self._slabs.values]

    def release_model(self) -> None:
        """Give the model its own body back."""
        if self._selector is not None:
            self._model.model = self._selector.body

    def forget(self, sequence: Sequence) -> None:
        """Everything is in the block pool."""

    def reset(self) -> None:
        self._slabs.reset()

    def scrub(self, block_ids: list[int]) -> None:
        self._slabs.scrub([block for block in block_ids if block < self._slabs.extent_blocks])

    def trim(self, extent_blocks: int) -> None:
        if self._slabs.shrink(extent_blocks):
            mx.clear_cache()

    @property
    def allocated_bytes(self) -> int:
        return self._slabs.allocated_bytes

    @staticmethod
    def _wrap_body(model: Module) -> RowSelector | None:
        body = getattr(model, "model", None)
        if not isinstance(body, Module):
            return None
        if isinstance(body, RowSelector):
            return body
        selector = RowSelector(body)
        model.model = selector
        return selector

    def _logits(self, inputs: mx.array, rows: list[int], exact_rows: int | None) -> mx.array:
        """Logits of ``rows``, padded for the head as the inputs are for the body."""
        if self._selector is None:
            everything: mx.array = self._model(inputs, cache=self._caches)
            return everything[:, 0][mx.array(rows, dtype=mx.int32)]
        if exact_rows is None:
            total = self._padding.cheap(len(rows))
        else:
            total = -(-len(rows) // exact_rows) * exact_rows
        chosen = rows + [0] * (max(total, 1) - len(rows))
        every = chosen == list(range(inputs.shape[0]))
        self._selector.select(None if every else mx.array(chosen))
        try:
            logits: mx.array = self._model(inputs, cache=self._caches)
        finally:
            self._selector.select(None)
        return logits[: len(rows), 0]


class Part(Struct, frozen=True):
    """The grants of one forward call and the rows it is padded to, ``lead`` of them in front."""

    grants: list[Grant]
    total_rows: int
    lead: int = 0
    exact: bool = False


def _tiles_of(grant: Grant, tile_rows: int) -> list[Part]:
    """A prefill grant cut at multiples of ``tile_rows``, each token at its place in the tile."""
    edges = [grant.start, *range((grant.start // tile_rows + 1) * tile_rows, grant.end, tile_rows)]
    parts = []
    for start, end in zip(edges, [*edges[1:], grant.end], strict=True):
        piece = Grant(
            sequence=grant.sequence,
            start=start,
            count=end - start,
            samples=grant.samples and end == grant.end,
            scores=grant.scores,
        )
        parts.append(Part([piece], total_rows=tile_rows, lead=start % tile_rows, exact=True))
    return parts


def _in_order(grants: list[Grant], parts: list[Part], pieces: list[mx.array]) -> mx.array:
    """Logits of all parts, rearranged from the parts' order to the grants'."""
    places: dict[int, list[int]] = {grant.sequence.number: [] for grant in grants}
    row = 0
    for part in parts:
        for grant in part.grants:
            places[grant.sequence.number] += range(row, row + grant.num_logits)
            row += grant.num_logits
    logits = mx.concatenate([piece for piece in pieces if piece.shape[0]] or pieces[:1])
    order = [place for grant in grants for place in places[grant.sequence.number]]
    return logits if order == list(range(row)) else logits[mx.array(order)]


def _inputs(layout: StepLayout, unread: Unread | None) -> mx.array:
    """Token ids [rows, 1]."""
    parts = [mx.zeros((layout.lead,), dtype=mx.int32)] if layout.lead else []
    if layout.decode:
        parts.append(_decode_inputs(layout.decode, unread))
    rest = [token for g in layout.prefill for token in g.sequence.tokens_between(g.start, g.end)]
    rest += [0] * layout.trail
    if rest:
        parts.append(mx.array(rest, dtype=mx.int32))
    ids = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    return ids[:, None]


def _decode_inputs(decode: list[Grant], unread: Unread | None) -> mx.array:
    """The last token of each decoding sequence, from the device where it has not been read."""
    if unread is None or not any(g.sequence.has_unread_token for g in decode):
        return mx.array([g.sequence.token_at(g.start) for g in decode], dtype=mx.int32)
    size = unread.tokens.shape[0]
    known = [g.sequence.token_at(g.start) for g in decode if not g.sequence.has_unread_token]
    places, next_known = [], size
    for grant in decode:
        if grant.sequence.has_unread_token:
            places.append(unread.index[grant.sequence.number])
        else:
            places.append(next_known)
            next_known += 1
    if not known and places == list(range(size)):
        return unread.tokens
    source = unread.tokens
    if known:
        source = mx.concatenate([source, mx.array(known, dtype=mx.int32)])
    return source[mx.array(places)]


def _logit_rows(grants: list[Grant], layout: StepLayout) -> list[int]:
    """Rows whose logits are wanted, in the grants' order."""
    rows: list[int] = []
    for grant, first in zip(grants, layout.first_rows(), strict=True):
        if grant.scores:
            rows.extend(range(first, first + grant.count))
        elif grant.samples:
            rows.append(first + grant.count - 1)
    return rows
