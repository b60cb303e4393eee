"""The fields that chat and completion requests share: sampling, stopping, logprobs, accounting.

A null counts as absent, so every field may be None. Ranges that need the model or another field
are checked in ``dialect/``.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

StopText = Annotated[str, Meta(min_length=1, max_length=4096)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Count = Annotated[int, Meta(ge=1)]


class StreamOptions(Struct, kw_only=True):
    """Only with ``stream``; unknown members are ignored."""

    include_usage: bool | None = None  # one more chunk, without choices, that carries usage
    continuous_usage_stats: bool | None = None  # usage so far in every chunk (vLLM)
    include_obfuscation: Any = None  # padding against traffic analysis; not sent here


class SamplingFields(Struct, kw_only=True):
    """What both endpoints take; vLLM's and this server's extensions are among them."""

    model: str | None = None

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None  # 0 and -1 keep all
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    logit_bias: dict[int, Bias] | None = None  # token id -> added to its logit
    seed: int | None = None

    n: Count | None = None
    best_of: Count | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=16)] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None  # lower runs first
    timeout: Annotated[float, Meta(gt=0)] | None = None  # seconds for the whole answer

    # Accepted because they do not change the answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    cache_salt: Any = None
    spaces_between_special_tokens: Any = None

    # They would change the answer, and are refused by name where they would.
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    bad_words: Any = None
    allowed_token_ids: Any = None
    use_beam_search: Any = None
    length_penalty: Any = None
    truncate_prompt_tokens: Any = None
    prompt_logprobs: Any = None
    include_stop_str_in_output: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    logits_processors: Any = None


class CachedTokens(Struct, frozen=True, gc=False):
    """``cached_tokens``: prompt tokens whose prefill was really saved."""

    cached_tokens: int


class ReasoningTokens(Struct, frozen=True, gc=False):
    reasoning_tokens: int


class OpenAIUsage(Struct, frozen=True, gc=False):
    """Tokens as billed, over all choices; the prompt counts once however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens
