"""Flags as data: the table is complete, every flag writes what it says, values survive Hydra."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import Compose
from vllm_mlx.assembly import load_settings
from vllm_mlx.cli import serve_words
from vllm_mlx.errors import UsageError
from vllm_mlx.flags import FLAGS, GROUPS, quoted
from vllm_mlx.usage import usage

# Every flag of the original's `serve`, and those that its documentation names.
ORIGINAL_SPELLED = """
--models-config --memory-budget-gb --served-model-name --mllm --trust-remote-code
--download-timeout --download-retries --offline --lazy-load-model --auto-unload-idle-seconds
--host --port --api-key --rate-limit --timeout --max-tokens --max-request-tokens --enable-metrics
--max-audio-upload-mb --max-tts-input-chars --continuous-batching --max-num-seqs
--prefill-batch-size --completion-batch-size --prefill-step-size --mllm-prefill-step-size
--chunked-prefill-tokens --stream-interval --max-kv-size --gpu-memory-utilization
--enable-prefix-cache --disable-prefix-cache --prefix-cache-size --cache-memory-mb
--cache-memory-percent --no-memory-aware-cache --use-paged-cache --paged-cache-block-size
--max-cache-blocks --kv-cache-quantization --kv-cache-quantization-bits
--kv-cache-quantization-group-size --kv-cache-min-quantize-tokens --ssd-cache-dir
--ssd-cache-max-gb --warm-prompts --prefix-trie-cache --prefix-trie-cache-size
--prefix-trie-cache-memory-mb --enable-mtp --mtp-num-draft-tokens --mtp-optimistic --specprefill
--specprefill-threshold --specprefill-keep-pct --specprefill-backbone-pct
--specprefill-draft-model --mllm-draft-model --mllm-draft-kind --mllm-draft-block-size
--default-mllm-draft --enable-auto-tool-choice --tool-call-parser --reasoning-parser
--default-temperature --default-top-p --default-top-k --default-min-p --default-presence-penalty
--default-repetition-penalty --default-thinking-token-budget --default-chat-template-kwargs
--embedding-model --embedding-max-length --embedding-overflow-policy --rerank-model --mcp-config
--moe-top-k --enable-mllm-cache --mllm-cache-max-mb
"""
ORIGINAL = ORIGINAL_SPELLED.split()

# A command line -> the one place of the tree that it changes.
WRITES: list[tuple[list[str], str, Any]] = [
    (["--served-model-name", "it's me"], "api.served_name", "it's me"),
    (["--revision", "v1"], "model.revision", "v1"),
    (["--dtype", "bfloat16"], "model.dtype", "bfloat16"),
    (["--max-model-len", "512"], "model.context_tokens", 512),
    (["--chat-template", "a b.jinja"], "model.chat_template", "a b.jinja"),
    (["--trust-remote-code"], "model.trust_remote_code", True),
    (["--download-timeout", "7.5"], "model.download.timeout_seconds", 7.5),
    (["--download-retries", "0"], "model.download.retries", 0),
    (["--offline"], "model.download.offline", True),
    (["--host", "::1"], "api.host", "::1"),
    (["--port", "8055"], "api.port", 8055),
    (["--port=8055"], "api.port", 8055),
    (["--api-key", "${a},b=c"], "api.api_key", "${a},b=c"),
    (["--rate-limit", "60"], "api.rate_limit_per_minute", 60),
    (["--timeout", "300"], "api.request_timeout_seconds", 300.0),
    (["--max-tokens", "5"], "api.default_max_tokens", 5),
    (["--max-request-tokens", "6"], "api.max_request_tokens", 6),
    (["api.metrics=false", "--enable-metrics"], "api.metrics", False),  # key=value is stronger
    (["--no-continuous-batching"], "scheduler", "SerialScheduler"),
    (["scheduler=serial"], "scheduler", "SerialScheduler"),
    (["--no-continuous-batching", "--continuous-batching"], "scheduler", "ContinuousScheduler"),
    (["--max-num-seqs", "3"], "scheduler.max_running", 3),
    (["--max-num-batched-tokens", "99"], "scheduler.step_tokens", 99),
    (["--prefill-step-size", "77"], "scheduler.prefill_chunk_tokens", 77),
    (["--chunked-prefill-tokens", "88"], "scheduler.step_tokens", 88),
    (["--use-paged-cache"], "cache", "PagedCache"),
    (["--paged-cache-block-size", "64"], "cache.block_tokens", 64),
    (["--disable-prefix-cache"], "cache", "NoCache"),
    (["--disable-prefix-cache", "--enable-prefix-cache"], "cache", "PagedCache"),
    (["--default-temperature", "0.5"], "model.sampling.temperature", 0.5),
    (["--default-top-p", "0.5"], "model.sampling.top_p", 0.5),
    (["--default-top-k", "5"], "model.sampling.top_k", 5),
    (["--default-min-p", "0.1"], "model.sampling.min_p", 0.1),
    (["--default-presence-penalty", "-1"], "model.sampling.presence_penalty", -1.0),
    (["--default-repetition-penalty", "1.1"], "model.sampling.repetition_penalty", 1.1),
    (
        ["--default-chat-template-kwargs", '{"enable_thinking": false, "n": [1, null, "a,b}"]}'],
        "model.chat_template_kwargs",
        {"enable_thinking": False, "n": [1, None, "a,b}"]},
    ),
    (["--rate-limit", "0", "api.rate_limit_per_minute=9"], "api.rate_limit_per_minute", 9),
]


def value_at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = getattr(settings, name)
    return type(settings).__name__ if path in ("scheduler", "cache") else settings


def test_the_table_covers_the_original_and_nothing_twice() -> None:
    names = [flag.name for flag in FLAGS]
    assert len(names) == len(set(names))
    assert set(ORIGINAL) <= set(names)
    assert {flag.group for flag in FLAGS} == set(GROUPS)
    for flag in FLAGS:
        assert (flag.translate is None) == (flag.missing is not None), flag.name


@pytest.mark.parametrize(("words", "path", "expected"), WRITES)
def test_flag_writes(words: list[str], path: str, expected: Any, compose_config: Compose) -> None:
    settings = load_settings(compose_config(*serve_words(words)))
    assert value_at(settings, path) == expected


def test_every_translated_flag_is_tested_above() -> None:
    tested = {word.split("=")[0] for words, _, _ in WRITES for word in words}
    assert {flag.name for flag in FLAGS if flag.translate} <= tested


def test_zero_switches_limits_off(compose_config: Compose) -> None:
    cfg = compose_config("api=shared", *serve_words(["--rate-limit", "0", "--timeout", "0"]))
    assert cfg.api.rate_limit_per_minute is None
    assert cfg.api.request_timeout_seconds is None


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.missing], ids=lambda f: f.name)
def test_flag_without_a_feature_is_refused_by_name(flag: Any) -> None:
    words = [flag.name] if flag.value is None else [flag.name, "1"]
    with pytest.raises(UsageError, match=f"^{flag.name} is refused: .* does not exist yet$"):
        serve_words(words)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda f: f.name)
def test_help_names_every_flag(flag: Any) -> None:
    assert flag.name in usage().split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prot", "1"], "unknown flag --prot: did you mean --port?"),
        (["--port"], "--port PORT: the value is missing"),
        (["--port", "--offline"], "--port PORT: the value is missing"),
        (["--port", "eight"], "--port expects a whole number, not 'eight'"),
        (["--timeout", "soon"], "--timeout expects a number, not 'soon'"),
        (["--offline=yes"], "--offline takes no value"),
        (["--po", "1"], "unknown flag --po"),
        (["a", "b"], "one MODEL at a time: 'a' and 'b'"),
        (["--chunked-prefill-tokens", "0"], "prefill is always chunked"),
        (["--default-chat-template-kwargs", "[1]"], "expects a JSON object"),
        (["--default-chat-template-kwargs", "{"], "expects a JSON object"),
        (["--default-chat-template-kwargs", '{"a b": 1}'], "cannot pass the key 'a b'"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        serve_words(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_and_keys_and_hydra_flags_mix(tmp_path: Any, compose_config: Compose) -> None:
    folder = tmp_path / "a=b, it's {1}"
    folder.mkdir()
    words = serve_words([str(folder), "cache=none", "--port", "1", "--cfg", "job", "-p", "api"])
    assert words[-4:] == ["--cfg", "job", "-p", "api"]
    settings = load_settings(compose_config(*words[:-4]))
    assert settings.model.path == str(folder)
    assert value_at(settings, "cache") == "NoCache"
    assert settings.api.port == 1


def test_without_a_model_the_default_is_served(compose_config: Compose) -> None:
    assert serve_words([]) == []
    assert load_settings(compose_config()).model.path == "embedded"


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, compose_config: Compose) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = load_settings(compose_config(*serve_words(["~/models/x"])))
    assert settings.model.path == "/home/me/models/x"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20))
def test_quoting_carries_any_text(compose_config: Compose, text: str) -> None:
    cfg = compose_config(f"api.served_name={quoted(text)}")
    assert OmegaConf.to_container(cfg, resolve=True)["api"]["served_name"] == text  # type: ignore[index,call-overload]


KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(
    lambda key: key not in ("null", "true", "false", "nan", "inf")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("a'\"${},:\\ ", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(arguments=st.dictionaries(KEYS, VALUES, max_size=3))
def test_template_arguments_arrive_as_given(compose_config: Compose, arguments: Any) -> None:
    words = serve_words(["--default-chat-template-kwargs", json.dumps(arguments)])
    assert load_settings(compose_config(*words)).model.chat_template_kwargs == arguments
