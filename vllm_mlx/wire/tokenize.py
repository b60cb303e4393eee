"""``/tokenize`` and ``/detokenize``, in vLLM's shapes."""

from typing import Any

from msgspec import Struct

from vllm_mlx.wire.openai_chat import ChatMessages


class TokenizeRequest(Struct, kw_only=True):
    """Exactly one of ``prompt`` and ``messages``."""

    model: str | None = None
    prompt: str | None = None
    messages: ChatMessages | None = None
    add_special_tokens: bool | None = None  # for ``prompt``; True when absent
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: Any = None
    tools: list[Any] | None = None


class TokenizeAnswer(Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None
    skip_special_tokens: bool | None = None  # False when absent, so that it inverts /tokenize


class DetokenizeAnswer(Struct):
    prompt: str
