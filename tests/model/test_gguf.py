"""Converted GGUF files compute the logits of the very weights they hold."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from tests.model.gguf_files import VOCAB, TinyGguf
from vllm_mlx.errors import ModelError
from vllm_mlx.model.cache_folder import MANIFEST
from vllm_mlx.model.gguf import convert_gguf
from vllm_mlx.model.gguf_file import read_gguf
from vllm_mlx.model.load import load_checkpoint

ARCHITECTURES = ["llama", "qwen2", "qwen3", "gemma3"]
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
}
PROMPT = mx.array([[5, 9, 77, 120, 33, 8, 250, 61, 14, 200]])


def mixed(name: str) -> Kind:
    """Different types side by side, as llama.cpp's K_M mixtures have them."""
    kinds = {"token_embd": Kind.Q8_0, "attn_v": Kind.Q5_0, "ffn_up": Kind.Q4_1, "output": Kind.F16}
    parts = name.split(".")
    return kinds.get(parts[-2], Kind.Q4_0)


def logits(model: object, tokens: mx.array = PROMPT) -> np.ndarray:
    return np.array(model(tokens))  # type: ignore[operator]


def converted_logits(gguf: Path, root: Path, tokens: mx.array = PROMPT) -> np.ndarray:
    checkpoint = load_checkpoint(convert_gguf(gguf, root=root))
    assert checkpoint.dtype == "float32"
    return logits(checkpoint.model, tokens)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    "kinds", [lambda _: Kind.F32, lambda _: Kind.F16, lambda _: Kind.BF16, mixed]
)
def test_logits_are_those_of_the_weights(arch: str, kinds: object, tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    model = TinyGguf(arch, kinds=kinds).write(gguf)  # type: ignore[arg-type]
    expected = logits(model)
    assert expected.std() > 0.1
    np.testing.assert_allclose(converted_logits(gguf, tmp_path / "cache"), expected, atol=1e-3)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K, Kind.Q5_1], ids=lambda kind: kind.name)
def test_exact_k_quants(arch: str, kind: Kind, tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    expected = logits(TinyGguf(arch, WIDE, kinds=lambda _: kind).write(gguf))
    found = converted_logits(gguf, tmp_path / "cache")
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_repacked_k_quants_are_close(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    expected = logits(TinyGguf("qwen3", WIDE, kinds=lambda _: Kind.Q6_K).write(gguf))
    found = converted_logits(gguf, tmp_path / "cache")
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


def test_the_order_of_q_and_k_matters(tmp_path: Path) -> None:
    """A llama file read as if its rows were in mlx-lm's order gives other logits."""
    gguf = tmp_path / "tiny.gguf"
    model = TinyGguf("llama").write(gguf)
    expected = logits(model)
    for layer in model.layers:
        weight = layer.self_attn.q_proj.weight
        layer.self_attn.q_proj.weight = weight[::-1]
    assert np.abs(logits(model) - expected).max() > 0.1


def test_biases_of_a_llama_are_reordered_too(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    expected = logits(TinyGguf("llama", {"attention_bias": True}).write(gguf))
    np.testing.assert_allclose(converted_logits(gguf, tmp_path / "cache"), expected, atol=1e-4)


def test_a_tied_head(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    expected = logits(TinyGguf("qwen2", {"tie_word_embeddings": True}).write(gguf))
    np.testing.assert_allclose(converted_logits(gguf, tmp_path / "cache"), expected, atol=1e-4)


def test_windows_of_gemma(tmp_path: Path) -> None:
    """A prompt longer than the window, so that a wrong window or local base shows."""
    gguf = tmp_path / "tiny.gguf"
    tokens = mx.array([[(7 * i) % VOCAB for i in range(80)]])
    expected = logits(TinyGguf("gemma3").write(gguf), tokens)
    found = converted_logits(gguf, tmp_path / "cache", tokens)
    np.testing.assert_allclose(found, expected, atol=1e-3)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama3_divisors(base: float, head_dim: int) -> np.ndarray:
    """What llama.cpp's converter writes as rope_freqs, frequency by frequency."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * base ** (i / head_dim)
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192:
            divisors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / 3
            divisors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(divisors, np.float32)


def test_rotary_scaling_of_llama_3_is_recovered(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    config = {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "max_position_embeddings": 131072}
    tensors = {"rope_freqs.weight": llama3_divisors(500000.0, 16)}
    assert {1.0, 8.0} < set(tensors["rope_freqs.weight"].tolist())
    expected = logits(TinyGguf("llama", config, extra_tensors=tensors).write(gguf))
    np.testing.assert_allclose(converted_logits(gguf, tmp_path / "cache"), expected, atol=1e-4)


def test_unknown_rotary_divisors_are_refused(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama", extra_tensors={"rope_freqs.weight": np.full(8, 3, np.float32)}).write(gguf)
    with pytest.raises(ModelError, match="divisors"):
        convert_gguf(gguf, root=tmp_path / "cache")


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_rotary_scaling_by_metadata(scaling: dict, tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    metadata = {
        "qwen3.rope.scaling.type": scaling["rope_type"],
        "qwen3.rope.scaling.factor": scaling["factor"],
        "qwen3.rope.scaling.original_context_length": 1024,
    }
    tiny = TinyGguf("qwen3", {"rope_scaling": scaling}, metadata=metadata)
    expected = logits(tiny.write(gguf))
    found = converted_logits(gguf, tmp_path / "cache")
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_config_and_end_tokens(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama", kinds=mixed, metadata={"general.sampling.temp": 0.6}).write(gguf)
    folder = convert_gguf(gguf, root=tmp_path / "cache")
    config = json.loads((folder / "config.json").read_text())
    assert config["eos_token_id"] == [2, 0]  # <|im_end|> of the metadata, <|endoftext|> by text
    assert config["rms_norm_eps"] == 1e-6
    assert config["quantization"]["bits"] == 4
    assert config["quantization"]["model.embed_tokens"]["bits"] == 8
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["temperature"] == 0.6
    assert (folder / MANIFEST).exists()


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("qwen2").write(gguf)
    seen: list[tuple[int, int]] = []
    convert_gguf(
        gguf, root=tmp_path, progress=lambda stage, done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_count": 8}, "MoE"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"llama.rope.dimension_count": 4}, "part of each head"),
    ],
)
def test_what_is_not_supported_is_named(metadata: dict, message: str, tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama", metadata=metadata).write(gguf)
    with pytest.raises(ModelError, match=message):
        convert_gguf(gguf, root=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/"))


def test_unknown_pre_tokenizer_and_tensor(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama", pre="from-the-future").write(gguf)
    with pytest.raises(ModelError, match="from-the-future"):
        convert_gguf(gguf, root=tmp_path / "cache")
    extra = {"blk.0.attn_mystery.weight": np.zeros(8, np.float32)}
    TinyGguf("llama", extra_tensors=extra).write(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match="attn_mystery"):
        convert_gguf(tmp_path / "other.gguf", root=tmp_path / "cache")


def test_unknown_architecture(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama").write(gguf)
    data = gguf.read_bytes()
    gguf.write_bytes(data.replace(b"llama", b"lllll"))
    with pytest.raises(ModelError, match="'lllll' is not supported"):
        convert_gguf(gguf, root=tmp_path / "cache")


def test_files_that_are_no_gguf(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama").write(gguf)
    whole = gguf.read_bytes()
    for data, message in [
        (b"", "not a GGUF"),
        (b"<html>not found</html>", "not a GGUF"),
        (whole[:1000], "not a readable"),
        (whole[:-1], "ends inside tensor"),
        (whole[:4] + b"\x09" + whole[5:], "version 9"),
    ]:
        gguf.write_bytes(data)
        with pytest.raises(ModelError, match=message):
            read_gguf(gguf)
    with pytest.raises(ModelError, match="cannot be read"):
        read_gguf(tmp_path / "nowhere.gguf")


def test_any_cut_of_a_gguf_is_an_error_of_ours(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama").write(gguf)
    whole = gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(4, len(whole), len(whole) // 97):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_gguf(cut)
