"""How many rows a product should have: for speed, and for results that do not depend on company.

A BLAS computes a product in tiles of rows, adds in another order at its edges, and cuts the rows
among threads by their number. A row's bits therefore depend on how many rows come with it, and on
its place among them. Sequences that ask to be reproducible are computed in products of one fixed
number of rows whose places are all alike; which number that is gets measured, not assumed.
"""

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from msgspec import Struct

from vllm_mlx.core.tiles import TILE_TOKENS

CANDIDATES = (8, 16, 12, 6, 4, 2, 1)  # in order of preference: fewer calls first, then cheaper


class RowPadding(Struct, frozen=True):
    """``decode_rows``: rows of a reproducible product; None where the backend has no such number.

    A prefill token of a reproducible sequence sits at place ``position % prefill_rows`` of a
    product of ``prefill_rows``, so its bits are a function of its position alone.
    """

    cheap_multiple: int = 1
    decode_rows: int | None = None
    prefill_rows: int = TILE_TOKENS

    def cheap(self, rows: int) -> int:
        """Rows to compute where only speed counts: part of a tile costs as much as all of it."""
        return -(-rows // self.cheap_multiple) * self.cheap_multiple if rows < 12 else rows


def product_weights(model: Module) -> list[mx.array]:
    """A matrix [outer, inner] of each shape that the model multiplies by, as it is stored."""
    flat: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    return list({weight.shape: weight for _, weight in flat if weight.ndim == 2}.values())


def measure_padding(dtype: mx.Dtype, weights: list[mx.array]) -> RowPadding:
    """Find out how this backend's products by the transposed ``weights`` treat rows.

    On GPUs and in 16 bit nothing is padded, and reproducibility is what the hardware gives.
    """
    if mx.default_device().type != mx.DeviceType.cpu or dtype != mx.float32:
        return RowPadding()
    alike = (rows for rows in CANDIDATES if _places_are_alike(rows, weights))
    return RowPadding(cheap_multiple=4, decode_rows=next(alike, None))


def _places_are_alike(rows: int, weights: list[mx.array]) -> bool:
    """Whether equal rows give equal bits at every place of a product of ``rows`` rows."""
    for number, weight in enumerate(weights):
        row = mx.random.normal((1, 1, weight.shape[1]), key=mx.random.key(number))
        product = mx.contiguous(mx.broadcast_to(row, (rows, *row.shape[1:]))) @ weight.T
        if not mx.array_equal(product, mx.broadcast_to(product[:1], product.shape)).item():
            return False
    return True
