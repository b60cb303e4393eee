"""Flags of `vllm-mlx serve` as data: what each writes into the configuration, or why it cannot yet.

How a command line is read is in ``cli.py``; types and limits are in ``settings.py``.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

Overrides = list[str]
Translate = Callable[[str], Overrides]

# What Hydra reads as a string where a dictionary has a key.
PLAIN_KEY = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_][A-Za-z0-9_]*", re.IGNORECASE)


class FlagError(ValueError):
    """The value of a flag cannot be translated."""


@dataclass(frozen=True)
class Flag:
    """One flag. ``value`` names its argument (None: a switch); one of the last two is set."""

    name: str
    group: str
    value: str | None
    text: str
    translate: Translate | None = None
    missing: str | None = None  # the feature that does not exist yet

    @property
    def spelled(self) -> str:
        return f"{self.name} {self.value}" if self.value else self.name


def quoted(text: str) -> str:
    """``text`` as one string of Hydra's override grammar, whatever is in it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    return QuotedString(text=plain, quote=Quote.single).with_quotes()


def number(kind: type[int] | type[float], text: str) -> str:
    try:
        return str(kind(text))
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise FlagError(f"expects {wanted}, not '{text}'") from None


def string(key: str) -> Translate:
    return lambda text: [f"{key}={quoted(text)}"]


def integer(key: str) -> Translate:
    return lambda text: [f"{key}={number(int, text)}"]


def decimal(key: str) -> Translate:
    return lambda text: [f"{key}={number(float, text)}"]


def zero_is_off(kind: type[int] | type[float], key: str) -> Translate:
    def translate(text: str) -> Overrides:
        value = number(kind, text)
        return [f"{key}={'null' if float(value) == 0 else value}"]

    return translate


def fixed(*overrides: str) -> Translate:
    return lambda _: list(overrides)


def positive_integer(key: str, why_not_zero: str) -> Translate:
    def translate(text: str) -> Overrides:
        value = number(int, text)
        if int(value) < 1:
            raise FlagError(why_not_zero)
        return [f"{key}={value}"]

    return translate


def literal(value: object) -> str:
    """A JSON value in Hydra's override grammar, where keys cannot be quoted."""
    if isinstance(value, dict):
        if odd := [key for key in value if not PLAIN_KEY.fullmatch(key)]:
            raise FlagError(f"cannot pass the key '{odd[0]}': letters, digits and _ only")
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(literal(item) for item in value) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def json_object(key: str) -> Translate:
    def translate(text: str) -> Overrides:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise FlagError(f"expects a JSON object: {error}") from None
        if not isinstance(value, dict):
            raise FlagError("expects a JSON object")
        return [f"++{key}={literal(value)}"]

    return translate


MODEL, NETWORK, SCHEDULING, CACHE = "Model", "Network", "Scheduling", "Cache"
SAMPLING, SPECULATION, PARSING = "Sampling defaults", "Speculation", "Parsing"
OTHER = "Other models and tools"
GROUPS = (MODEL, NETWORK, SCHEDULING, CACHE, SAMPLING, SPECULATION, PARSING, OTHER)

VISION, AUDIO, MANY = "image and video input", "audio", "serving several models"
PREFIX_CAP = "a cap on reused prefixes alone (see cache.memory_gib)"
OTHER_CACHE = "a cache of whole prompts (see cache=paged)"
QUANTIZED = "a quantized KV cache"
SSD, MTP, SPARSE = "the SSD tier", "MTP speculation", "sparse prefill"


def sets(name: str, group: str, value: str | None, text: str, translate: Translate) -> Flag:
    return Flag(name, group, value, text, translate)


def missing(name: str, group: str, value: str | None, feature: str) -> Flag:
    return Flag(name, group, value, f"not yet: {feature}", missing=feature)


FLAGS: tuple[Flag, ...] = (
    sets("--served-model-name", MODEL, "NAME", "name in the API", string("api.served_name")),
    sets("--revision", MODEL, "REV", "branch, tag or commit of a hub id", string("model.revision")),
    sets("--dtype", MODEL, "TYPE", "auto, float32, bfloat16, float16", string("model.dtype")),
    sets("--max-model-len", MODEL, "N", "cap on the context", integer("model.context_tokens")),
    sets("--chat-template", MODEL, "FILE", "a Jinja file", string("model.chat_template")),
    sets(
        "--trust-remote-code",
        MODEL,
        None,
        "run Python that comes with the checkpoint",
        fixed("model.trust_remote_code=true"),
    ),
    sets(
        "--download-timeout",
        MODEL,
        "SECONDS",
        "silence of the hub before a retry",
        decimal("model.download.timeout_seconds"),
    ),
    sets("--download-retries", MODEL, "N", "of the hub", integer("model.download.retries")),
    sets(
        "--offline", MODEL, None, "use only what is on disk", fixed("model.download.offline=true")
    ),
    missing("--mllm", MODEL, None, VISION),
    missing("--models-config", MODEL, "FILE", MANY),
    missing("--memory-budget-gb", MODEL, "GB", MANY),
    missing("--lazy-load-model", MODEL, None, "loading at the first request"),
    missing("--auto-unload-idle-seconds", MODEL, "SECONDS", "unloading an idle model"),
    missing("--moe-top-k", MODEL, "N", "fewer experts a token"),
    sets("--host", NETWORK, "HOST", "address to listen on", string("api.host")),
    sets("--port", NETWORK, "PORT", "0 picks a free one", integer("api.port")),
    sets("--api-key", NETWORK, "KEY", "what callers must send", string("api.api_key")),
    sets(
        "--rate-limit",
        NETWORK,
        "N",
        "requests a minute and client, 0: no limit",
        zero_is_off(int, "api.rate_limit_per_minute"),
    ),
    sets(
        "--timeout",
        NETWORK,
        "SECONDS",
        "of one request, 0: none",
        zero_is_off(float, "api.request_timeout_seconds"),
    ),
    sets(
        "--max-tokens",
        NETWORK,
        "N",
        "completion tokens where a request is silent",
        integer("api.default_max_tokens"),
    ),
    sets(
        "--max-request-tokens",
        NETWORK,
        "N",
        "cap on a request's max_tokens",
        integer("api.max_request_tokens"),
    ),
    sets("--enable-metrics", NETWORK, None, "/metrics (the default)", fixed("api.metrics=true")),
    missing("--max-audio-upload-mb", NETWORK, "MB", AUDIO),
    missing("--max-tts-input-chars", NETWORK, "N", AUDIO),
    sets(
        "--continuous-batching",
        SCHEDULING,
        None,
        "many sequences in one step (the default)",
        fixed("scheduler=continuous"),
    ),
    sets(
        "--no-continuous-batching",
        SCHEDULING,
        None,
        "one sequence at a time",
        fixed("scheduler=serial"),
    ),
    sets("--max-num-seqs", SCHEDULING, "N", "in one batch", integer("scheduler.max_running")),
    sets(
        "--max-num-batched-tokens",
        SCHEDULING,
        "N",
        "token budget of a step",
        integer("scheduler.step_tokens"),
    ),
    sets(
        "--prefill-step-size",
        SCHEDULING,
        "N",
        "the most one prompt gets of a step",
        integer("scheduler.prefill_chunk_tokens"),
    ),
    sets(
        "--chunked-prefill-tokens",
        SCHEDULING,
        "N",
        "cap on the tokens of a step, prefill included",
        positive_integer("scheduler.step_tokens", "prefill is always chunked: give 1 or more"),
    ),
    missing(
        "--prefill-batch-size", SCHEDULING, "N", "a separate prefill batch (see --max-num-seqs)"
    ),
    missing(
        "--completion-batch-size", SCHEDULING, "N", "a separate decode batch (see --max-num-seqs)"
    ),
    missing("--mllm-prefill-step-size", SCHEDULING, "N", VISION),
    missing("--stream-interval", SCHEDULING, "N", "several tokens a stream chunk"),
    missing("--max-kv-size", SCHEDULING, "N", "a rotating KV bound per sequence"),
    missing(
        "--gpu-memory-utilization",
        SCHEDULING,
        "SHARE",
        "a share of memory (see cache.memory_gib)",
    ),
    sets(
        "--use-paged-cache", CACHE, None, "blocks of one pool (the default)", fixed("cache=paged")
    ),
    sets(
        "--paged-cache-block-size",
        CACHE,
        "N",
        "tokens in a block",
        integer("cache.block_tokens"),
    ),
    missing("--max-cache-blocks", CACHE, "N", "a cap in blocks (see cache.memory_gib)"),
    sets(
        "--enable-prefix-cache",
        CACHE,
        None,
        "find blocks of earlier prompts again (the default)",
        fixed("cache=paged"),
    ),
    sets(
        "--disable-prefix-cache",
        CACHE,
        None,
        "forget a sequence when it ends",
        fixed("cache=none"),
    ),
    missing("--prefix-cache-size", CACHE, "N", PREFIX_CAP),
    missing("--cache-memory-mb", CACHE, "MB", PREFIX_CAP),
    missing("--cache-memory-percent", CACHE, "SHARE", PREFIX_CAP),
    missing("--no-memory-aware-cache", CACHE, None, OTHER_CACHE),
    missing("--prefix-trie-cache", CACHE, None, OTHER_CACHE),
    missing("--prefix-trie-cache-size", CACHE, "N", PREFIX_CAP),
    missing("--prefix-trie-cache-memory-mb", CACHE, "MB", PREFIX_CAP),
    missing("--kv-cache-quantization", CACHE, None, QUANTIZED),
    missing("--kv-cache-quantization-bits", CACHE, "BITS", QUANTIZED),
    missing("--kv-cache-quantization-group-size", CACHE, "N", QUANTIZED),
    missing("--kv-cache-min-quantize-tokens", CACHE, "N", QUANTIZED),
    missing("--ssd-cache-dir", CACHE, "DIR", SSD),
    missing("--ssd-cache-max-gb", CACHE, "GB", SSD),
    missing("--warm-prompts", CACHE, "FILE", "warm prompts"),
    missing("--enable-mllm-cache", CACHE, None, VISION),
    missing("--mllm-cache-max-mb", CACHE, "MB", VISION),
    sets("--default-temperature", SAMPLING, "X", "0 to 2", decimal("model.sampling.temperature")),
    sets("--default-top-p", SAMPLING, "X", "above 0, up to 1", decimal("model.sampling.top_p")),
    sets("--default-top-k", SAMPLING, "N", "0 keeps all", integer("model.sampling.top_k")),
    sets("--default-min-p", SAMPLING, "X", "0 to 1", decimal("model.sampling.min_p")),
    sets(
        "--default-presence-penalty",
        SAMPLING,
        "X",
        "-2 to 2",
        decimal("model.sampling.presence_penalty"),
    ),
    sets(
        "--default-repetition-penalty",
        SAMPLING,
        "X",
        "1 is none",
        decimal("model.sampling.repetition_penalty"),
    ),
    sets(
        "--default-chat-template-kwargs",
        SAMPLING,
        "JSON",
        "arguments of the chat template where a request is silent",
        json_object("model.chat_template_kwargs"),
    ),
    missing("--default-thinking-token-budget", SAMPLING, "N", "a budget for thinking"),
    missing("--enable-mtp", SPECULATION, None, MTP),
    missing("--mtp-num-draft-tokens", SPECULATION, "N", MTP),
    missing("--mtp-optimistic", SPECULATION, None, MTP),
    missing("--specprefill", SPECULATION, None, SPARSE),
    missing("--specprefill-threshold", SPECULATION, "N", SPARSE),
    missing("--specprefill-keep-pct", SPECULATION, "SHARE", SPARSE),
    missing("--specprefill-backbone-pct", SPECULATION, "SHARE", SPARSE),
    missing("--specprefill-draft-model", SPECULATION, "MODEL", SPARSE),
    missing("--mllm-draft-model", SPECULATION, "MODEL", VISION),
    missing("--mllm-draft-kind", SPECULATION, "KIND", VISION),
    missing("--mllm-draft-block-size", SPECULATION, "N", VISION),
    missing("--default-mllm-draft", SPECULATION, None, VISION),
    missing("--enable-auto-tool-choice", PARSING, None, "tool calls"),
    missing("--tool-call-parser", PARSING, "NAME", "tool calls"),
    missing("--reasoning-parser", PARSING, "NAME", "reasoning output"),
    missing("--embedding-model", OTHER, "MODEL", "embeddings"),
    missing("--embedding-max-length", OTHER, "N", "embeddings"),
    missing("--embedding-overflow-policy", OTHER, "POLICY", "embeddings"),
    missing("--rerank-model", OTHER, "MODEL", "reranking"),
    missing("--mcp-config", OTHER, "FILE", "MCP servers"),
)
