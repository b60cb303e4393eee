"""The plain attention over gathered blocks against numpy: any shape, window, sink and chunking."""

import itertools
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.reference import Array, attend_one
from vllm_mlx.core.tiles import TILE_TOKENS
from vllm_mlx.kernels.paged_attention import attend_decode, attend_prefill, causal_mask

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
POISON = 1e4  # in places that nobody may see


@dataclass
class Case:
    """One sequence of a layer: queries, keys and values at every position."""

    queries: Array  # [tokens, heads, key_dim]
    keys: Array  # [kv_heads, tokens, key_dim]
    values: Array  # [kv_heads, tokens, value_dim]
    sinks: Array | None
    window_tokens: int | None

    @property
    def tokens(self) -> int:
        return len(self.queries)

    @property
    def scale(self) -> float:
        return float(self.queries.shape[-1] ** -0.5)

    @property
    def mx_sinks(self) -> mx.array | None:
        return None if self.sinks is None else mx.array(self.sinks)

    def expected(self, position: int) -> Array:
        return attend_one(
            self.queries[position],
            self.keys,
            self.values,
            position,
            self.window_tokens,
            self.scale,
            self.sinks,
        )

    def padded(self, first: int, span: int) -> tuple[mx.array, mx.array]:
        """Keys and values from ``first`` on, poisoned where no token is: [1, kv_heads, ...]"""
        parts = []
        for whole in (self.keys, self.values):
            array = np.full((whole.shape[0], span, whole.shape[2]), POISON, np.float32)
            piece = whole[:, first : first + span]
            array[:, : piece.shape[1]] = piece
            parts.append(mx.array(array)[None])
        return parts[0], parts[1]


@st.composite
def cases(draw: st.DrawFn, longest: int) -> Case:
    tokens = draw(st.integers(1, longest))
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    key_dim, value_dim = draw(st.sampled_from([(8, 8), (8, 4), (16, 16)]))
    random = np.random.default_rng(draw(st.integers(0, 999)))

    def normal(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    return Case(
        queries=normal(tokens, kv_heads * group, key_dim) * 3,
        keys=normal(kv_heads, tokens, key_dim),
        values=normal(kv_heads, tokens, value_dim),
        sinks=normal(kv_heads * group) if draw(st.booleans()) else None,
        window_tokens=draw(st.none() | st.integers(1, tokens + 5)),
    )


def window_start(position: int, window_tokens: int | None, block_tokens: int) -> int:
    """The block-aligned first position that a tile at ``position`` gathers."""
    if window_tokens is None:
        return 0
    return max(0, position - window_tokens + 1) // block_tokens * block_tokens


@given(
    case=cases(200),
    cuts=st.lists(st.integers(1, 199), max_size=4),
    block_tokens=st.sampled_from([1, 16, 64]),
    fused=st.booleans(),
)
@settings(max_examples=150)
def test_prefill_in_any_chunks(case: Case, cuts: list[int], block_tokens: int, fused: bool) -> None:
    edges = [0, *sorted({cut for cut in cuts if cut < case.tokens}), case.tokens]
    for start, end in itertools.pairwise(edges):
        base = start - start % TILE_TOKENS
        first = window_start(base, case.window_tokens, block_tokens)
        keys, values = case.padded(first, -(-end // TILE_TOKENS) * TILE_TOKENS - first)
        out = attend_prefill(
            mx.array(case.queries[start:end])[:, :, None],
            keys,
            values,
            start,
            first,
            case.window_tokens,
            case.scale,
            case.mx_sinks,
            fused,
        )
        assert out.shape == (end - start, case.queries.shape[1], 1, case.values.shape[2])
        expected = np.stack([case.expected(position) for position in range(start, end)])
        np.testing.assert_allclose(np.array(out)[:, :, 0], expected, **TOLERANCE)


@given(case=cases(150), cuts=st.lists(st.integers(1, 2), max_size=2))
@settings(max_examples=15)
def test_chunks_at_tiles_change_no_bit(case: Case, cuts: list[int]) -> None:
    """What is promised to seeded requests: how a prompt is cut does not matter."""

    def run(edges: list[int]) -> Array:
        outs = []
        for start, end in itertools.pairwise(edges):
            keys, values = case.padded(0, -(-end // TILE_TOKENS) * TILE_TOKENS)
            outs.append(
                attend_prefill(
                    mx.array(case.queries[start:end])[:, :, None],
                    keys,
                    values,
                    start,
                    0,
                    case.window_tokens,
                    case.scale,
                    case.mx_sinks,
                    fused=False,
                )
            )
        return np.array(mx.concatenate(outs))

    inner = sorted({cut * TILE_TOKENS for cut in cuts if cut * TILE_TOKENS < case.tokens})
    assert np.array_equal(run([0, case.tokens]), run([0, *inner, case.tokens]))


@st.composite
def batches(draw: st.DrawFn) -> list[Case]:
    """Sequences of one layer: the same heads, dimensions, window and sinks."""
    first = draw(cases(60))
    heads, key_dim = first.queries.shape[1:]
    kv_heads, _, value_dim = first.values.shape
    random = np.random.default_rng(draw(st.integers(0, 999)))
    batch = [first]
    for tokens in draw(st.lists(st.integers(1, 60), max_size=3)):
        batch.append(
            Case(
                queries=random.normal(size=(tokens, heads, key_dim)).astype(np.float32),
                keys=random.normal(size=(kv_heads, tokens, key_dim)).astype(np.float32),
                values=random.normal(size=(kv_heads, tokens, value_dim)).astype(np.float32),
                sinks=first.sinks,
                window_tokens=first.window_tokens,
            )
        )
    return batch


@given(batch=batches(), padding=st.integers(0, 20), fused=st.booleans())
@settings(max_examples=150)
def test_decode_of_uneven_lengths(batch: list[Case], padding: int, fused: bool) -> None:
    width = max(case.tokens for case in batch) + padding
    keys, values = zip(*(case.padded(0, width) for case in batch), strict=True)
    places = np.arange(width)[None]
    last = np.array([case.tokens - 1 for case in batch])[:, None]
    seen = places <= last
    if batch[0].window_tokens is not None:
        seen &= places > last - batch[0].window_tokens
    out = attend_decode(
        mx.array(np.stack([case.queries[-1] for case in batch]))[:, :, None],
        mx.concatenate(keys),
        mx.concatenate(values),
        mx.array(np.where(seen, 0, -np.inf).astype(np.float32))[:, None, None],
        batch[0].scale,
        batch[0].mx_sinks,
        fused,
    )
    expected = np.stack([case.expected(case.tokens - 1) for case in batch])
    np.testing.assert_allclose(np.array(out)[:, :, 0], expected, **TOLERANCE)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("fused", [False, True])
def test_16_bit_stays_16_bit(dtype: mx.Dtype, fused: bool) -> None:
    queries = mx.random.normal((3, 4, 1, 8), key=mx.random.key(0)).astype(dtype)
    keys = mx.random.normal((1, 2, 64, 8), key=mx.random.key(1)).astype(dtype)
    sinks = mx.zeros((4,), dtype=dtype)
    out = attend_prefill(queries, keys, keys, 5, 0, None, 0.35, sinks, fused)
    assert out.dtype == dtype
    exact = attend_prefill(
        queries.astype(mx.float32),
        keys.astype(mx.float32),
        keys.astype(mx.float32),
        5,
        0,
        None,
        0.35,
        sinks,
        False,
    )
    assert mx.allclose(out.astype(mx.float32), exact, rtol=0.05, atol=0.05)
    mask = mx.zeros((3, 1, 1, 64))
    many = mx.broadcast_to(keys, (3, *keys.shape[1:]))
    assert attend_decode(queries, many, many, mask, 0.35, sinks, fused).dtype == dtype


@given(
    start=st.integers(0, 50),
    tokens=st.integers(1, 20),
    keys_start=st.integers(0, 50),
    span=st.integers(1, 80),
    window_tokens=st.none() | st.integers(1, 30),
)
@settings(max_examples=50)
def test_the_mask_is_its_definition(
    start: int, tokens: int, keys_start: int, span: int, window_tokens: int | None
) -> None:
    mask = np.array(causal_mask(start, tokens, keys_start, span, window_tokens))
    for i in range(tokens):
        for j in range(span):
            distance = (start + i) - (keys_start + j)
            near = window_tokens is None or distance < window_tokens
            assert mask[i, j] == (distance >= 0 and near)
