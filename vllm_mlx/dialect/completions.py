"""``/v1/completions``: request to Generations, deltas to chunks, chunks to the answer.

With several prompts and several choices each, choice ``p * n + j`` is the j-th of prompt p.
"""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from vllm_mlx.core.card import ModelCard
from vllm_mlx.core.delta import (
    Delta,
    Finished,
    PromptScored,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from vllm_mlx.core.generation import Generation
from vllm_mlx.dialect.base import RequestLimits
from vllm_mlx.dialect.logprobs import LegacyLogprobs
from vllm_mlx.dialect.sampling import (
    SHARED_UNSUPPORTED,
    check_choices,
    check_room,
    check_token_ids,
    check_unsupported,
    is_filled,
    is_given,
    to_sampling,
    to_stopping,
)
from vllm_mlx.dialect.usage import sum_usage, to_usage
from vllm_mlx.errors import RequestError
from vllm_mlx.wire.openai_completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from vllm_mlx.wire.openai_sampling import OpenAIUsage

COMPLETION_UNSUPPORTED = SHARED_UNSUPPORTED | {"suffix": is_filled, "prompt_embeds": is_given}
DEFAULT_MAX_TOKENS = 16  # OpenAI's documented default of this endpoint
MOST_CHOICES = 4096  # of all prompts together: more would only wait in memory

Prompt = str | list[int]


def check_request(body: CompletionRequest) -> None:
    """Refuse what would change the answer and is not implemented, and contradictions."""
    check_unsupported(body, COMPLETION_UNSUPPORTED)
    if body.max_tokens == 0 and not body.echo:
        raise _invalid("max_tokens", "must be at least 1; 0 is allowed only with 'echo'.")
    count, best_of = body.n or 1, body.best_of
    if best_of is not None and best_of < count:
        raise _invalid("best_of", f"must be at least n ({count}), got {best_of}.")
    if best_of is not None and best_of > count and body.stream:
        raise _invalid("best_of", "cannot be streamed: the best are known only at the end.")
    many = isinstance(body.prompt, list) and not isinstance(next(iter(body.prompt), 0), int)
    if (len(body.prompt) if many else 1) * samples_per_prompt(body) > MOST_CHOICES:
        raise _invalid("prompt", f"at most {MOST_CHOICES} choices in one request.")


def _invalid(param: str, why: str) -> RequestError:
    return RequestError(f"Invalid '{param}': {why}", param=param, code="invalid_value")


def to_prompts(body: CompletionRequest, vocab_tokens: int) -> list[Prompt]:
    """The prompts one by one. Raises RequestError for empty or mixed lists and unknown ids."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    if not body.prompt:
        raise _invalid("prompt", "must not be empty.")
    first = body.prompt[0]
    if isinstance(first, int):
        return [_one_list(body.prompt, vocab_tokens)]
    if isinstance(first, str):
        for i, item in enumerate(body.prompt):
            if not isinstance(item, str):
                raise _invalid(f"prompt[{i}]", "a list of texts may hold nothing else.")
        return list(body.prompt)  # type: ignore[arg-type]  # checked above
    return [_ids(item, i, vocab_tokens) for i, item in enumerate(body.prompt)]


def _ids(item: str | int | list[int], i: int, vocab_tokens: int) -> list[int]:
    if not isinstance(item, list) or not item:
        raise _invalid(f"prompt[{i}]", "expected a list of token ids that is not empty.")
    check_token_ids(item, vocab_tokens, f"prompt[{i}]")
    return item


def _one_list(items: Sequence[str | int | list[int]], vocab_tokens: int) -> list[int]:
    ids = [item for item in items if isinstance(item, int)]
    if len(ids) != len(items):
        raise _invalid("prompt", "a list of token ids may hold nothing else.")
    check_token_ids(ids, vocab_tokens, "prompt")
    return ids


def samples_per_prompt(body: CompletionRequest) -> int:
    """How many choices are generated for each prompt, of which ``n`` are given back."""
    return body.best_of or body.n or 1


def to_generations(
    body: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    *,
    id: str,
    card: ModelCard,
    limits: RequestLimits,
) -> list[Generation]:
    """``samples_per_prompt`` Generations for each prompt, prompt by prompt."""
    check_choices(body, limits)
    for ids in prompts:
        if not ids:
            raise _invalid("prompt", "must not be empty.")
        check_room(len(ids), 0 if body.max_tokens == 0 else 1, card, "prompt")
    asked = body.max_tokens
    if asked is None and limits.default_max_tokens is None:
        asked = max(DEFAULT_MAX_TOKENS, body.min_tokens or 0)
    sampling = to_sampling(body, card.sampling_defaults, card.vocab_tokens)
    stopping = to_stopping(body, asked, limits, card.vocab_tokens)
    ranked = samples_per_prompt(body) > (body.n or 1)
    top_logprobs = 0 if ranked and body.logprobs is None else body.logprobs
    return [
        Generation(
            id=id,
            prompt_ids=tuple(ids),
            sampling=sampling,
            stopping=stopping,
            choice=choice,
            priority=body.priority or 0,
            top_logprobs=top_logprobs,
            prompt_logprobs=body.logprobs if body.echo else None,
            skip_special_tokens=body.skip_special_tokens is not False,
        )
        for ids in prompts
        for choice in range(samples_per_prompt(body))
    ]


class CompletionStream:
    """Deltas to chunks. With ``echo`` the prompt comes first, with its logprobs if asked."""

    def __init__(
        self,
        body: CompletionRequest,
        *,
        id: str,
        created: int,
        model: str,
        prompt_texts: Sequence[str],
        prompt_tokens: int,
    ) -> None:
        options = body.stream_options
        self._id, self._created, self._model = id, created, model
        self._prompt_texts = prompt_texts  # used with echo only
        self._prompt_tokens, self._completion_tokens = prompt_tokens, 0
        self._samples = samples_per_prompt(body)
        self._echo, self._top_count = bool(body.echo), body.logprobs
        self._include_usage = bool(options and options.include_usage)
        self._usage_so_far = bool(
            self._include_usage and options and options.continuous_usage_stats
        )
        self._offsets: dict[int, LegacyLogprobs] = {}
        self._finished: dict[int, Finished] = {}

    def add(self, choice: int, delta: Delta) -> list[Completion]:
        chunks: list[Completion] = []
        if choice not in self._offsets:
            self._offsets[choice] = LegacyLogprobs()
            if self._echo and not isinstance(delta, PromptScored):
                chunks.append(self._chunk(choice, self._prompt_text(choice)))
        match delta:
            case TextDelta():
                self._completion_tokens += len(delta.token_ids)
                logprobs = self._logprobs(choice, delta.logprobs)
                if delta.text or logprobs is not None:
                    chunks.append(self._chunk(choice, delta.text, logprobs))
            case PromptScored():
                text = self._prompt_text(choice)
                self._offsets[choice].begin_prompt(delta.logprobs, text)
                chunks.append(self._chunk(choice, text, self._logprobs(choice, delta.logprobs)))
            case Finished():
                chunks.append(self._finish(choice, delta))
            case ReasoningDelta() | ToolCallDelta():
                raise TypeError(f"a completion has no {type(delta).__name__}")
        return chunks

    def end(self) -> list[Completion]:
        if not self._include_usage:
            return []
        usage = sum_usage(self._finished, self._samples)
        return [self._wrap([], usage)]

    def _prompt_text(self, choice: int) -> str:
        return self._prompt_texts[choice // self._samples]

    def _logprobs(self, choice: int, entries: Sequence[TokenLogprob]) -> CompletionLogprobs | None:
        if self._top_count is None or not entries:
            return None
        return self._offsets[choice].take(entries, self._top_count)

    def _finish(self, choice: int, end: Finished) -> Completion:
        self._finished[choice] = end
        matched: str | int | UnsetType = UNSET if end.stop_match is None else end.stop_match
        piece = CompletionChoice(choice, "", finish_reason=end.reason, stop_reason=matched)
        return self._piece(piece)

    def _chunk(
        self, choice: int, text: str, logprobs: CompletionLogprobs | None = None
    ) -> Completion:
        return self._piece(CompletionChoice(choice, text, logprobs))

    def _piece(self, piece: CompletionChoice) -> Completion:
        usage: OpenAIUsage | UnsetType | None = UNSET
        if self._usage_so_far:
            usage = to_usage(self._prompt_tokens, self._completion_tokens)
        elif self._include_usage:
            usage = None
        return self._wrap([piece], usage)

    def _wrap(
        self, choices: list[CompletionChoice], usage: OpenAIUsage | UnsetType | None
    ) -> Completion:
        return Completion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )


class CompletionFold:
    """Chunks to the whole answer; with ``best_of`` it keeps the best ``n`` of each prompt."""

    def __init__(
        self, body: CompletionRequest, *, id: str, created: int, model: str, prompts: int
    ) -> None:
        self._id, self._created, self._model = id, created, model
        self._keep, self._samples = body.n or 1, samples_per_prompt(body)
        self._prompts = prompts
        self._wants_logprobs = body.logprobs is not None
        count = prompts * self._samples
        self._choices = [CompletionChoice(i, "") for i in range(count)]
        self._texts: list[list[str]] = [[] for _ in range(count)]

    def add(self, chunk: Completion) -> None:
        for piece in chunk.choices:
            held = self._choices[piece.index]
            self._texts[piece.index].append(piece.text)
            if piece.logprobs is not None:
                held.logprobs = _joined(held.logprobs, piece.logprobs)
            if piece.finish_reason is not None:
                held.finish_reason, held.stop_reason = piece.finish_reason, piece.stop_reason

    def body(self, finished: dict[int, Finished]) -> Completion:
        kept: list[CompletionChoice] = []
        for prompt in range(self._prompts):
            block = range(prompt * self._samples, (prompt + 1) * self._samples)
            best = rank_choices(block, finished) if self._samples > self._keep else block
            for held in best[: self._keep]:
                kept.append(self._choice(held, len(kept)))
        usage = sum_usage(finished, self._samples)
        return Completion(
            id=self._id, created=self._created, model=self._model, choices=kept, usage=usage
        )

    def _choice(self, held: int, index: int) -> CompletionChoice:
        choice = self._choices[held]
        choice.index, choice.text = index, "".join(self._texts[held])
        if self._wants_logprobs and choice.logprobs is None:
            choice.logprobs = CompletionLogprobs([], [], [], [])
        return choice


def _joined(held: CompletionLogprobs | None, more: CompletionLogprobs) -> CompletionLogprobs:
    if held is None:
        return more
    held.tokens.extend(more.tokens)
    held.token_logprobs.extend(more.token_logprobs)
    held.top_logprobs.extend(more.top_logprobs)
    held.text_offset.extend(more.text_offset)
    return held


def rank_choices(choices: Sequence[int], finished: dict[int, Finished]) -> list[int]:
    """Best mean log-probability per token first; as given where none was computed."""

    def mean(choice: int) -> float:
        end = finished[choice]
        if end.cumulative_logprob is None:
            return 0.0
        return end.cumulative_logprob / max(1, end.usage.completion_tokens)

    return sorted(choices, key=mean, reverse=True)
