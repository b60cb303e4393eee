"""``/v1/chat/completions``: chunks to the whole answer."""

from msgspec import UNSET, UnsetType

from vllm_mlx.core.delta import Finished
from vllm_mlx.dialect.usage import sum_usage
from vllm_mlx.wire.openai_chat import (
    ChatAnswerFunction,
    ChatAnswerMessage,
    ChatAnswerToolCall,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    ChatToolCallPiece,
)


class _ChoiceFold:
    """One choice, put together from its chunks."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, ChatAnswerToolCall] = {}
        self.logprobs: ChatLogprobs | None = None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | UnsetType = UNSET

    def add(self, piece: ChatChunkChoice) -> None:
        delta = piece.delta
        if isinstance(delta.content, str):
            self.content.append(delta.content)
        if isinstance(delta.reasoning_content, str):
            self.reasoning.append(delta.reasoning_content)
        if isinstance(delta.tool_calls, list):
            for call in delta.tool_calls:
                self._add_call(call)
        if piece.logprobs is not None:
            self.logprobs = self.logprobs or ChatLogprobs(content=[])
            self.logprobs.content.extend(piece.logprobs.content)
        if piece.finish_reason is not None:
            self.finish_reason, self.stop_reason = piece.finish_reason, piece.stop_reason

    def _add_call(self, call: ChatToolCallPiece) -> None:
        held = self.calls.get(call.index)
        if held is None:
            held = self.calls[call.index] = ChatAnswerToolCall("", ChatAnswerFunction("", ""))
        if isinstance(call.id, str):
            held.id += call.id
        if isinstance(call.function.name, str):
            held.function.name += call.function.name
        held.function.arguments += call.function.arguments

    def choice(self, index: int) -> ChatChoice:
        calls = [self.calls[i] for i in sorted(self.calls)]
        text = "".join(self.content)
        message = ChatAnswerMessage(
            content=None if calls and not text else text,
            reasoning_content="".join(self.reasoning) if self.reasoning else UNSET,
            tool_calls=calls or UNSET,
        )
        return ChatChoice(index, message, self.finish_reason, self.logprobs, self.stop_reason)


class ChatFold:
    """Chunks to the whole answer."""

    def __init__(self, body: ChatRequest, *, id: str, created: int, model: str) -> None:
        self._id, self._created, self._model = id, created, model
        self._wants_logprobs = bool(body.logprobs)
        self._choices = [_ChoiceFold() for _ in range(body.n or 1)]

    def add(self, chunk: ChatChunk) -> None:
        for piece in chunk.choices:
            self._choices[piece.index].add(piece)

    def body(self, finished: dict[int, Finished]) -> ChatCompletion:
        choices = [fold.choice(i) for i, fold in enumerate(self._choices)]
        if self._wants_logprobs:
            for choice in choices:
                choice.logprobs = choice.logprobs or ChatLogprobs(content=[])
        usage = sum_usage(finished, len(self._choices))
        return ChatCompletion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )
