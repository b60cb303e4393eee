"""How many rows a product should have: for speed, and for results that do not depend on company.

A BLAS computes a product in tiles of rows, adds in another order at its edges, and cuts the rows
among threads by their number. A row's bits therefore depend on how many rows come with it, and on
its place among them. Sequences that ask to be reproducible are computed in products of one fixed
number of rows whose places are all alike; which number that is gets measured, not assumed.
"""

import mlx.core as mx
from msgspec import Struct

from vllm_mlx.core.tiles import TILE_TOKENS

CANDIDATES = (8, 16, 12, 6, 4, 2, 1)  # in order of preference: fewer calls first, then cheaper
SHAPES = ((64, 64), (64, 192), (576, 192), (576, 1536), (1536, 576), (576, 4096))  # inner, outer


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


def measure_padding(dtype: mx.Dtype) -> RowPadding:
    """Find out how this backend's products treat rows.

    On GPUs and in 16 bit nothing is padded, and reproducibility is what the hardware gives.
    """
    if mx.default_device().type != mx.DeviceType.cpu or dtype != mx.float32:
        return RowPadding()
    return RowPadding(
        cheap_multiple=4, decode_rows=next((n for n in CANDIDATES if _places_are_alike(n)), None)
    )


def _places_are_alike(rows: int) -> bool:
    """Whether equal rows give equal bits at every place of a product of ``rows`` rows."""
    for number, (inner, outer) in enumerate(SHAPES):
        key_a, key_b = mx.random.split(mx.random.key(number))
        row = mx.random.normal((1, 1, inner), key=key_a)
        same = mx.contiguous(mx.broadcast_to(row, (rows, 1, inner)))
        # stored by input, as the weights of a model on a CPU are (model/load.py)
        product = same @ mx.random.normal((inner, outer), key=key_b)
        if not mx.array_equal(product, mx.broadcast_to(product[:1], product.shape)).item():
            return False
    return True
