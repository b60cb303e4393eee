"""What a folder is said to hold, against what loading it shows."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import quantize_model, save_config, save_model

from tests.checkpoints import build_checkpoint, random_model, write_tokenizer
from vllm_mlx.errors import ModelError
from vllm_mlx.model.capabilities import context_tokens, has_tools, read_capabilities
from vllm_mlx.model.codec import HuggingFaceCodec
from vllm_mlx.model.inspect import describe, fit, inspect_model, kv_bytes_per_token
from vllm_mlx.model.known import list_models
from vllm_mlx.model.load import load_checkpoint, load_tokenizer
from vllm_mlx.model.safetensors_file import read_header

WITH_TOOLS = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 8192}, "max_position_embeddings": 1}, 8192),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 32768, "rope_scaling": None}, 32768),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
        (
            {"max_position_embeddings": 131072, "rope_scaling": {"type": "linear", "factor": 8}},
            131072,
        ),
        ({}, None),
    ],
)
def test_context(config: dict[str, Any], tokens: int | None) -> None:
    assert context_tokens(config) == tokens
    assert context_tokens(config, tokenizer_limit=10.0**30) == tokens


def test_context_of_the_tokenizer_is_the_last_resort() -> None:
    assert context_tokens({}, tokenizer_limit=2048) == 2048
    assert context_tokens({"n_ctx": 512}, tokenizer_limit=2048) == 512


def test_capabilities_of_the_default_model(smollm2: Path) -> None:
    codec = HuggingFaceCodec(load_tokenizer(smollm2)[0])
    config = json.loads((smollm2 / "config.json").read_text())
    can = read_capabilities(config | {"vision_config": {"depth": 1}}, codec)
    assert (can.model_type, can.architecture) == ("llama", "LlamaForCausalLM")
    assert can.context_tokens == 8192
    assert can.vocab_tokens == can.embedding_rows == 49152
    assert can.has_chat_template
    assert not can.has_tools
    assert not can.has_thinking
    assert can.modalities == ("text",)
    assert can.unused_senses == ("image",)


def test_tools_and_thinking_are_read_from_the_template(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)[0]
    tokenizer.chat_template = WITH_TOOLS + "{% if enable_thinking %}<think>{% endif %}"
    codec = HuggingFaceCodec(tokenizer)
    assert has_tools(codec)
    assert read_capabilities({}, codec).has_thinking
    tokenizer.chat_template = None
    can = read_capabilities({}, HuggingFaceCodec(tokenizer))
    assert (can.has_chat_template, can.has_tools, can.has_thinking) == (False, False, False)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_memory_is_what_loading_takes(
    smollm2: Path, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspect_model(smollm2, on_cpu=on_cpu)
    assert found.weights.parameters == 134_515_008
    assert found.eos_token_ids == (2, 0)
    assert found.is_runnable
    assert found.is_whole is True
    assert found.run_dtype == ("float32" if on_cpu else "bfloat16")
    monkeypatch.setattr("vllm_mlx.model.load.runs_on_cpu", lambda: on_cpu)
    loaded = load_checkpoint(smollm2).weights_bytes
    assert 0 <= found.run_bytes - loaded <= 0.25 * loaded


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "deepseek_v3", "qwen3_next", "lfm2"])
def test_kv_per_token_is_what_the_caches_hold(name: str, checkpoint_root: Path) -> None:
    folder = build_checkpoint(name, checkpoint_root)
    model = load_checkpoint(folder).model

    def held(tokens: int) -> int:
        cache = make_prompt_cache(model)
        mx.eval(model(mx.array([[5] * tokens]), cache=cache))
        parts = [part for c in cache for _, part in tree_flatten(c.state)]
        return sum(part.nbytes for part in parts if isinstance(part, mx.array))

    expected = inspect_model(folder, on_cpu=True).kv_bytes_per_token
    assert (held(512) - held(256)) / 256 == expected  # mlx-lm grows its caches by 256


def test_a_model_without_attention_keeps_nothing(checkpoint_root: Path) -> None:
    found = inspect_model(build_checkpoint("mamba2", checkpoint_root), on_cpu=True)
    assert found.kv_bytes_per_token == 0
    assert fit(found, 10**9) == "yes, 998.73 MB left of 1.00 GB"


def test_layer_types_count() -> None:
    config = {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    }
    assert kv_bytes_per_token(config, 2) == 2 * 64 * 2


def test_packed_weights_count_as_what_they_stand_for(tmp_path: Path, checkpoint_root: Path) -> None:
    model, config = random_model("mixtral")
    dense = sum(value.size for _, value in tree_flatten(model.parameters()))
    model, config = quantize_model(model, config, group_size=32, bits=4)
    save_model(tmp_path, model)
    save_config(config, tmp_path / "config.json")
    write_tokenizer(tmp_path, checkpoint_root)
    found = inspect_model(tmp_path, on_cpu=False)
    assert found.weights.parameters == dense
    assert found.weights.packed == "4-bit, groups of 32"
    assert found.is_whole is None
    assert inspect_model(tmp_path, on_cpu=True).run_bytes == dense * 4


def test_lines_for_a_person(smollm2: Path) -> None:
    lines = describe(inspect_model(smollm2, on_cpu=True), memory_bytes=10**9)
    text = "\n".join(lines)
    assert "134.5 million" in text
    assert "4-bit, groups of 32, some weights 8-bit" in text
    assert "8192 tokens" in text
    assert "checksums     match" in text
    assert "with 10,024 tokens of KV" in text
    assert "more than the" in fit(inspect_model(smollm2, on_cpu=True), 10**8)


def test_an_unknown_model_type_is_said_to_be_one(tmp_path: Path, checkpoint_root: Path) -> None:
    folder = shutil.copytree(build_checkpoint("llama", checkpoint_root), tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "telepathy"}
    (folder / "config.json").write_text(json.dumps(config))
    found = inspect_model(folder, on_cpu=True)
    assert not found.is_runnable
    assert "not one that the installed mlx-lm can run" in describe(found)[1]


def test_damage_is_seen(smollm2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(smollm2, tmp_path / "models" / "copy")
    (folder / "chat_template.jinja").write_text("{{ 'changed' }}")
    assert inspect_model(folder, on_cpu=True).is_whole is False
    notes = {model.folder.name: model.note for model in list_models(tmp_path / "models", tmp_path)}
    assert notes["copy"].startswith("damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="cut short"):
        inspect_model(folder, on_cpu=True)
    weights.write_bytes(b"\xff" * 16)
    with pytest.raises(ModelError, match="not a safetensors"):
        read_header(weights)
    weights.write_bytes(b"abc")
    with pytest.raises(ModelError, match="not a readable safetensors"):
        read_header(weights)
    with pytest.raises(ModelError, match=r"no config\.json"):
        inspect_model(tmp_path, on_cpu=True)
