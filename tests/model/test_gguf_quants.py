"""Blocks of GGUF against the gguf package, and packing against MLX."""

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from tests.model.gguf_files import FACTORS, random_blocks
from vllm_mlx.errors import ModelError
from vllm_mlx.model.gguf_quants import EXACT, bits_of, pack, to_affine

WRITABLE = [kind for kind in EXACT if kind not in FACTORS]
REPACKED = [kind for kind in FACTORS if kind not in EXACT]


def blocks(kind: Kind, rows: int = 5, columns: int = 512) -> np.ndarray:
    if kind in FACTORS:
        return random_blocks(kind, rows, columns)
    values = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    return quantize(values, kind)


def read_back(raw: np.ndarray, kind: Kind) -> np.ndarray:
    """Through MLX, as a loaded model would."""
    affine, bits = to_affine(raw, kind), bits_of(kind)
    packed = mx.array(pack(affine.quants, bits))
    scales, biases = mx.array(affine.scales), mx.array(affine.biases)
    return np.array(mx.dequantize(packed, scales, biases, group_size=32, bits=bits))


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
def test_common_quantizations_keep_their_values(kind: Kind) -> None:
    raw = blocks(kind)
    expected = dequantize(raw, kind)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(read_back(raw, kind), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("kind", REPACKED, ids=lambda kind: kind.name)
def test_the_others_are_within_half_an_8_bit_step(kind: Kind) -> None:
    raw = blocks(kind)
    expected = dequantize(raw, kind)
    groups = expected.reshape(len(expected), -1, 32)
    step = (groups.max(-1) - groups.min(-1)) / 255
    error = np.abs(read_back(raw, kind).reshape(groups.shape) - groups).max(-1)
    assert (error <= step * 0.51).all()


def test_a_constant_group_is_repacked_exactly() -> None:
    raw = random_blocks(Kind.Q6_K, 1, 256)
    raw[:, 192:208] = 0  # all sixteen scales
    assert (read_back(raw, Kind.Q6_K) == 0).all()


def test_a_type_that_nobody_can_read_is_named() -> None:
    with pytest.raises(ModelError, match="Q8_1 is not supported"):
        to_affine(np.zeros((1, 36), np.uint8), Kind.Q8_1)


@given(st.sampled_from([4, 5, 8]), st.integers(1, 4), st.integers(1, 4), st.randoms())
def test_packing_is_that_of_mlx(bits: int, rows: int, groups: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    quants = rng.integers(0, 2**bits, (rows, groups * 32), dtype=np.uint8)
    ones = mx.ones((rows, groups))
    read = mx.dequantize(
        mx.array(pack(quants, bits)), ones, mx.zeros_like(ones), group_size=32, bits=bits
    )
    assert (np.array(read) == quants).all()
