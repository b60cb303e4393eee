"""GGUF tensors under mlx-lm's names, in mlx-lm's row order, as one safetensors file."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from vllm_mlx.errors import ModelError
from vllm_mlx.model.gguf_file import GgufFile, GgufTensor
from vllm_mlx.model.gguf_quants import GROUP, bits_of, pack, to_affine
from vllm_mlx.model.safetensors_file import SafetensorsWriter, TensorInfo

CHUNK_VALUES = 1 << 22  # converted at a time: bounds memory
DENSE: Mapping[GGMLQuantizationType, tuple[str, type[np.generic]]] = {
    GGMLQuantizationType.F32: ("F32", np.float32),
    GGMLQuantizationType.F16: ("F16", np.float16),
    GGMLQuantizationType.BF16: ("BF16", np.uint16),  # numpy has no bfloat16: bits are copied
}
TOP: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BLOCK: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma has four norms a block, and llama.cpp's ffn_norm is the one before the MLP
GEMMA_NORMS: Mapping[str, str] = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
NOT_WEIGHTS = frozenset({"rope_freqs.weight"})  # read by gguf_config


@dataclass(frozen=True)
class Family:
    """What a GGUF architecture does differently from mlx-lm's model file of that name."""

    model_type: str
    architecture: str
    block_names: Mapping[str, str]
    rotary_pairs_adjacent: bool = False  # llama.cpp reorders q and k rows for its own rotation
    norms_hold_one_plus: bool = False  # norms are stored as 1 + w, mlx-lm adds the 1 itself


FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", "LlamaForCausalLM", BLOCK, rotary_pairs_adjacent=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", BLOCK),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", BLOCK),
    "gemma3": Family(
        "gemma3_text", "Gemma3ForCausalLM", {**BLOCK, **GEMMA_NORMS}, norms_hold_one_plus=True
    ),
}


def family_of(gguf: GgufFile) -> Family:
    """Raises ModelError for an architecture that is not converted."""
    family = FAMILIES.get(gguf.architecture)
    if family is None:
        raise ModelError(
            f"{gguf.path.name}: GGUF architecture '{gguf.architecture}' is not supported "
            f"(supported: {', '.join(FAMILIES)}); use the model's safetensors instead"
        )
    return family


def mlx_name(name: str, family: Family) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in family.block_names:
        return f"model.layers.{parts[1]}.{family.block_names[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in TOP:
        return f"{TOP[parts[0]]}.{parts[1]}"
    raise ModelError(f"GGUF tensor '{name}' has no place in a {family.model_type} model")


def _row_order(rows: int, heads: int) -> npt.NDArray[np.intp]:
    """Where mlx-lm's row i lies in llama.cpp's order: halves of a head against adjacent pairs."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


@dataclass(frozen=True)
class Conversion:
    """One GGUF tensor on its way: its name in mlx-lm and the order of its rows."""

    source: GgufTensor
    path: str  # without .weight or .bias
    part: str  # weight or bias
    heads: int | None  # rows are reordered within so many heads
    minus_one: bool

    @property
    def is_quantized(self) -> bool:
        return self.source.kind not in DENSE

    @property
    def bits(self) -> int:
        return bits_of(self.source.kind)

    def outputs(self) -> list[TensorInfo]:
        name, shape = f"{self.path}.{self.part}", self.source.shape
        if not self.is_quantized:
            word = "F32" if self.minus_one else DENSE[self.source.kind][0]
            return [TensorInfo(name, word, shape)]
        rows, columns = shape
        groups = (rows, columns // GROUP)
        return [
            TensorInfo(name, "U32", (rows, columns * self.bits // 32)),
            TensorInfo(f"{self.path}.scales", "F32", groups),
            TensorInfo(f"{self.path}.biases", "F32", groups),
        ]

    def convert(self, raw: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Some rows of the source, [rows, bytes per row], as the same rows of each output."""
        name = f"{self.path}.{self.part}"
        if self.is_quantized:
            affine = to_affine(raw, self.source.kind)
            return {
                name: pack(affine.quants, self.bits),
                f"{self.path}.scales": affine.scales.astype(np.float32),
                f"{self.path}.biases": affine.biases.astype(np.float32),
            }
        values: npt.NDArray[Any] = np.ascontiguousarray(raw).view(DENSE[self.source.kind][1])
        if self.minus_one:
            values = _as_float32(values) - np.float32(1)
        return {name: values}


def _as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype == np.uint16:  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def plan_conversions(gguf: GgufFile, heads: int, kv_heads: int) -> list[Conversion]:
    """What becomes of each tensor. Raises ModelError for one that has no place."""
    family = family_of(gguf)
    conversions = []
    for tensor in gguf.tensors:
        if tensor.name in NOT_WEIGHTS:
            continue
        path, _, part = mlx_name(tensor.name, family).rpartition(".")
        reordered = None
        if family.rotary_pairs_adjacent:
            reordered = {"q_proj": heads, "k_proj": kv_heads}.get(path.rpartition(".")[2])
        is_norm = path.endswith("norm")
        conversion = Conversion(
            tensor, path, part, reordered, is_norm and family.norms_hold_one_plus
        )
        if conversion.is_quantized and (
            len(tensor.shape) != 2 or tensor.shape[1] % GROUP or is_norm
        ):
            raise ModelError(f"GGUF tensor '{tensor.name}' of shape {tensor.shape} is quantized")
        conversions.append(conversion)
    return conversions


def _row_chunks(gguf: GgufFile, conversion: Conversion) -> Iterator[npt.NDArray[np.uint8]]:
    raw = gguf.raw(conversion.source)
    shape = conversion.source.shape
    if len(shape) == 1:
        # A vector is one row of the file; with heads, its elements are what is reordered
        values = np.ascontiguousarray(raw).reshape(shape[0], -1)
        if conversion.heads:
            values = values[_row_order(shape[0], conversion.heads)]
        yield values.reshape(1, -1)
        return
    order = _row_order(len(raw), conversion.heads) if conversion.heads else None
    step = max(1, CHUNK_VALUES // shape[-1])
    for start in range(0, len(raw), step):
        stop = start + step
        yield raw[start:stop] if order is None else raw[order[start:stop]]


def planned_bytes(conversions: list[Conversion]) -> int:
    """Bytes of tensor data that ``write_weights`` will write."""
    return sum(info.nbytes for c in conversions for info in c.outputs())


def write_weights(
    file: BinaryIO,
    gguf: GgufFile,
    conversions: list[Conversion],
    on_bytes: Callable[[int], None],
) -> None:
    """Write the safetensors file; ``on_bytes`` is told how many source bytes were done."""
    infos = [info for conversion in conversions for info in conversion.outputs()]
    writer = SafetensorsWriter(file, infos)
    for conversion in conversions:
        for rows in _row_chunks(gguf, conversion):
            for name, values in conversion.convert(rows).items():
                writer.append(name, values)
            on_bytes(rows.nbytes)


def quantization_config(conversions: list[Conversion]) -> dict[str, Any]:
    """mlx-lm's ``quantization``: the commonest width as the default, the others by path."""
    packed = {c.path: c.bits for c in conversions if c.is_quantized}
    if not packed:
        return {}
    sizes: dict[int, int] = {}
    for c in conversions:
        if c.is_quantized:
            sizes[c.bits] = sizes.get(c.bits, 0) + math.prod(c.source.shape)
    usual = max(sizes, key=lambda bits: sizes[bits])
    settings = {"group_size": GROUP, "bits": usual, "mode": "affine"}
    others = {path: {**settings, "bits": bits} for path, bits in packed.items() if bits != usual}
    return {"quantization": settings | others}
