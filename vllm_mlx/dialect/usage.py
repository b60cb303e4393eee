"""Usage of all choices as one OpenAI block, at the end and while the stream runs."""

from collections.abc import Mapping

from vllm_mlx.core.delta import Finished
from vllm_mlx.wire.openai_sampling import CachedTokens, OpenAIUsage, ReasoningTokens


def to_usage(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> OpenAIUsage:
    return OpenAIUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=CachedTokens(cached),
        completion_tokens_details=ReasoningTokens(reasoning),
    )


def sum_usage(finished: Mapping[int, Finished], choices_per_prompt: int) -> OpenAIUsage:
    """Each prompt is billed once: prompt and cached tokens come from its first choice."""
    first = [finished[i] for i in sorted(finished) if i % choices_per_prompt == 0]
    return to_usage(
        sum(end.usage.prompt_tokens for end in first),
        sum(end.usage.completion_tokens for end in finished.values()),
        cached=sum(end.usage.cached_tokens for end in first),
        reasoning=sum(end.usage.reasoning_tokens for end in finished.values()),
    )
