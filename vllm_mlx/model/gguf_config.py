"""GGUF metadata as config.json and generation_config.json. Weights and tokenizer are not here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_mlx.errors import ModelError
from vllm_mlx.model.gguf_file import GgufFile, plain
from vllm_mlx.model.gguf_weights import family_of

CONTROL = 3  # llama.cpp's token type of a special token
# Tokens that end a turn whatever the metadata says; llama.cpp knows them by text, too
END_OF_TURN = frozenset(
    {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<eos>",
        "</s>",
    }
)
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_CONTEXT = 1.0, 4.0, 8192  # the same in every Llama 3
GEMMA3_27B_BLOCKS = 62  # the one size whose attention scale is not head_dim ** -0.5
SAMPLING: Mapping[str, str] = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
}


class _Fields:
    """Metadata of one architecture, by short key."""

    def __init__(self, gguf: GgufFile) -> None:
        self._metadata, self._prefix = gguf.metadata, gguf.architecture
        self._file = gguf.path.name

    def get(self, key: str, default: Any = None) -> Any:
        return plain(self._metadata.get(f"{self._prefix}.{key}", default))

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelError(f"{self._file}: the metadata lacks '{self._prefix}.{key}'")
        return value


def attention_heads(gguf: GgufFile) -> tuple[int, int]:
    """Query heads and key/value heads. Raises ModelError where they differ by layer."""
    fields = _Fields(gguf)
    heads = fields.need("attention.head_count")
    kv_heads = fields.get("attention.head_count_kv", heads)
    if isinstance(heads, list) or isinstance(kv_heads, list):
        raise ModelError(f"{gguf.path.name}: a head count that differs by layer is not supported")
    return int(heads), int(kv_heads)


def _llama3_scaling(
    factors: npt.NDArray[np.float32], base: float, head_dim: int
) -> dict[str, Any] | None:
    """Llama 3's rotary scaling, recovered from the per-frequency divisors that GGUF stores."""
    factor = float(factors.max())
    wavelengths = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (LLAMA3_CONTEXT / wavelengths - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)
    smooth = smooth.clip(0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if len(expected) != len(factors) or not np.allclose(expected, factors, rtol=1e-3):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3_LOW,
        "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": LLAMA3_CONTEXT,
    }


def _rope_scaling(gguf: GgufFile, fields: _Fields, head_dim: int) -> dict[str, Any] | None:
    divisors = next((t for t in gguf.tensors if t.name == "rope_freqs.weight"), None)
    if divisors is not None:
        values = np.ascontiguousarray(gguf.raw(divisors)).view(np.float32).ravel()
        scaling = _llama3_scaling(values, fields.get("rope.freq_base", 10000.0), head_dim)
        if scaling is None:
            raise ModelError(f"{gguf.path.name}: the rotary divisors are not those of Llama 3")
        return scaling
    kind = fields.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{gguf.path.name}: rotary scaling '{kind}' is not supported")
    scaling = {"rope_type": kind, "factor": fields.need("rope.scaling.factor")}
    if kind == "yarn":
        original = fields.need("rope.scaling.original_context_length")
        scaling["original_max_position_embeddings"] = original
    return scaling


def end_token_ids(gguf: GgufFile) -> list[int]:
    """Every token that ends a turn: those the metadata names first, then those known by text."""
    metadata = gguf.metadata
    named = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    found = [int(token) for token in named if token is not None]
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    kinds = metadata.get("tokenizer.ggml.token_type")
    if kinds is not None:
        controls = np.flatnonzero(np.asarray(kinds) == CONTROL)
        found += [int(i) for i in controls if tokens[i] in END_OF_TURN]
    return list(dict.fromkeys(found))


def token_ids(gguf: GgufFile) -> dict[str, Any]:
    """bos, eos and pad as config.json has them; absent ones are left out."""
    ids: dict[str, Any] = {}
    for ours, theirs in (("bos", "bos"), ("pad", "padding")):
        value = gguf.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if value is not None:
            ids[f"{ours}_token_id"] = int(value)
    if ends := end_token_ids(gguf):
        ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return ids


def _gemma3_config(fields: _Fields, heads: int, head_dim: int) -> dict[str, Any]:
    is_27b = fields.need("block_count") == GEMMA3_27B_BLOCKS
    hidden = fields.need("embedding_length")
    return {
        "query_pre_attn_scalar": hidden // heads if is_27b else head_dim,
        "sliding_window": fields.get("attention.sliding_window", 512),
        "sliding_window_pattern": fields.get("attention.sliding_window_pattern", 6),
        "rope_local_base_freq": fields.get("rope.freq_base_swa", 10000.0),
        "rope_theta": fields.get("rope.freq_base", 1000000.0),
    }


def model_config(gguf: GgufFile) -> dict[str, Any]:
    """config.json for mlx-lm, without ``quantization``. Raises ModelError if a key is missing."""
    family, fields = family_of(gguf), _Fields(gguf)
    if fields.get("expert_count", 0):
        raise ModelError(f"{gguf.path.name}: a GGUF with experts (MoE) is not supported")
    names = {t.name: t for t in gguf.tensors}
    if "token_embd.weight" not in names:
        raise ModelError(f"{gguf.path.name}: no tensor 'token_embd.weight'; is it a whole model?")
    heads, kv_heads = attention_heads(gguf)
    hidden = fields.need("embedding_length")
    head_dim = fields.get("attention.key_length") or hidden // heads
    if family.model_type in ("qwen2", "llama") and fields.get(
        "rope.dimension_count", head_dim
    ) not in (head_dim,):
        raise ModelError(f"{gguf.path.name}: rotation of a part of each head is not supported")
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_size": hidden,
        "intermediate_size": fields.need("feed_forward_length"),
        "num_hidden_layers": fields.need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": names["token_embd.weight"].shape[0],
        "max_position_embeddings": fields.need("context_length"),
        # stored as float32: 1e-05 comes back as 9.999999747378752e-06
        "rms_norm_eps": float(f"{fields.need('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": fields.get("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(gguf, fields, head_dim),
        "hidden_act": "gelu_pytorch_tanh" if family.model_type == "gemma3_text" else "silu",
        "tie_word_embeddings": "output.weight" not in names,
        "torch_dtype": "bfloat16",  # what runs on an accelerator; on CPU all is float32
    }
    if family.model_type == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in names
        config["mlp_bias"] = "blk.0.ffn_up.bias" in names
    if family.model_type == "gemma3_text":
        config |= _gemma3_config(fields, heads, head_dim)
    return config | token_ids(gguf)


def generation_config(gguf: GgufFile) -> dict[str, Any]:
    """Token ids and, where the file has them, the author's sampling defaults."""
    sampling = {
        ours: plain(gguf.metadata[theirs])
        for theirs, ours in SAMPLING.items()
        if theirs in gguf.metadata
    }
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in sampling.items()} | token_ids(
        gguf
    )
