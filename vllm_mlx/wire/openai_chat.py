"""``/v1/chat/completions``: the request, the whole answer, and its chunks."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from vllm_mlx.wire.openai_sampling import Count, OpenAIUsage, SamplingFields

# --- request -------------------------------------------------------------------------------


class ChatTextPart(Struct, tag_field="type", tag="text", kw_only=True):
    text: str
    cache_control: Any = None
    annotations: Any = None


class ChatRefusalPart(Struct, tag_field="type", tag="refusal", kw_only=True):
    refusal: str


class ChatImagePart(Struct, tag_field="type", tag="image_url", kw_only=True):
    image_url: Any = None
    cache_control: Any = None


class ChatInputAudioPart(Struct, tag_field="type", tag="input_audio", kw_only=True):
    input_audio: Any = None


class ChatAudioUrlPart(Struct, tag_field="type", tag="audio_url", kw_only=True):
    audio_url: Any = None


class ChatVideoPart(Struct, tag_field="type", tag="video_url", kw_only=True):
    video_url: Any = None


class ChatFilePart(Struct, tag_field="type", tag="file", kw_only=True):
    file: Any = None


ChatPart = (
    ChatTextPart
    | ChatRefusalPart
    | ChatImagePart
    | ChatInputAudioPart
    | ChatAudioUrlPart
    | ChatVideoPart
    | ChatFilePart
)
ChatContent = str | list[ChatPart] | None


class ChatFunctionCall(Struct, kw_only=True):
    """``arguments`` is JSON in a string; some clients send the object itself."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ChatToolCall(Struct, kw_only=True):
    id: str | None = None
    type: str | None = None
    index: int | None = None
    function: ChatFunctionCall | None = None
    custom: Any = None
    cache_control: Any = None


class ChatSystemMessage(Struct, tag_field="role", tag="system", kw_only=True):
    content: ChatContent = None
    name: str | None = None
    cache_control: Any = None


class ChatDeveloperMessage(Struct, tag_field="role", tag="developer", kw_only=True):
    content: ChatContent = None
    name: str | None = None
    cache_control: Any = None


class ChatUserMessage(Struct, tag_field="role", tag="user", kw_only=True):
    content: ChatContent = None
    name: str | None = None
    cache_control: Any = None


class ChatAssistantMessage(Struct, tag_field="role", tag="assistant", kw_only=True):
    """A past answer, as this or another server gave it."""

    content: ChatContent = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    function_call: ChatFunctionCall | None = None
    audio: Any = None
    annotations: Any = None
    cache_control: Any = None


class ChatToolMessage(Struct, tag_field="role", tag="tool", kw_only=True):
    content: ChatContent = None
    tool_call_id: str | None = None
    name: str | None = None
    cache_control: Any = None


class ChatFunctionMessage(Struct, tag_field="role", tag="function", kw_only=True):
    """The older form of a tool result."""

    content: ChatContent = None
    name: str | None = None


ChatMessage = (
    ChatSystemMessage
    | ChatDeveloperMessage
    | ChatUserMessage
    | ChatAssistantMessage
    | ChatToolMessage
    | ChatFunctionMessage
)
ChatMessages = Annotated[list[ChatMessage], Meta(min_length=1)]


class ChatRequest(SamplingFields, kw_only=True):
    """Body of ``POST /v1/chat/completions``."""

    messages: ChatMessages
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None  # wins over max_tokens
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    # How the chat template is applied.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    enable_thinking: bool | None = None
    documents: list[dict[str, Any]] | None = None

    # Accepted because they do not change the answer.
    parallel_tool_calls: Any = None
    prediction: Any = None

    # They would change the answer, and are refused by name where they would.
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    moderation: Any = None
    chat_template: Any = None
    echo: Any = None
    add_special_tokens: Any = None
    thinking_token_budget: Any = None


# --- answer --------------------------------------------------------------------------------


class ChatTopLogprob(Struct, frozen=True, gc=False):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(Struct, frozen=True, gc=False):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(Struct, frozen=True, gc=False):
    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatFunctionPiece(Struct, frozen=True, gc=False):
    arguments: str
    name: str | UnsetType = UNSET


class ChatToolCallPiece(Struct, frozen=True, gc=False):
    """A piece of a tool call: ``id``, ``type`` and ``name`` only in its first chunk."""

    index: int
    function: ChatFunctionPiece
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatChunkDelta(Struct, frozen=True, gc=False):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ChatToolCallPiece] | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, gc=False):
    index: int
    delta: ChatChunkDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType = UNSET  # the stop string or token id that was hit


class ChatChunk(Struct, frozen=True, gc=False, kw_only=True):
    """One ``data:`` frame of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: OpenAIUsage | UnsetType | None = UNSET  # null in all but the last, where asked


class ChatAnswerFunction(Struct):
    name: str
    arguments: str


class ChatAnswerToolCall(Struct):
    id: str
    function: ChatAnswerFunction
    type: Literal["function"] = "function"


class ChatAnswerMessage(Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ChatAnswerToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: ChatAnswerMessage
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None
    stop_reason: str | int | UnsetType = UNSET


class ChatCompletion(Struct, kw_only=True):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: OpenAIUsage
