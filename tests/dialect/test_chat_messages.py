"""Messages to template dictionaries: what must give the same prompt does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.dialect.chat_messages import to_template_arguments, to_template_messages
from vllm_mlx.errors import RequestError, UnsupportedField
from vllm_mlx.wire.openai_chat import (
    ChatAssistantMessage,
    ChatFunctionCall,
    ChatFunctionMessage,
    ChatImagePart,
    ChatTextPart,
    ChatToolCall,
    ChatUserMessage,
)


@given(st.text(max_size=20), st.sampled_from([ChatUserMessage, ChatAssistantMessage]))
def test_text_and_a_list_with_it_are_the_same(text: str, kind: type) -> None:
    whole = to_template_messages([kind(content=text)])
    parts = to_template_messages([kind(content=[ChatTextPart(text=text, cache_control={})])])
    assert whole == parts


@pytest.mark.parametrize(
    ("given_arguments", "seen"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ("not json", "not json"),
        ("[1]", "[1]"),
        ('{"a":' + "[" * 5000, '{"a":' + "[" * 5000),
    ],
)
def test_tool_arguments(given_arguments: object, seen: object) -> None:
    call = ChatToolCall(function=ChatFunctionCall(name="f", arguments=given_arguments))  # type: ignore[arg-type]
    (message,) = to_template_messages([ChatAssistantMessage(tool_calls=[call])])
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": seen}


def test_older_function_history_reads_as_tools() -> None:
    call = ChatFunctionCall(name="f", arguments="{}")
    messages = to_template_messages(
        [
            ChatAssistantMessage(function_call=call),
            ChatFunctionMessage(name="f", content="42"),
        ]
    )
    assert messages == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
        },
        {"role": "tool", "content": "42", "name": "f"},
    ]


def test_a_refusal_is_what_the_assistant_said() -> None:
    (message,) = to_template_messages([ChatAssistantMessage(refusal="I will not.")])
    assert message["content"] == "I will not."


def test_call_without_a_function_is_named() -> None:
    with pytest.raises(RequestError) as refused:
        to_template_messages([ChatAssistantMessage(tool_calls=[ChatToolCall(id="c")])])
    assert refused.value.param == "messages[0].tool_calls[0].function"


def test_images_are_named_by_place() -> None:
    parts = [ChatTextPart(text="a"), ChatImagePart(image_url={})]
    with pytest.raises(UnsupportedField) as refused:
        to_template_messages([ChatUserMessage(content="x"), ChatUserMessage(content=parts)])
    assert refused.value.param == "messages[1].content[1]"
    assert "image_url" in refused.value.message


def test_template_arguments() -> None:
    assert to_template_arguments(None, {"a": None}) is None
    assert to_template_arguments({"a": 1, "b": 2}, {"b": 3, "c": None}) == {"a": 1, "b": 3}
    with pytest.raises(RequestError):
        to_template_arguments({"tools": []}, {})
