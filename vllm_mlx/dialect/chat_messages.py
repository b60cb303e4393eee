"""OpenAI's messages to the plain dictionaries that chat templates read."""

from collections.abc import Iterable
from typing import Any

import msgspec

from vllm_mlx.errors import RequestError, UnsupportedField
from vllm_mlx.wire.openai_chat import (
    ChatAssistantMessage,
    ChatContent,
    ChatDeveloperMessage,
    ChatFunctionCall,
    ChatFunctionMessage,
    ChatMessage,
    ChatPart,
    ChatRefusalPart,
    ChatSystemMessage,
    ChatTextPart,
    ChatToolCall,
    ChatToolMessage,
)

# What a caller may not smuggle into the template through chat_template_kwargs.
RESERVED_ARGUMENTS = frozenset(
    {"messages", "tools", "chat_template", "tokenize", "add_generation_prompt"}
    | {"continue_final_message", "conversation", "return_dict", "return_tensors", "padding"}
    | {"truncation", "max_length", "tokenizer_kwargs"}
)


def to_template_messages(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """One dictionary per message; text parts joined by newlines, developer as system.

    A text and a list with that text alone give the same dictionary, so they share a prefix.
    Raises UnsupportedField for parts that are not text, named ``messages[i].content[j]``.
    """
    return [_to_dict(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _to_dict(message: ChatMessage, path: str) -> dict[str, Any]:
    text = _to_text(message.content, path)
    match message:
        case ChatSystemMessage() | ChatDeveloperMessage():
            given: dict[str, Any] = {"role": "system", "content": text}
        case ChatAssistantMessage():
            given = _assistant(message, text, path)
        case ChatToolMessage():
            given = {"role": "tool", "content": text}
            if message.tool_call_id is not None:
                given["tool_call_id"] = message.tool_call_id
        case ChatFunctionMessage():
            given = {"role": "tool", "content": text}
        case _:
            given = {"role": "user", "content": text}
    if message.name is not None:
        given["name"] = message.name
    return given


def _assistant(message: ChatAssistantMessage, text: str, path: str) -> dict[str, Any]:
    if message.audio is not None:
        raise UnsupportedField(f"{path}.audio")
    given: dict[str, Any] = {"role": "assistant", "content": text or message.refusal or ""}
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        given["reasoning_content"] = reasoning
    if message.tool_calls:
        given["tool_calls"] = [
            _tool_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)
        ]
    elif message.function_call is not None:
        given["tool_calls"] = [{"type": "function", "function": _function(message.function_call)}]
    return given


def _tool_call(call: ChatToolCall, path: str) -> dict[str, Any]:
    if call.custom is not None or call.type not in (None, "function"):
        raise UnsupportedField(f"{path}.type", "Only tool calls of type 'function' are supported.")
    if call.function is None:
        raise RequestError(
            "Object missing required field `function`.", param=f"{path}.function", code=None
        )
    given: dict[str, Any] = {"type": "function", "function": _function(call.function)}
    if call.id is not None:
        given["id"] = call.id
    return given


def _function(call: ChatFunctionCall) -> dict[str, Any]:
    """Templates print arguments with ``tojson``, so a JSON object in a string is parsed first."""
    arguments: Any = call.arguments if call.arguments is not None else {}
    if isinstance(arguments, str):
        try:
            parsed = msgspec.json.decode(arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            parsed = arguments  # what the model once wrote, however broken, is its history
        arguments = parsed if isinstance(parsed, dict) else arguments
    return {"name": call.name, "arguments": arguments}


def _to_text(content: ChatContent, path: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(_part_text(part, f"{path}.content[{j}]") for j, part in enumerate(content))


def _part_text(part: ChatPart, path: str) -> str:
    if isinstance(part, ChatTextPart):
        return part.text
    if isinstance(part, ChatRefusalPart):
        return part.refusal
    kind = str(part.__struct_config__.tag)
    raise UnsupportedField(path, f"Parts of type '{kind}' are not supported by this model.")


def to_template_arguments(
    kwargs: dict[str, Any] | None, named: dict[str, Any]
) -> dict[str, Any] | None:
    """Free arguments of the template; named request fields win. None if there are none."""
    for name in kwargs or {}:
        if name in RESERVED_ARGUMENTS:
            raise RequestError(
                f"Invalid 'chat_template_kwargs.{name}': the server sets this argument itself.",
                param=f"chat_template_kwargs.{name}",
                code="invalid_value",
            )
    merged = {**(kwargs or {}), **{k: v for k, v in named.items() if v is not None}}
    return merged or None
