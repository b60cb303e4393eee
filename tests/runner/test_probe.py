"""The probe chooses by results: what each kind of model gets, and that broken ones are caught."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, BatchKVCache, CacheList, KVCache, RotatingKVCache

from tests.checkpoints import VOCAB_TOKENS, random_model
from vllm_mlx.runner.probe import Finding, find_mode
from vllm_mlx.runner.token_rows import RowSelector

SAME = "same logits as the model's own caches"
WINDOWS: dict[str, list[int | None]] = {
    "gemma3_text": [32] * 5 + [None],
    "gpt_oss": [32, None],
    "cohere2": [32, 32, 32, None],
}
TOKEN_ROWS = (
    *("llama", "qwen2", "qwen3", "qwen3_moe", "gemma3_text", "gpt_oss", "phi3", "mixtral"),
    *("glm4", "glm4_moe", "cohere2", "granite", "smollm3", "olmoe"),
)
NOT_BY_POSITION = "a layer's state is not keys and values by position (ArraysCache)"
# mode and the beginning of its reason, which says what was tried
OTHERS = {
    "qwen3_next": ("rows", NOT_BY_POSITION),
    "qwen3_5": ("rows", NOT_BY_POSITION),
    "mamba2": ("rows", NOT_BY_POSITION),
    "lfm2": ("rows", NOT_BY_POSITION),
    "deepseek_v3": ("rows", "token rows fail (ValueError: [matmul]"),
    "gemma2": ("single_rows", "token rows give other logits (relative difference"),
}


def probed(model: Any, wanted: str = "auto", fused: bool = False) -> Finding:
    return find_mode(model, VOCAB_TOKENS, 16, fused, wanted)


@pytest.mark.parametrize("fused", [False, True], ids=["written out", "fused"])
@pytest.mark.parametrize("name", TOKEN_ROWS)
def test_attention_models_run_as_token_rows(name: str, fused: bool) -> None:
    finding = probed(random_model(name)[0], fused=fused)
    assert (finding.mode, finding.reason) == ("token_rows", SAME)
    windows = [layer.window_tokens for layer in finding.layers]
    assert windows == WINDOWS.get(name, [None] * len(windows))


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_run_as_rows_and_say_why(name: str) -> None:
    model, _ = random_model(name)
    body = model.model if hasattr(model, "model") else None
    finding = probed(model)
    mode, reason = OTHERS[name]
    assert finding.mode == mode
    assert finding.reason.startswith(reason)
    assert finding.layers == []
    if mode == "single_rows":  # why not a batch either
        assert "; " in finding.reason
    assert (model.model if body else None) is body  # what was tried is undone


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss"])
def test_rows_can_be_asked_for(name: str) -> None:
    finding = probed(random_model(name)[0], wanted="rows")
    assert (finding.mode, finding.reason) == ("rows", "asked for by model.mode")


def test_a_batch_that_mixes_sequences_up_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    extend = BatchKVCache.extend

    def swapped(self: BatchKVCache, other: BatchKVCache) -> None:
        extend(self, other)
        self.keys = self.keys[::-1]

    monkeypatch.setattr(BatchKVCache, "extend", swapped)
    finding = probed(random_model("llama")[0], wanted="rows")
    assert finding.mode == "single_rows"
    assert "a batch gives other logits" in finding.reason


def test_a_batch_that_is_wrong_only_past_its_window_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The longest sequence of the probe has filled the window before it joins."""
    merge = RotatingKVCache.merge

    def forgetful(caches: Any) -> Any:
        merged = merge(caches)
        if caches[0].offset > caches[0].max_size:
            merged.values = merged.values * 0
        return merged

    monkeypatch.setattr(RotatingKVCache, "merge", forgetful)
    assert probed(random_model("gemma3_text")[0], wanted="rows").mode == "single_rows"


def altered(module: Any, **methods: Any) -> Any:
    """The same module, with some methods of its class replaced."""
    module.__class__ = type("Altered", (type(module),), methods)
    return module


def test_a_window_that_attention_does_not_keep_is_found() -> None:
    """A model whose own caches have windows runs as token rows, unless it looks further back."""
    windowed = {"make_cache": lambda self: [RotatingKVCache(32) for _ in self.layers]}
    plain = type(random_model("llama")[0])

    def further(self: Any, inputs: mx.array, cache: Any = None) -> mx.array:
        logits: mx.array = plain.__call__(self, inputs, cache=cache)
        return logits + (inputs.shape[1] > 40)

    assert probed(altered(random_model("mixtral")[0], **windowed)).mode == "token_rows"
    finding = probed(altered(random_model("llama")[0], __call__=further, **windowed))
    assert finding.mode != "token_rows"
    assert "token rows give other logits" in finding.reason


def test_a_body_whose_output_has_no_rows_is_found() -> None:
    """Only the sampled rows go through the head when serving: the probe goes that way too."""
    model, _ = random_model("llama")
    body, head = type(model.model), type(model.lm_head)
    altered(model.model, __call__=lambda self, *a, **k: {"hidden": body.__call__(self, *a, **k)})
    altered(model.lm_head, __call__=lambda self, out: head.__call__(self, out["hidden"]))
    finding = probed(model)
    assert finding.mode == "rows"
    assert finding.reason.startswith("token rows fail (")
    assert not isinstance(model.model, RowSelector)


def test_nested_caches_are_no_token_rows() -> None:
    model, _ = random_model("llama")
    nested = altered(model, make_cache=lambda self: [CacheList(KVCache()) for _ in self.layers])
    assert probed(nested).reason.startswith("a layer's state is not keys and values by position")
    mixed = altered(model, make_cache=lambda self: [KVCache(), ArraysCache(2)])
    assert probed(mixed).reason.startswith(NOT_BY_POSITION)
