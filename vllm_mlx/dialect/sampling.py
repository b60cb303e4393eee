"""Shared request fields to Sampling and Stopping, and the refusal of what is not implemented."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vllm_mlx.core.card import ModelCard
from vllm_mlx.core.generation import Sampling, Stopping
from vllm_mlx.dialect.base import RequestLimits
from vllm_mlx.errors import PromptTooLong, RequestError, UnsupportedField
from vllm_mlx.wire.openai_sampling import SamplingFields

SEED_LOW, SEED_HIGH = -(2**63), 2**64 - 1


def is_given(value: Any) -> bool:
    """Not null."""
    return value is not None


def is_filled(value: Any) -> bool:
    """Neither null nor empty nor false: ``tools: []`` and ``echo: false`` ask for nothing."""
    return value is not None and value is not False and value not in ([], {}, "")


def is_not_one(value: Any) -> bool:
    return value is not None and value != 1


def asks_for_format(value: Any) -> bool:
    """A response format other than plain text."""
    return value is not None and not (isinstance(value, dict) and value.get("type") == "text")


# field -> whether its value would change the answer
SHARED_UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "response_format": asks_for_format,
    "structured_outputs": is_filled,
    "guided_json": is_given,
    "guided_regex": is_given,
    "guided_choice": is_given,
    "guided_grammar": is_given,
    "bad_words": is_filled,
    "allowed_token_ids": is_filled,
    "use_beam_search": is_filled,
    "length_penalty": is_not_one,
    "truncate_prompt_tokens": is_given,
    "prompt_logprobs": is_given,
    "include_stop_str_in_output": is_filled,
    "return_token_ids": is_filled,
    "return_tokens_as_token_ids": is_filled,
    "logits_processors": is_filled,
}


def check_unsupported(body: Any, table: Mapping[str, Callable[[Any], bool]]) -> None:
    """Raise UnsupportedField for the first field of the table that would change the answer."""
    for name, changes_answer in table.items():
        if changes_answer(getattr(body, name)):
            raise UnsupportedField(name)


def check_token_ids(ids: Iterable[int], vocab_tokens: int, param: str) -> None:
    """Raise RequestError unless every id is a token of the model."""
    for token_id in ids:
        if not 0 <= token_id < vocab_tokens:
            raise RequestError(
                f"Invalid '{param}': {token_id} is not a token id of this model, "
                f"whose ids are 0 to {vocab_tokens - 1}.",
                param=param,
                code="invalid_value",
            )


def check_choices(body: SamplingFields, limits: RequestLimits) -> int:
    """The number of choices asked for; RequestError beyond the operator's limit."""
    for param in ("n", "best_of"):
        count = getattr(body, param)
        if count is not None and count > limits.max_n:
            raise RequestError(
                f"Invalid '{param}': at most {limits.max_n} choices are allowed, got {count}.",
                param=param,
                code="integer_above_max_value",
            )
    return body.n or 1


def check_room(prompt_tokens: int, completion_tokens: int, card: ModelCard, param: str) -> None:
    """Raise PromptTooLong unless the context holds the prompt and so many tokens more."""
    if prompt_tokens + completion_tokens > card.context_tokens:
        raise PromptTooLong(prompt_tokens, card.context_tokens, param)


def to_sampling(body: SamplingFields, defaults: Mapping[str, float], vocab_tokens: int) -> Sampling:
    """The request's values; where it is silent, ``defaults``; where they are, OpenAI's."""
    bias = body.logit_bias or {}
    check_token_ids(bias, vocab_tokens, "logit_bias")
    if body.seed is not None and not SEED_LOW <= body.seed <= SEED_HIGH:
        raise RequestError(
            "Invalid 'seed': must fit into 64 bits.", param="seed", code="invalid_value"
        )

    def value(name: str, openai_default: float) -> float:
        asked: float | None = getattr(body, name)
        return defaults.get(name, openai_default) if asked is None else asked

    return Sampling(
        temperature=float(value("temperature", 1.0)),
        top_p=float(value("top_p", 1.0)),
        top_k=max(0, int(value("top_k", 0))),
        min_p=float(value("min_p", 0.0)),
        presence_penalty=float(value("presence_penalty", 0.0)),
        frequency_penalty=float(value("frequency_penalty", 0.0)),
        repetition_penalty=float(value("repetition_penalty", 1.0)),
        logit_bias=bias,
        seed=body.seed,
    )


def to_stopping(
    body: SamplingFields, max_tokens: int | None, limits: RequestLimits, vocab_tokens: int
) -> Stopping:
    """``max_tokens`` is what the client asked for; the operator's default and cap apply here."""
    min_tokens = body.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise RequestError(
            f"Invalid 'min_tokens': {min_tokens} is more than max_tokens ({max_tokens}).",
            param="min_tokens",
            code="invalid_value",
        )
    check_token_ids(body.stop_token_ids or (), vocab_tokens, "stop_token_ids")
    allowed = limits.default_max_tokens if max_tokens is None else max_tokens
    if limits.max_request_tokens is not None:
        allowed = min(limits.max_request_tokens, allowed or limits.max_request_tokens)
        if max_tokens == 0:
            allowed = 0
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Stopping(
        max_tokens=allowed,
        min_tokens=min_tokens if allowed is None else min(min_tokens, allowed),
        stop=stop,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
    )
