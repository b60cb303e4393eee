"""Tiny GGUF files: random models of mlx-lm, written as llama.cpp writes them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from mlx.utils import tree_flatten, tree_unflatten

from tests.checkpoints import MODELS, random_model
from vllm_mlx.model.gguf_weights import BLOCK, GEMMA_NORMS, TOP

Kind = GGMLQuantizationType
VOCAB = 288
# Where the float16 factors of a block lie: random bytes there would be NaN or huge
FACTORS: Mapping[Kind, tuple[int, ...]] = {
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
    Kind.IQ4_NL: (0,),
    Kind.IQ4_XS: (0,),
}


def random_blocks(kind: Kind, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Rows of valid blocks of a type that the gguf package reads but does not write."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // block, block_bytes), dtype=np.uint8)
    for at in FACTORS[kind]:
        factors = (rng.random(raw.shape[:2]) * 0.001 + 0.0005).astype(np.float16)
        raw[..., at : at + 2] = factors[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def byte_level_tokens() -> tuple[list[str], list[int], list[str]]:
    """Tokens, types and merges of a byte-level BPE of 288 tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġ Ġ", "1 2", "t h"]
    made = [merge.replace(" ", "") for merge in merges]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    filler = [f"<extra_{i}>" for i in range(VOCAB - 256 - len(made) - len(special))]
    tokens = special + letters + made + filler
    types = [3] * 3 + [1] * (256 + len(made)) + [4] * len(filler)
    return tokens, types, merges


def sentencepiece_tokens() -> tuple[list[str], list[int], list[float]]:
    """Tokens, types and scores of a SentencePiece BPE with byte fallback, as Gemma's."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    types = [3, 3, 3, 2, 3, 3]
    tokens += [f"<0x{b:02X}>" for b in range(256)]
    types += [6] * 256
    pieces = ["he", "ll", "hell", "hello", "▁w", "or", "▁wor", "▁▁"]
    single = sorted({c for piece in pieces for c in piece} | set("abdcéß日"))
    tokens += pieces + single
    types += [1] * (len(pieces) + len(single))
    scores = [0.0] * 262 + [-float(i) for i in range(len(pieces) + len(single))]
    return tokens, types, scores


def _write_byte_level(writer: GGUFWriter, pre: str) -> None:
    tokens, types, merges = byte_level_tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_string("tokenizer.ggml.pre", pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_uint32("tokenizer.ggml.bos_token_id", 1)
    writer.add_uint32("tokenizer.ggml.eos_token_id", 2)
    writer.add_uint32("tokenizer.ggml.padding_token_id", 0)
    if pre == "smollm":  # the others are to show what a silent file means
        writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_string(
        "tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"
    )


def _write_sentencepiece(writer: GGUFWriter) -> None:
    tokens, types, scores = sentencepiece_tokens()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores(scores)
    for name, token_id in {"bos": 2, "eos": 1, "unknown": 3, "padding": 0}.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_bool("tokenizer.ggml.add_space_prefix", False)


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order: within a head, row i beside row i + half."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    order = permute(np.arange(len(rows)), heads)
    back = np.empty_like(rows)
    back[order] = rows
    return back


@dataclass
class TinyGguf:
    """A model to write. ``kinds`` says which type a tensor gets, by its name in the file."""

    arch: str
    config: dict[str, Any] = field(default_factory=dict)
    kinds: Callable[[str], Kind] = lambda name: Kind.F32
    metadata: dict[str, Any] = field(default_factory=dict)
    pre: str = "smollm"
    extra_tensors: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return "gemma3_text" if self.arch == "gemma3" else self.arch

    def full_config(self) -> dict[str, Any]:
        return {**MODELS[self.model_type], **self.config}

    def _file_name(self, path: str) -> str:
        names = BLOCK | (GEMMA_NORMS if self.arch == "gemma3" else {})
        back = {ours: theirs for theirs, ours in (names | TOP).items()}
        parts = path.split(".")
        if parts[:2] == ["model", "layers"]:
            return f"blk.{parts[2]}.{back['.'.join(parts[3:-1])]}.{parts[-1]}"
        return f"{back['.'.join(parts[:-1])]}.{parts[-1]}"

    def _heads(self, path: str) -> int | None:
        if self.arch != "llama":
            return None
        config = self.full_config()
        if ".q_proj." in path:
            return int(config["num_attention_heads"])
        return int(config["num_key_value_heads"]) if ".k_proj." in path else None

    def write(self, path: Path) -> Any:
        """Write the file; the model with the very weights that the file stands for."""
        model, config = random_model(self.model_type, VOCAB, overrides=self.config)
        writer = GGUFWriter(path, self.arch)
        self._write_metadata(writer, config)
        stored = []
        for name, value in tree_flatten(model.parameters()):
            stored.append((name, self._write_tensor(writer, name, np.array(value))))
        for name, values in self.extra_tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        model.update(tree_unflatten(stored))
        return model

    def _write_tensor(self, writer: GGUFWriter, path: str, value: np.ndarray) -> mx.array:
        name, heads = self._file_name(path), self._heads(path)
        plus = 1.0 if self.arch == "gemma3" and "norm" in path else 0.0
        kind = self.kinds(name) if value.ndim > 1 else Kind.F32
        shifted = (value + plus).astype(np.float32)
        shifted = permute(shifted, heads) if heads else shifted
        if kind in FACTORS:
            raw = random_blocks(kind, *value.shape, seed=len(name))
        else:
            raw = quantize(shifted, kind)
        as_given = raw.dtype != np.uint8
        writer.add_tensor(name, raw, raw_dtype=None if as_given else kind)
        read = raw.astype(np.float32) if as_given else dequantize(raw, kind)
        read = read.reshape(value.shape)
        return mx.array((unpermute(read, heads) if heads else read) - np.float32(plus))

    def _write_metadata(self, writer: GGUFWriter, config: dict[str, Any]) -> None:
        arch = self.arch
        counts = {
            "block_count": config["num_hidden_layers"],
            "context_length": config["max_position_embeddings"],
            "embedding_length": config["hidden_size"],
            "feed_forward_length": config["intermediate_size"],
            "attention.head_count": config["num_attention_heads"],
            "attention.head_count_kv": config["num_key_value_heads"],
            "attention.key_length": config["head_dim"],
        }
        if "sliding_window" in config:
            counts["attention.sliding_window"] = config["sliding_window"]
        for key, value in counts.items():
            writer.add_uint32(f"{arch}.{key}", value)
        writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
        writer.add_float32(f"{arch}.rope.freq_base", config["rope_theta"])
        for key, value in self.metadata.items():
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add[type(value)](key, value)
        if arch == "gemma3":
            _write_sentencepiece(writer)
        else:
            _write_byte_level(writer, self.pre)
