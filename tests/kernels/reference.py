"""Attention written out in numpy, one query at a time, in float64."""

import numpy as np

Array = np.ndarray


def attend_one(
    query: Array,
    keys: Array,
    values: Array,
    position: int,
    window_tokens: int | None,
    scale: float,
    sinks: Array | None,
) -> Array:
    """``query`` [heads, key_dim] at ``position``; ``keys`` [kv_heads, tokens, key_dim] and
    ``values`` [kv_heads, tokens, value_dim] from position 0 on -> [heads, value_dim]."""
    heads, kv_heads = query.shape[0], keys.shape[0]
    first = 0 if window_tokens is None else max(0, position - window_tokens + 1)
    out = []
    for head in range(heads):
        kv_head = head // (heads // kv_heads)
        scores = keys[kv_head, first : position + 1].astype(np.float64) @ query[head] * scale
        sink = -np.inf if sinks is None else float(sinks[head])
        top = max(scores.max(), sink)
        weights = np.exp(scores - top)
        total = weights.sum() + np.exp(sink - top)
        out.append((weights / total) @ values[kv_head, first : position + 1])
    return np.stack(out)
