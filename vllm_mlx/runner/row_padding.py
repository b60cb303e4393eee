"""How many rows a product should have: for speed, and for results that do not depend on company.

A BLAS computes a product in tiles of rows, adds in another order at its edges, and cuts the rows
among threads by their number. A row's bits therefore depend on how many rows come with it, and on
its place among them. Sequences that ask to be reproducible are computed in products of one fixed
number of rows whose places are all alike; which number that is gets measured, not assumed.
"""

import time
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from msgspec import Struct

from vllm_mlx.core.tiles import TILE_TOKENS

LONGEST_PADDED = 32  # rows; more fill the tiles anyway
LARGEST_TIMED = 1 << 23  # numbers in a weight; an embedding would take too long
REPEATS = 5
WORTH = 0.93  # padding must save so much, or the timing may be noise
CANDIDATES = (8, 16, 12, 6, 4, 2, 1)  # in order of preference: fewer calls first, then cheaper


class RowPadding(Struct, frozen=True):
    """``decode_rows``: rows of a reproducible product; None where the backend has no such number.

    A prefill token of a reproducible sequence sits at place ``position % prefill_rows`` of a
    product of ``prefill_rows``, so its bits are a function of its position alone. ``most_rows``:
    what one call can have on this backend (``probe.most_rows``); None for any number.
    """

    cheaper: tuple[int, ...] = ()  # for 1, 2, ... rows: how many to compute
    decode_rows: int | None = None
    prefill_rows: int = TILE_TOKENS
    most_rows: int | None = None

    def cheap(self, rows: int) -> int:
        """Rows to compute where only speed counts; never fewer than ``rows``."""
        return self.cheaper[rows - 1] if 0 < rows <= len(self.cheaper) else rows


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
    return RowPadding(cheaper=_cheaper_rows(weights), decode_rows=next(alike, None))


def _cheaper_rows(weights: list[mx.array]) -> tuple[int, ...]:
    """For each small number of rows, the number from it on that takes the least time here.

    How many rows fill a tile, and from how many on threads share the work well, differs from one
    BLAS and number of threads to another: twice as many rows can take half the time.
    """
    sizes = [weight.size for weight in weights]
    timed = [w for w in weights if w.size <= LARGEST_TIMED or w.size == min(sizes)]
    if not timed:
        return ()
    seconds = [_fastest(rows, timed) for rows in range(1, LONGEST_PADDED + 1)]
    chosen = []
    for rows in range(1, LONGEST_PADDED + 1):
        best = min(range(rows, LONGEST_PADDED + 1), key=lambda other: seconds[other - 1])
        chosen.append(best if seconds[best - 1] < WORTH * seconds[rows - 1] else rows)
    return tuple(chosen)


def _fastest(rows: int, weights: list[mx.array]) -> float:
    """Seconds of one product by each of ``weights``: the fastest of some, since others disturb."""
    inputs = [mx.zeros((rows, 1, weight.shape[1])) for weight in weights]
    mx.eval(inputs)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        mx.eval([x @ weight.T for x, weight in zip(inputs, weights, strict=True)])
        times.append(time.perf_counter() - started)
    return min(times)


def _places_are_alike(rows: int, weights: list[mx.array]) -> bool:
    """Whether equal rows give equal bits at every place of a product of ``rows`` rows."""
    for number, weight in enumerate(weights):
        row = mx.random.normal((1, 1, weight.shape[1]), key=mx.random.key(number))
        product = mx.contiguous(mx.broadcast_to(row, (rows, *row.shape[1:]))) @ weight.T
        if not mx.array_equal(product, mx.broadcast_to(product[:1], product.shape)).item():
            return False
    return True
