"""Loading: the dtype policy, exact unpacking, and one sentence for what is wrong."""

import importlib
import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.utils import dequantize_model, quantize_model, save_config, save_model

from tests.checkpoints import MODELS, build_checkpoint, random_model, write_tokenizer
from vllm_mlx.errors import ModelError
from vllm_mlx.model import load as load_module
from vllm_mlx.model.load import end_token_ids, load_checkpoint

PROMPT = mx.array([[5, 9, 77, 120, 33, 8, 250, 61, 14, 200]])


def dtypes(model: Any) -> set[mx.Dtype]:
    return {value.dtype for _, value in tree_flatten(model.parameters())}


def save(model: Any, config: dict[str, Any], folder: Path, root: Path) -> Path:
    folder.mkdir()
    save_model(folder, model)
    save_config(config, folder / "config.json")
    write_tokenizer(folder, root)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_small_checkpoints_load_and_vary(name: str, checkpoint_root: Path) -> None:
    checkpoint = load_checkpoint(build_checkpoint(name, checkpoint_root))
    assert checkpoint.model_type == name
    assert dtypes(checkpoint.model) <= {mx.float32, mx.int32}
    logits = np.array(checkpoint.model(PROMPT))[0]
    assert len(set(logits.argmax(-1).tolist())) > 3
    best = np.sort(logits, axis=-1)
    assert np.median(best[:, -1] - best[:, -2]) > 0.05


def test_builds_are_the_same_every_time(tmp_path: Path, checkpoint_root: Path) -> None:
    first = build_checkpoint("qwen3", checkpoint_root)
    weights = dict(tree_flatten(random_model("qwen3")[0].parameters()))
    stored = mx.load(str(first / "model.safetensors"))
    assert set(stored) == set(weights)
    assert all(mx.array_equal(stored[name], weights[name]) for name in weights)


def test_the_default_model_answers(smollm2: Path) -> None:
    seen: list[tuple[int, int]] = []
    checkpoint = load_checkpoint(
        smollm2, report=lambda stage, done, total: seen.append((done, total))
    )
    assert checkpoint.dtype == "float32"
    assert not checkpoint.is_quantized
    assert checkpoint.weights_bytes == 538_060_032 == seen[-1][0] == seen[-1][1]
    assert checkpoint.eos_token_ids == (2, 0)
    text = checkpoint.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = checkpoint.tokenizer.encode(text)
    answer = [token for token, _ in generate_step(mx.array(ids), checkpoint.model, max_tokens=7)]
    assert checkpoint.tokenizer.decode(answer) == "The capital of France is Paris."


@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3_moe", "deepseek_v3", "gemma2"])
@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_packed_weights_are_unpacked_exactly(
    name: str, mode: str, tmp_path: Path, checkpoint_root: Path
) -> None:
    """Linear layers, embeddings, experts and latent heads, against mlx-lm's own unpacking."""
    model, config = random_model(name)
    model, config = quantize_model(model, config, group_size=32, bits=4, mode=mode)
    folder = save(model, config, tmp_path / name, checkpoint_root)
    checkpoint = load_checkpoint(folder)
    assert not checkpoint.is_quantized
    assert dtypes(checkpoint.model) == {mx.float32}
    expected, found = np.array(model(PROMPT)), np.array(checkpoint.model(PROMPT))
    assert np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()
    if name != "deepseek_v3":  # mlx-lm leaves latent heads packed
        dense = dict(tree_flatten(dequantize_model(model).parameters()))
        for path, value in tree_flatten(checkpoint.model.parameters()):
            other = dense[path].astype(mx.float32)
            np.testing.assert_allclose(np.array(value), np.array(other), rtol=1e-5, atol=1e-6)


def test_sixteen_bit_scales_are_widened_before_they_are_multiplied(
    tmp_path: Path, checkpoint_root: Path
) -> None:
    model, config = random_model("llama")
    model.set_dtype(mx.float16)
    model, config = quantize_model(model, config, group_size=32, bits=4)
    folder = save(model, config, tmp_path / "half", checkpoint_root)
    stored = mx.load(str(folder / "model.safetensors"))
    path = "model.layers.0.mlp.up_proj"
    scales, biases = (stored[f"{path}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
    expected = mx.dequantize(stored[f"{path}.weight"], scales, biases, group_size=32, bits=4)
    found = load_checkpoint(folder).model.layers[0].mlp.up_proj.weight
    assert mx.array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_named_dtype(dtype: str, checkpoint_root: Path) -> None:
    checkpoint = load_checkpoint(build_checkpoint("qwen3", checkpoint_root), dtype=dtype)
    assert checkpoint.dtype == dtype
    assert dtypes(checkpoint.model) == {getattr(mx, dtype)}
    with pytest.raises(ModelError, match="int8"):
        load_checkpoint(checkpoint.folder, dtype="int8")


def test_what_a_model_wants_in_float32_stays(checkpoint_root: Path) -> None:
    checkpoint = load_checkpoint(build_checkpoint("deepseek_v3", checkpoint_root), dtype="float16")
    kept = {p for p, v in tree_flatten(checkpoint.model.parameters()) if v.dtype == mx.float32}
    assert {path.rpartition(".")[2] for path in kept} == {"e_score_correction_bias"}


class TestOnAnAccelerator:
    """The policy for Metal and CUDA, computed on whatever there is."""

    @pytest.fixture(autouse=True)
    def _accelerator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(load_module, "runs_on_cpu", lambda: False)

    def test_packed_weights_stay_packed(self, tmp_path: Path, checkpoint_root: Path) -> None:
        model, config = random_model("llama")
        model, config = quantize_model(model, config, group_size=32, bits=4)
        checkpoint = load_checkpoint(save(model, config, tmp_path / "q", checkpoint_root))
        assert checkpoint.is_quantized
        assert mx.uint32 in dtypes(checkpoint.model)
        assert checkpoint.dtype == "float32"

    def test_a_converted_gguf_runs_in_sixteen_bit(self, smollm2: Path) -> None:
        checkpoint = load_checkpoint(smollm2)
        assert checkpoint.is_quantized
        assert dtypes(checkpoint.model) == {mx.uint32, mx.bfloat16}
        assert checkpoint.dtype == "bfloat16"
        assert checkpoint.weights_bytes < 110_000_000


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, checkpoint_root: Path) -> None:
    folder = build_checkpoint("llama", checkpoint_root)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_checkpoint(folder).model_type == "llama"


def test_attention_goes_through_the_seam(checkpoint_root: Path) -> None:
    load_checkpoint(build_checkpoint("llama", checkpoint_root))
    seam = importlib.import_module("vllm_mlx.kernels.attention")
    model_file = sys.modules["mlx_lm.models.llama"]
    assert model_file.scaled_dot_product_attention is seam.dispatch_attention


def copied(name: str, root: Path, tmp_path: Path, **changes: Any) -> Path:
    """A checkpoint whose config.json says something else; None takes a key away."""
    folder = shutil.copytree(build_checkpoint(name, root), tmp_path / name)
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "telepathy"}, "'telepathy' is not one that the installed mlx-lm can run"),
        ({"model_type": None}, "does not say which model_type"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"hidden_size": 128}, "has shape"),
        ({"num_hidden_layers": 3}, "9 weights of a llama are missing: model.layers.2"),
        ({"num_hidden_layers": 1}, "9 weights have no place in a llama: model.layers.1"),
        ({"model_file": "mine.py"}, "trust_remote_code"),
    ],
)
def test_a_wrong_config_is_one_sentence(
    changes: dict[str, Any], message: str, tmp_path: Path, checkpoint_root: Path
) -> None:
    folder = copied("llama", checkpoint_root, tmp_path, **changes)
    with pytest.raises(ModelError, match=message) as failure:
        load_checkpoint(folder)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 400


def test_folders_that_are_no_checkpoint(tmp_path: Path, checkpoint_root: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_checkpoint(tmp_path)
    folder = copied("llama", checkpoint_root, tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(folder)


def test_code_in_the_folder_runs_only_if_trusted(tmp_path: Path, checkpoint_root: Path) -> None:
    folder = copied("llama", checkpoint_root, tmp_path, model_file="mine.py")
    (folder / "mine.py").write_text("from mlx_lm.models.llama import Model, ModelArgs\n")
    assert load_checkpoint(folder, trust_remote_code=True).model_type == "llama"


def test_every_end_token_counts_once() -> None:
    class Tokenizer:
        eos_token_id = 7

    config = {"eos_token_id": 2, "text_config": {"eos_token_id": [2, 3]}}
    assert end_token_ids(config, {"eos_token_id": [5, 2]}, Tokenizer()) == (5, 2, 3, 7)
    assert end_token_ids({}, {}, Tokenizer()) == (7,)
