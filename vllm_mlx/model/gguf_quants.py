"""GGUF's quantized blocks as MLX's affine form: packed integers, a scale and a bias per 32 values.

Types whose blocks are ``scale * q + bias`` over 32 values keep their integers bit for bit; of
the others (groups of 16, code books) the values are computed and packed again with 8 bits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from vllm_mlx.errors import ModelError

GROUP = 32  # values that share a scale
Kind = GGMLQuantizationType
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Affine:
    """``value = scales * quants + biases``: [rows, columns] and twice [rows, columns / 32]."""

    quants: Bytes
    scales: Floats
    biases: Floats


def _halves(blocks: Bytes) -> Floats:
    """Float16 numbers stored in the last axis."""
    return np.ascontiguousarray(blocks).view(np.float16).astype(np.float32)


def _blocks(raw: Bytes, block_bytes: int) -> Bytes:
    """[rows, bytes] -> [rows, blocks, block_bytes]"""
    return raw.reshape(raw.shape[0], -1, block_bytes)


def _nibbles(packed: Bytes) -> Bytes:
    """[..., 16] -> [..., 32]: low halves first, as ggml orders a block."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _rows(quants: Bytes) -> Bytes:
    return quants.reshape(quants.shape[0], -1)


def _q4_0(raw: Bytes) -> Affine:
    blocks = _blocks(raw, 18)
    scales = _halves(blocks[..., :2])[..., 0]
    return Affine(_rows(_nibbles(blocks[..., 2:])), scales, -8 * scales)


def _q4_1(raw: Bytes) -> Affine:
    blocks = _blocks(raw, 20)
    head = _halves(blocks[..., :4])
    return Affine(_rows(_nibbles(blocks[..., 4:])), head[..., 0], head[..., 1])


def _fifth_bits(packed: Bytes) -> Bytes:
    """[..., 4] -> [..., 32]: bit i of the word belongs to value i."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _q5_0(raw: Bytes) -> Affine:
    blocks = _blocks(raw, 22)
    scales = _halves(blocks[..., :2])[..., 0]
    quants = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return Affine(_rows(quants), scales, -16 * scales)


def _q5_1(raw: Bytes) -> Affine:
    blocks = _blocks(raw, 24)
    head = _halves(blocks[..., :4])
    quants = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return Affine(_rows(quants), head[..., 0], head[..., 1])


def _q8_0(raw: Bytes) -> Affine:
    blocks = _blocks(raw, 34)
    scales = _halves(blocks[..., :2])[..., 0]
    # two's complement to offset binary: -128 -> 0
    return Affine(_rows(blocks[..., 2:] ^ np.uint8(0x80)), scales, -128 * scales)


def _k_scales(head: Bytes) -> tuple[Floats, Floats]:
    """8 scales and 8 minima of a K super-block. head: [..., 16] = d, dmin, 12 packed bytes."""
    factors = _halves(head[..., :4])
    low, mid, high = head[..., 4:8], head[..., 8:12], head[..., 12:16]
    scales = np.concatenate([low & 0x3F, (high & 0x0F) | ((low >> 2) & 0x30)], axis=-1)
    minima = np.concatenate([mid & 0x3F, (high >> 4) | ((mid >> 2) & 0x30)], axis=-1)
    return factors[..., :1] * scales, -(factors[..., 1:2] * minima)


def _k_nibbles(packed: Bytes) -> Bytes:
    """[..., 128] -> [..., 256]: per 32 bytes first all low halves, then all high ones."""
    groups = packed.reshape(*packed.shape[:-1], 4, 32)
    return np.stack([groups & 0x0F, groups >> 4], axis=-2).reshape(*packed.shape[:-1], 256)


def _q4_k(raw: Bytes) -> Affine:
    blocks = _blocks(raw, 144)
    scales, biases = _k_scales(blocks[..., :16])
    rows = len(raw)
    return Affine(
        _rows(_k_nibbles(blocks[..., 16:])), scales.reshape(rows, -1), biases.reshape(rows, -1)
    )


def _q5_k(raw: Bytes) -> Affine:
    blocks = _blocks(raw, 176)
    scales, biases = _k_scales(blocks[..., :16])
    # bit g of byte i is the fifth bit of value i in group g
    bits = np.unpackbits(blocks[..., 16:48, None], axis=-1, bitorder="little")
    fifth = np.swapaxes(bits, -1, -2).reshape(*blocks.shape[:-1], 256) << np.uint8(4)
    rows = len(raw)
    return Affine(
        _rows(_k_nibbles(blocks[..., 48:]) | fifth),
        scales.reshape(rows, -1),
        biases.reshape(rows, -1),
    )


EXACT: Mapping[Kind, tuple[int, Callable[[Bytes], Affine]]] = {
    Kind.Q4_0: (4, _q4_0),
    Kind.Q4_1: (4, _q4_1),
    Kind.Q5_0: (5, _q5_0),
    Kind.Q5_1: (5, _q5_1),
    Kind.Q8_0: (8, _q8_0),
    Kind.Q4_K: (4, _q4_k),
    Kind.Q5_K: (5, _q5_k),
}
REPACKED_BITS = 8


def bits_of(kind: Kind) -> int:
    """Bits a value of this GGUF type takes in the affine form."""
    return EXACT[kind][0] if kind in EXACT else REPACKED_BITS


def _repack(raw: Bytes, kind: Kind) -> Affine:
    try:
        values = dequantize(raw, kind).astype(np.float32)
    except (NotImplementedError, KeyError) as error:
        raise ModelError(f"GGUF quantization {kind.name} is not supported") from error
    groups = values.reshape(len(values), -1, GROUP)
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    scales = (high - low) / 255
    steps = np.where(scales > 0, scales, 1)[..., None]
    quants = np.rint((groups - low[..., None]) / steps).clip(0, 255).astype(np.uint8)
    return Affine(_rows(quants), scales, low)


def to_affine(raw: Bytes, kind: Kind) -> Affine:
    """The affine form of whole rows of blocks, [rows, bytes per row]. Raises ModelError."""
    return EXACT[kind][1](raw) if kind in EXACT else _repack(raw, kind)


def pack(quants: Bytes, bits: int) -> npt.NDArray[np.uint32]:
    """MLX's packing: value i takes bits ``i * bits`` and up of the row, little endian."""
    rows, columns = quants.shape
    if bits == 8:
        packed = quants
    elif bits == 4:
        packed = quants[:, 0::2] | (quants[:, 1::2] << np.uint8(4))
    else:
        eights = quants.reshape(rows, -1, 8).astype(np.uint64)
        words = np.zeros(eights.shape[:2], np.uint64)
        for i in range(8):
            words |= eights[..., i] << np.uint64(i * bits)
        packed = words.astype("<u8").view(np.uint8).reshape(rows, -1, 8)[..., :bits]
    return np.ascontiguousarray(packed).reshape(rows, columns * bits // 8).view("<u4")
