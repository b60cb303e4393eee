"""What a folder holds and what running it takes, without loading weights."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from vllm_mlx.errors import ModelError
from vllm_mlx.model.cache_folder import is_whole, read_manifest
from vllm_mlx.model.capabilities import Capabilities, read_capabilities, text_value
from vllm_mlx.model.codec import HuggingFaceCodec
from vllm_mlx.model.load import end_token_ids, load_tokenizer, read_json
from vllm_mlx.model.resolve import checked_folder
from vllm_mlx.model.safetensors_file import TensorInfo, read_header

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
DTYPE_WORDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
PACKED_PARTS = ("scales", "biases", "zeros", "qzeros", "g_idx")
LINEAR_LAYERS = frozenset({"linear_attention", "mamba", "conv", "recurrent"})
SHARD = re.compile(r"model.*\.safetensors")


class Weights(NamedTuple):
    """``parameters`` counts packed weights as the values they stand for."""

    parameters: int
    bytes_on_disk: int
    dtype: str  # of the floating weights, by share
    bits_per_parameter: float
    packed: str  # "" where nothing is quantized


class Inspection(NamedTuple):
    """``kv_bytes_per_token`` is for ``run_dtype`` and counts layers that keep all positions."""

    folder: Path
    capabilities: Capabilities
    weights: Weights
    eos_token_ids: tuple[int, ...]
    run_dtype: str
    run_bytes: int  # weights in memory
    kv_bytes_per_token: int
    is_runnable: bool  # the installed mlx-lm has this model_type
    is_whole: bool | None  # None: not one of our conversions, so no checksums


def read_weights(folder: Path, config: dict[str, Any]) -> Weights:
    """Sizes from the headers of the weight files. Raises ModelError if one is damaged."""
    files = [path for path in sorted(folder.iterdir()) if SHARD.fullmatch(path.name)]
    if not files:
        raise ModelError(f"{folder} has no weights (model*.safetensors)")
    tensors = [info for path in files for info in read_header(path)]
    parameters = count_parameters(tensors, config)
    total = sum(info.nbytes for info in tensors)
    sizes: dict[str, int] = {}
    for info in tensors:
        if info.dtype in DTYPE_WORDS:
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    usual = max(sizes, key=lambda word: sizes[word]) if sizes else "F32"
    return Weights(
        parameters=parameters,
        bytes_on_disk=sum(path.stat().st_size for path in files),
        dtype=DTYPE_WORDS[usual],
        bits_per_parameter=8 * total / parameters if parameters else 0.0,
        packed=_packed(config),
    )


def count_parameters(tensors: Iterable[TensorInfo], config: dict[str, Any]) -> int:
    """Values a checkpoint stands for: packed integers unpacked, their scales not counted."""
    shapes = {info.name: info for info in tensors}
    settings = _quantization(config)
    total = 0
    for name, info in shapes.items():
        path, _, part = name.rpartition(".")
        if part in PACKED_PARTS and (f"{path}.weight" in shapes or f"{path}.qweight" in shapes):
            continue
        if info.dtype == "U32" and f"{path}.scales" in shapes:
            own = settings.get(path)
            group = (own if isinstance(own, dict) else settings).get("group_size", 64)
            total += math.prod(shapes[f"{path}.scales"].shape) * group
        elif part == "qweight":
            total += math.prod(info.shape) * 32 // settings.get("bits", 4)
        else:
            total += math.prod(info.shape)
    return total


def _quantization(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("quantization") or config.get("quantization_config") or {}
    return found if isinstance(found, dict) else {}


def _packed(config: dict[str, Any]) -> str:
    settings = _quantization(config)
    if not settings:
        return ""
    bits = settings.get("bits")
    if bits is None:
        return str(settings.get("quant_method", "quantized"))
    others = sorted(
        {own["bits"] for own in settings.values() if isinstance(own, dict) and "bits" in own}
        - {bits}
    )
    also = f", some weights {'- and '.join(str(b) for b in others)}-bit" if others else ""
    return f"{bits}-bit, groups of {settings.get('group_size', '?')}{also}"


def attention_layers(config: dict[str, Any]) -> int:
    """Layers that keep keys and values of the whole context or a window of it."""
    layers = int(text_value(config, "num_hidden_layers", "n_layer", "num_layers") or 0)
    kinds = text_value(config, "layer_types")
    if isinstance(kinds, list):
        return sum(kind not in LINEAR_LAYERS for kind in kinds)
    full = text_value(config, "full_attn_idxs")
    if isinstance(full, list):
        return len(full)
    interval = text_value(config, "full_attention_interval")
    if interval:
        return layers // int(interval)
    return layers


def kv_bytes_per_token(config: dict[str, Any], value_bytes: int) -> int:
    """Bytes of keys and values one token adds; 0 for a model without attention."""
    heads = text_value(config, "num_attention_heads", "n_head")
    if not heads:
        return 0
    layers = attention_layers(config)
    if latent := text_value(config, "kv_lora_rank"):
        rotary = text_value(config, "qk_rope_head_dim") or 0
        return layers * (int(latent) + int(rotary)) * value_bytes
    kv_heads = text_value(config, "num_key_value_heads") or heads
    hidden = text_value(config, "hidden_size", "n_embd") or 0
    head_dim = text_value(config, "head_dim") or hidden // heads
    return int(2 * layers * kv_heads * head_dim * value_bytes)


def _is_runnable(config: dict[str, Any]) -> bool:
    from mlx_lm import utils

    known: Any = utils._get_classes
    try:
        known(config=config)
    except (ValueError, KeyError, AttributeError):
        return "model_file" in config
    return True


def _run_dtype(weights: Weights, config: dict[str, Any], dtype: str, on_cpu: bool) -> str:
    if dtype != "auto":
        return dtype
    if on_cpu:
        return "float32"
    declared = config.get("torch_dtype") if "converted_from" in config else None
    return declared if declared in VALUE_BYTES else weights.dtype


def _run_bytes(weights: Weights, run_dtype: str, on_cpu: bool) -> int:
    """Weights in memory: on a CPU all unpacked; elsewhere as on disk, floats in ``run_dtype``."""
    if on_cpu or not weights.packed:
        return weights.parameters * VALUE_BYTES[run_dtype]
    return int(weights.parameters * weights.bits_per_parameter / 8)


def inspect_model(folder: Path, *, on_cpu: bool, dtype: str = "auto") -> Inspection:
    """Everything there is to say about a local folder. Raises ModelError if it is no model."""
    config = read_json(folder / "config.json")
    if not config:
        raise ModelError(f"{folder} has no config.json: it is not a model folder")
    checked_folder(folder)
    weights = read_weights(folder, config)
    tokenizer, chat_function = load_tokenizer(folder)
    run_dtype = _run_dtype(weights, config, dtype, on_cpu)
    generation_config = read_json(folder / "generation_config.json")
    ours = read_manifest(folder) is not None
    return Inspection(
        folder=folder,
        capabilities=read_capabilities(
            config, HuggingFaceCodec(tokenizer, chat_function=chat_function)
        ),
        weights=weights,
        eos_token_ids=end_token_ids(config, generation_config, tokenizer),
        run_dtype=run_dtype,
        run_bytes=_run_bytes(weights, run_dtype, on_cpu),
        kv_bytes_per_token=kv_bytes_per_token(config, VALUE_BYTES[run_dtype]),
        is_runnable=_is_runnable(config),
        is_whole=is_whole(folder, hash_always=True) if ours else None,
    )


def _size(count: float) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.2f} {unit}"
    return f"{count:.0f} bytes"


def describe(inspection: Inspection, memory_bytes: int | None = None) -> list[str]:
    """Lines for a person. ``memory_bytes`` is what weights and KV may take together."""
    can, weights = inspection.capabilities, inspection.weights
    yes = {True: "yes", False: "no"}
    lines = [
        f"folder        {inspection.folder}",
        f"architecture  {can.architecture} (model_type {can.model_type})"
        + ("" if inspection.is_runnable else ": not one that the installed mlx-lm can run"),
        f"parameters    {weights.parameters / 1e6:,.1f} million",
        f"on disk       {_size(weights.bytes_on_disk)}, {weights.packed or weights.dtype}",
        f"in memory     {_size(inspection.run_bytes)} of weights, {inspection.run_dtype}",
        f"KV cache      {_size(inspection.kv_bytes_per_token)} a token",
        f"context       {can.context_tokens or 'no stated limit'} tokens",
        f"vocabulary    {can.vocab_tokens} tokens, {can.embedding_rows} rows",
        f"ends with     {', '.join(str(token) for token in inspection.eos_token_ids) or 'nothing'}",
        f"chat          template {yes[can.has_chat_template]}, tools {yes[can.has_tools]}, "
        f"thinking {yes[can.has_thinking]}",
    ]
    if can.unused_senses:
        lines.append(f"not used      {', '.join(can.unused_senses)} (text only)")
    if inspection.is_whole is not None:
        lines.append(f"checksums     {'match' if inspection.is_whole else 'DO NOT MATCH'}")
    if memory_bytes is not None:
        lines.append(f"fit           {fit(inspection, memory_bytes)}")
    return lines


def fit(inspection: Inspection, memory_bytes: int) -> str:
    """Whether weights fit, and how many tokens of KV fit beside them."""
    left = memory_bytes - inspection.run_bytes
    if left <= 0:
        return f"the weights alone are {_size(-left)} more than the {_size(memory_bytes)} there are"
    if inspection.kv_bytes_per_token == 0:
        return f"yes, {_size(left)} left of {_size(memory_bytes)}"
    tokens = left // inspection.kv_bytes_per_token
    return f"yes, with {tokens:,} tokens of KV in the {_size(left)} left of {_size(memory_bytes)}"
