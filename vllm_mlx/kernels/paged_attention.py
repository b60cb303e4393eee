"""Attention of token rows over gathered blocks, in plain MLX: the twin of every later kernel.

Two ways to compute the same: ``fused`` hands the gathered keys and values to
``mx.fast.scaled_dot_product_attention``; otherwise the products are written out, which is faster on
a CPU, where MLX has no fused kernel. Softmax is computed in float32 either way.
"""

import itertools

import mlx.core as mx

from vllm_mlx.core.tiles import TILE_TOKENS


def attend_decode(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    mask: mx.array,
    scale: float,
    sinks: mx.array | None,
    fused: bool,
) -> mx.array:
    """One query per sequence.

    ``queries`` [n, heads, 1, key_dim]; ``keys`` [n, kv_heads, tokens, key_dim]; ``values``
    [n, kv_heads, tokens, value_dim]; ``mask`` [n, 1, 1, tokens], added to the scores;
    ``sinks`` [heads] or None. Returns [n, heads, 1, value_dim].
    """
    if fused:
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask.astype(queries.dtype), sinks=sinks
        )
    n, heads = queries.shape[:2]
    kv_heads = keys.shape[1]
    grouped = (queries * scale).reshape(n, kv_heads, heads // kv_heads, -1)
    scores = grouped @ keys.swapaxes(-1, -2) + mask.astype(queries.dtype)
    out = _softmax(scores, sinks, (1, kv_heads, heads // kv_heads, 1)) @ values
    return out.reshape(n, heads, 1, -1)


def attend_prefill(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    start: int,
    keys_start: int,
    window_tokens: int | None,
    scale: float,
    sinks: mx.array | None,
    fused: bool,
) -> mx.array:
    """Several consecutive queries of one sequence, causal.

    ``queries`` [tokens, heads, 1, key_dim], the first at position ``start``; ``keys``
    [1, kv_heads, span, key_dim] and ``values`` [1, kv_heads, span, value_dim] from position
    ``keys_start`` on. Returns [tokens, heads, 1, value_dim].
    """
    tokens, heads = queries.shape[:2]
    if fused:
        end = start + tokens - keys_start
        mask: str | mx.array = "causal"  # aligned to the last key, as the queries are
        if window_tokens is not None and end > window_tokens:
            mask = causal_mask(start, tokens, keys_start, end, window_tokens)
        out = mx.fast.scaled_dot_product_attention(
            queries.transpose(2, 1, 0, 3),
            keys[:, :, :end],
            values[:, :, :end],
            scale=scale,
            mask=mask,
            sinks=sinks,
        )
        return out.transpose(2, 1, 0, 3)
    kv_heads = keys.shape[1]
    grouped = (queries * scale).reshape(tokens, kv_heads, heads // kv_heads, -1)
    tiles = [
        _attend_tile(
            grouped[a - start : b - start], keys, values, a, keys_start, window_tokens, sinks
        )
        for a, b in _tiles(start, start + tokens)
    ]
    out = tiles[0] if len(tiles) == 1 else mx.concatenate(tiles)
    return out.reshape(tokens, heads, 1, -1)


def causal_mask(
    start: int, tokens: int, keys_start: int, span: int, window_tokens: int | None
) -> mx.array:
    """Whether the query at ``start + i`` may see the key at ``keys_start + j``: [tokens, span]."""
    query = mx.arange(start, start + tokens)[:, None]
    key = mx.arange(keys_start, keys_start + span)[None]
    seen = query >= key
    if window_tokens is not None:
        seen = seen & (query < key + window_tokens)
    return seen


def _tiles(start: int, end: int) -> list[tuple[int, int]]:
    edges = [start, *range((start // TILE_TOKENS + 1) * TILE_TOKENS, end, TILE_TOKENS), end]
    return list(itertools.pairwise(edges))


def _attend_tile(
    grouped: mx.array,
    keys: mx.array,
    values: mx.array,
    start: int,
    keys_start: int,
    window_tokens: int | None,
    sinks: mx.array | None,
) -> mx.array:
    """``grouped`` [tokens, kv_heads, group, key_dim] -> [tokens, kv_heads, group, value_dim]."""
    tokens, kv_heads, group, key_dim = grouped.shape
    # whole tiles of keys: their number depends on the position alone, not on the chunk
    base = start - start % TILE_TOKENS
    first = 0 if window_tokens is None else max(0, base - window_tokens + 1 - keys_start)
    span = slice(first, min(base + TILE_TOKENS - keys_start, keys.shape[2]))
    tile_keys, tile_values = keys[0, :, span], values[0, :, span]
    query = grouped.transpose(1, 2, 0, 3).reshape(kv_heads, group * tokens, key_dim)
    scores = (query @ tile_keys.swapaxes(-1, -2)).reshape(kv_heads, group, tokens, -1)
    mask = causal_mask(start, tokens, keys_start + first, scores.shape[-1], window_tokens)
    scores = mx.where(mask, scores, mx.array(-mx.inf, dtype=scores.dtype))
    weights = _softmax(scores, sinks, (kv_heads, group, 1, 1))
    out = weights.reshape(kv_heads, group * tokens, -1) @ tile_values
    return out.reshape(kv_heads, group, tokens, -1).transpose(2, 0, 1, 3)


def _softmax(scores: mx.array, sinks: mx.array | None, sink_shape: tuple[int, ...]) -> mx.array:
    """Softmax over the last axis; a sink is one more logit that takes weight and gives nothing."""
    if sinks is None:
        return mx.softmax(scores, axis=-1, precise=True)
    column = mx.broadcast_to(
        sinks.astype(scores.dtype).reshape(sink_shape), (*scores.shape[:-1], 1)
    )
    return mx.softmax(mx.concatenate([column, scores], axis=-1), axis=-1, precise=True)[..., 1:]
