"""``/v1/completions``: the request and its answer; a chunk has the shape of the answer."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from vllm_mlx.wire.openai_sampling import OpenAIUsage, SamplingFields


class CompletionRequest(SamplingFields, kw_only=True):
    """Body of ``POST /v1/completions``.

    ``prompt`` is a text, a list of texts, one list of token ids, or a list of such lists.
    """

    prompt: str | list[str | int | list[int]]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    add_special_tokens: bool | None = None  # False: no begin-of-text token before a text prompt
    prompt_embeds: Any = None


class CompletionLogprobs(Struct):
    """Parallel lists, one entry per token. ``text_offset`` counts characters in ``text``."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType = UNSET


class Completion(Struct, kw_only=True):
    """The whole answer, or one chunk of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: OpenAIUsage | UnsetType | None = UNSET
