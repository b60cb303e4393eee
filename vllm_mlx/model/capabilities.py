"""What a checkpoint can do, from config.json, tokenizer and chat template; weights are not read."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from vllm_mlx.errors import TemplateFailed
from vllm_mlx.model.codec import HuggingFaceCodec

CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
    "n_ctx",
    "model_max_length",
)
NESTED = ("text_config", "language_config", "llm_config")
# Scalings whose max_position_embeddings may still be that of the unscaled model
STRETCHING = frozenset({"yarn", "deepseek_yarn", "linear", "dynamic"})
UNLIMITED = 100_000_000  # tokenizers without a limit say 10 ** 30
OTHER_SENSES = {"vision_config": "image", "audio_config": "audio"}
THINKING_MARKS = (
    "<think>",
    "enable_thinking",
    "reasoning_content",
    "<|channel|>analysis",
    "[THINK]",
    "<|START_THINKING|>",
)
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool_name",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {}},
    },
}


class Capabilities(NamedTuple):
    """``context_tokens`` is None for a model that states no limit (recurrent ones).

    ``embedding_rows`` is how many ids the model scores; it may exceed ``vocab_tokens``, those
    that have a text. ``unused_senses`` are what the checkpoint could take in and we do not.
    """

    model_type: str
    architecture: str
    context_tokens: int | None
    vocab_tokens: int
    embedding_rows: int
    has_chat_template: bool
    has_tools: bool
    has_thinking: bool
    modalities: tuple[str, ...] = ("text",)
    unused_senses: tuple[str, ...] = ()


def text_configs(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The language model's part of config.json first, then the whole."""
    for key in NESTED:
        if isinstance(config.get(key), dict):
            yield config[key]
    yield config


def text_value(config: dict[str, Any], *keys: str) -> Any:
    """The first of ``keys`` that the language model's part, or the whole, has; else None."""
    for part in text_configs(config):
        for key in keys:
            if part.get(key) is not None:
                return part[key]
    return None


def context_tokens(config: dict[str, Any], tokenizer_limit: float | None = None) -> int | None:
    """Longest context the checkpoint was made for, rotary scaling included; None if unstated."""
    stated = text_value(config, *CONTEXT_KEYS)
    if stated is None:
        usable = tokenizer_limit is not None and tokenizer_limit < UNLIMITED
        return int(tokenizer_limit or 0) if usable else None
    scaling = text_value(config, "rope_scaling", "rope_parameters")
    return max(int(stated), _stretched(scaling if isinstance(scaling, dict) else {}))


def _stretched(scaling: dict[str, Any]) -> int:
    kind = scaling.get("rope_type", scaling.get("type"))
    original = scaling.get("original_max_position_embeddings")
    if kind not in STRETCHING or not original:
        return 0
    return int(original * scaling.get("factor", 1.0))


def read_capabilities(config: dict[str, Any], codec: HuggingFaceCodec) -> Capabilities:
    """What the checkpoint that ``config`` and ``codec`` belong to can do."""
    architectures = config.get("architectures") or [config.get("model_type", "unknown")]
    template = codec.chat_template.source()
    rows = text_value(config, "vocab_size")
    return Capabilities(
        model_type=str(config.get("model_type", "unknown")),
        architecture=str(architectures[0] if isinstance(architectures, list) else architectures),
        context_tokens=context_tokens(config, codec.tokenizer.model_max_length),
        vocab_tokens=codec.vocab_tokens,
        embedding_rows=int(rows) if rows else codec.vocab_tokens,
        has_chat_template=codec.chat_template.exists,
        has_tools=has_tools(codec),
        has_thinking=template is not None and any(mark in template for mark in THINKING_MARKS),
        unused_senses=tuple(sense for key, sense in OTHER_SENSES.items() if config.get(key)),
    )


def has_tools(codec: HuggingFaceCodec) -> bool:
    """Whether a tool that is offered shows in the prompt."""
    messages = [{"role": "user", "content": "hello"}]
    try:
        return "probe_tool_name" in codec.chat_template.render(messages, tools=[PROBE_TOOL])
    except TemplateFailed:
        return False
