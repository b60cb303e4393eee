"""``/v1/chat/completions``: request to Generations, deltas to chunks."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_mlx.core.card import ModelCard
from vllm_mlx.core.delta import (
    Delta,
    Finished,
    PromptScored,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from vllm_mlx.core.generation import Generation
from vllm_mlx.dialect.base import RequestLimits
from vllm_mlx.dialect.chat_messages import to_template_arguments, to_template_messages
from vllm_mlx.dialect.logprobs import to_chat_logprobs
from vllm_mlx.dialect.sampling import (
    SHARED_UNSUPPORTED,
    check_choices,
    check_room,
    check_unsupported,
    is_filled,
    is_given,
    to_sampling,
    to_stopping,
)
from vllm_mlx.dialect.usage import sum_usage, to_usage
from vllm_mlx.errors import RequestError, UnsupportedField
from vllm_mlx.wire.openai_chat import (
    ChatChunk,
    ChatChunkChoice,
    ChatChunkDelta,
    ChatFunctionPiece,
    ChatMessage,
    ChatRequest,
    ChatToolCallPiece,
)
from vllm_mlx.wire.openai_sampling import OpenAIUsage

CHAT_UNSUPPORTED = SHARED_UNSUPPORTED | {
    "functions": is_filled,
    "function_call": lambda value: value not in (None, "none", "auto"),
    "modalities": lambda value: value is not None and any(kind != "text" for kind in value),
    "audio": is_given,
    "web_search_options": is_given,
    "moderation": is_given,
    "echo": is_filled,
    "add_special_tokens": is_filled,
    "thinking_token_budget": is_given,
}


class TemplateCall(Struct, frozen=True, kw_only=True):
    """Arguments of ``TextCodec.render_chat``."""

    messages: list[dict[str, Any]]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_arguments: dict[str, Any] | None = None


def check_request(body: ChatRequest) -> None:
    """Refuse what would change the answer and is not implemented, and contradictions."""
    check_unsupported(body, CHAT_UNSUPPORTED)
    _check_tools(body)
    if body.best_of not in (None, body.n or 1):
        raise UnsupportedField("best_of", "'best_of' is a field of /v1/completions only.")
    if body.chat_template is not None:
        raise UnsupportedField(
            "chat_template", "A chat template comes from the server, not from a request."
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError(
            "'top_logprobs' needs 'logprobs' to be true.",
            param="top_logprobs",
            code="invalid_value",
        )


def _check_tools(body: ChatRequest) -> None:
    """With ``tool_choice: "none"`` tools are never called: they are left out of the prompt."""
    if body.tools and body.tool_choice != "none":
        raise UnsupportedField("tools")
    if body.tool_choice not in (None, "none", "auto"):
        raise UnsupportedField("tool_choice")


def to_template(body: ChatRequest) -> TemplateCall:
    """What the chat template is given."""
    named = {
        "reasoning_effort": body.reasoning_effort,
        "verbosity": body.verbosity,
        "enable_thinking": body.enable_thinking,
        "documents": body.documents,
    }
    return to_template_call(
        body.messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        kwargs=body.chat_template_kwargs,
        named=named,
    )


def to_template_call(
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool | None,
    continue_final_message: bool,
    kwargs: dict[str, Any] | None,
    named: dict[str, Any],
) -> TemplateCall:
    """A turn that is continued gets no generation prompt, unless both are asked: then a 400."""
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "'continue_final_message' and 'add_generation_prompt' cannot both be true.",
            param="continue_final_message",
            code="invalid_value",
        )
    if add_generation_prompt is None:
        add_generation_prompt = not continue_final_message
    return TemplateCall(
        messages=to_template_messages(messages),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        template_arguments=to_template_arguments(kwargs, named),
    )


def to_generations(
    body: ChatRequest, prompt_ids: Sequence[int], *, id: str, card: ModelCard, limits: RequestLimits
) -> list[Generation]:
    """One Generation per choice."""
    prompt = tuple(prompt_ids)
    check_room(len(prompt), 1, card, "messages")
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    sampling = to_sampling(body, card.sampling_defaults, card.vocab_tokens)
    stopping = to_stopping(body, asked, limits, card.vocab_tokens)
    return [
        Generation(
            id=id,
            prompt_ids=prompt,
            sampling=sampling,
            stopping=stopping,
            choice=choice,
            priority=body.priority or 0,
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            skip_special_tokens=body.skip_special_tokens is not False,
        )
        for choice in range(check_choices(body, limits))
    ]


class ChatStream:
    """Deltas to chunks, in OpenAI's order: role, content ..., finish; usage last, if asked."""

    def __init__(
        self, body: ChatRequest, *, id: str, created: int, model: str, prompt_tokens: int
    ) -> None:
        options = body.stream_options
        self._id, self._created, self._model = id, created, model
        self._prompt_tokens, self._completion_tokens = prompt_tokens, 0
        self._choices = body.n or 1
        self._logprobs = bool(body.logprobs)
        self._include_usage = bool(options and options.include_usage)
        self._usage_so_far = bool(
            self._include_usage and options and options.continuous_usage_stats
        )
        self._begun: set[int] = set()
        self._finished: dict[int, Finished] = {}

    def add(self, choice: int, delta: Delta) -> list[ChatChunk]:
        chunks = [] if choice in self._begun else self._begin(choice)
        match delta:
            case TextDelta():
                self._completion_tokens += len(delta.token_ids)
                logprobs = to_chat_logprobs(delta.logprobs) if self._wants(delta) else None
                if delta.text or logprobs is not None:
                    piece = ChatChunkDelta(content=delta.text)
                    chunks.append(self._chunk(ChatChunkChoice(choice, piece, logprobs)))
            case ReasoningDelta():
                self._completion_tokens += len(delta.token_ids)
                if delta.text:
                    chunks.append(self._plain(choice, ChatChunkDelta(reasoning_content=delta.text)))
            case ToolCallDelta():
                chunks.append(self._plain(choice, ChatChunkDelta(tool_calls=[_piece(delta)])))
            case Finished():
                chunks.append(self._finish(choice, delta))
            case PromptScored():
                pass  # chat has no field for it, and never asks for it
        return chunks

    def end(self) -> list[ChatChunk]:
        if not self._include_usage:
            return []
        usage = sum_usage(self._finished, self._choices)
        return [self._wrap([], usage)]

    def _wants(self, delta: TextDelta) -> bool:
        return self._logprobs and bool(delta.logprobs)

    def _begin(self, choice: int) -> list[ChatChunk]:
        self._begun.add(choice)
        return [self._plain(choice, ChatChunkDelta(role="assistant", content="", refusal=None))]

    def _finish(self, choice: int, end: Finished) -> ChatChunk:
        self._finished[choice] = end
        matched: str | int | UnsetType = UNSET if end.stop_match is None else end.stop_match
        return self._chunk(
            ChatChunkChoice(choice, ChatChunkDelta(), finish_reason=end.reason, stop_reason=matched)
        )

    def _plain(self, choice: int, delta: ChatChunkDelta) -> ChatChunk:
        return self._chunk(ChatChunkChoice(choice, delta))

    def _chunk(self, choice: ChatChunkChoice) -> ChatChunk:
        usage: OpenAIUsage | UnsetType | None = UNSET
        if self._usage_so_far:
            usage = to_usage(self._prompt_tokens, self._completion_tokens)
        elif self._include_usage:
            usage = None
        return self._wrap([choice], usage)

    def _wrap(
        self, choices: list[ChatChunkChoice], usage: OpenAIUsage | UnsetType | None
    ) -> ChatChunk:
        return ChatChunk(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )


def _piece(delta: ToolCallDelta) -> ChatToolCallPiece:
    begins = delta.id is not None
    return ChatToolCallPiece(
        index=delta.index,
        id=UNSET if delta.id is None else delta.id,
        type="function" if begins else UNSET,
        function=ChatFunctionPiece(
            name=UNSET if delta.name is None else delta.name, arguments=delta.arguments
        ),
    )
