"""Small random checkpoints of many architectures, as folders that mlx-lm loads.

Shapes, caches and configuration are real, text is noise. The tokenizer is SmolLM2's, cut to
its first 2,048 tokens: every text can still be encoded. Weights depend on name and seed only.
"""

import importlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import save_config, save_model

from vllm_mlx.model.gguf import convert_gguf
from vllm_mlx.model.resolve import find_embedded_gguf

VOCAB_TOKENS = 2048
END_TOKEN = 2  # <|im_end|>
LOGIT_SPREAD = 4.0  # standard deviation of the logits: the best two are far apart in float32
TIED_EMBEDDING = 0.05
FLOAT32_NAMES = ("A_log", "dt_bias", "D", "e_score_correction_bias", "expert_bias")

BASE: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
MOE: Mapping[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
LINEAR_ATTENTION: Mapping[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}
DEEPSEEK_MOE: Mapping[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "llama": BASE,
    "qwen2": BASE,
    "qwen3": BASE,
    "qwen3_moe": {**BASE, **MOE},
    "qwen3_next": {
        **BASE,
        **MOE,
        **LINEAR_ATTENTION,
        "num_hidden_layers": 4,
        "full_attention_interval": 4,
        "partial_rotary_factor": 0.25,
        "shared_expert_intermediate_size": 32,
    },
    "qwen3_5": {
        **BASE,
        **LINEAR_ATTENTION,
        "num_hidden_layers": 4,
        "full_attention_interval": 4,
        "rope_parameters": {
            "type": "default",
            "mrope_section": [1, 1, 0],
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    },
    "gemma2": {**BASE, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0},
    "gemma3_text": {
        **BASE,
        "num_hidden_layers": 6,
        "sliding_window": 32,
        "query_pre_attn_scalar": 16,
    },
    "deepseek_v3": {
        **BASE,
        **DEEPSEEK_MOE,
        "q_lora_rank": 16,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
    "glm4": {**BASE, "attention_bias": True, "partial_rotary_factor": 0.5},
    "glm4_moe": {
        **BASE,
        **DEEPSEEK_MOE,
        "attention_bias": True,
        "use_qk_norm": True,
        "partial_rotary_factor": 0.5,
        "rope_scaling": None,
    },
    "gpt_oss": {
        **BASE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 32,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0},
        "initial_context_length": 4096,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mixtral": {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {**BASE, "rope_scaling": None},
    "mamba2": {
        "num_heads": 8,
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 128,
        "state_size": 16,
        "num_hidden_layers": 2,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": False,
        "time_step_limit": [0.0, 1e9],
        "time_step_rank": "auto",
        "ssm_state_size": 16,
        "max_position_embeddings": 4096,
    },
    "lfm2": {
        **BASE,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 128,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
    },
    "cohere2": {
        **BASE,
        "num_hidden_layers": 4,
        "sliding_window": 32,
        "sliding_window_pattern": 4,
        "layer_norm_eps": 1e-5,
        "logit_scale": 1.0,
        "attention_bias": False,
        "layer_norm_bias": False,
    },
    "granite": {
        **BASE,
        "logits_scaling": 1.0,
        "attention_multiplier": 0.25,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "smollm3": {**BASE, "no_rope_layer_interval": 2},
    "olmoe": {**BASE, **MOE},
}


def smollm2_folder(root: Path) -> Path:
    """The embedded default model, converted below ``root`` (0.6 s the first time)."""
    return convert_gguf(find_embedded_gguf(), root=root)


def write_tokenizer(folder: Path, root: Path, vocab_tokens: int = VOCAB_TOKENS) -> None:
    """SmolLM2's tokenizer and chat template, cut to the first ``vocab_tokens`` tokens."""
    source = smollm2_folder(root)
    spec = json.loads((source / "tokenizer.json").read_text())
    vocab = {token: i for token, i in spec["model"]["vocab"].items() if i < vocab_tokens}
    spec["model"]["vocab"] = vocab
    spec["model"]["merges"] = [
        pair
        for pair in spec["model"]["merges"]
        if "".join(pair) in vocab and set(pair) <= set(vocab)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text((source / name).read_text())


def draw_weight(path: str, value: mx.array, seed: int = 0) -> mx.array:
    """A weight of the same shape; products keep the size of what they multiply."""
    name = path.rpartition(".")[2]
    if name in FLOAT32_NAMES:
        return value
    noise = mx.random.normal(value.shape, key=mx.random.key(seed ^ zlib.crc32(path.encode())))
    if "norm" in path:
        centre = 0.0 if float(mx.abs(value).max()) == 0 else 1.0  # Gemma's norms hold w of 1 + w
        return centre + 0.1 * noise
    if value.ndim == 1:
        return noise if name == "sinks" else 0.1 * noise
    if "embed" in path or path.endswith("wte.weight"):
        return noise
    fan_in = value[0].size if "conv" in path else value.shape[-1]
    gain = LOGIT_SPREAD if "lm_head" in path else 1.0
    return gain * noise / fan_in**0.5


def _for_tied_head(drawn: list[tuple[str, mx.array]], hidden: int) -> list[tuple[str, mx.array]]:
    """A head that shares the embedding would repeat its input: make the input a small part of
    the last hidden state, and let the last norm make up for the small rows."""
    factor = LOGIT_SPREAD / (TIED_EMBEDDING * hidden**0.5)

    def scale(path: str, value: mx.array) -> mx.array:
        if "norm" in path:
            is_last = not any(part.isdigit() for part in path.split("."))
            holds_one_plus = float(value.mean()) < 0.5
            return value + factor - (1.0 if holds_one_plus else 0.0) if is_last else value
        return value * TIED_EMBEDDING if "embed" in path else value

    return [(path, scale(path, value)) for path, value in drawn]


def random_model(
    name: str,
    vocab_tokens: int = VOCAB_TOKENS,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """An mlx-lm model of that model_type with drawn weights in float32, and its config."""
    config = json.loads(json.dumps({**MODELS[name], **(overrides or {})}))
    config |= {"model_type": name, "eos_token_id": END_TOKEN, "vocab_size": vocab_tokens}
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(config))
    drawn = [(p, draw_weight(p, v, seed)) for p, v in tree_flatten(model.parameters())]
    if not any("lm_head" in path for path, _ in drawn):
        drawn = _for_tied_head(drawn, config["hidden_size"])
    model.update(tree_unflatten(drawn))
    model.eval()
    return model, config


def build_checkpoint(name: str, root: Path) -> Path:
    """The folder of a small random ``name`` below ``root``, written if it is not there."""
    folder = root / name
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        model, config = random_model(name)
        save_model(folder, model)
        save_config(config, folder / "config.json")
        write_tokenizer(folder, root)
    return folder
