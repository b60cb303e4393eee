"""The seam: mlx-lm models call our caches for attention. The only patch of another package.

Every mlx-lm model file calls ``scaled_dot_product_attention`` from ``mlx_lm.models.base``.
Importing this module replaces it by a dispatcher: a cache object that has ``attend`` computes its
own attention, any other cache gets the original function. Model files bind the name when they are
imported, so this module is imported before them; those that came earlier are rebound.
"""

import sys
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.models import base


class AttendingCache(Protocol):
    """A layer cache that owns its keys and values."""

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Attention of ``queries`` [rows, heads, 1, head_dim]; same shape out."""
        ...


_original = base.scaled_dot_product_attention


def dispatch_attention(
    queries: mx.array,
    keys: Any,
    values: Any,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    """Same arguments and result as the function it stands for."""
    attend = getattr(cache, "attend", None)
    if attend is None:
        return _original(queries, keys, values, cache, scale=scale, mask=mask, sinks=sinks)
    result: mx.array = attend(queries, scale, sinks)
    return result


def install() -> None:
    """Put the dispatcher in place; calling it again changes nothing."""
    base.scaled_dot_product_attention = dispatch_attention
    for name, module in list(sys.modules.items()):
        if (
            name.startswith("mlx_lm.models.")
            and getattr(module, "scaled_dot_product_attention", None) is _original
        ):
            module.scaled_dot_product_attention = dispatch_attention  # type: ignore[attr-defined]


install()
