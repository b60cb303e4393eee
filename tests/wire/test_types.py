"""The wire types as a whole: names, nulls, and the walk that finds fields nobody knows."""

import importlib
import pkgutil
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vllm_mlx.wire
from vllm_mlx.api.unknown_fields import MOST_NAMED, find_unknown, shape_of
from vllm_mlx.wire.openai_chat import ChatRequest
from vllm_mlx.wire.openai_completions import CompletionRequest
from vllm_mlx.wire.tokenize import DetokenizeRequest, TokenizeRequest


def structs() -> list[type[msgspec.Struct]]:
    modules = [
        importlib.import_module(f"vllm_mlx.wire.{info.name}")
        for info in pkgutil.iter_modules(vllm_mlx.wire.__path__)
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == module.__name__
    }
    return sorted(found, key=lambda kind: kind.__name__)


def test_names_are_unique_across_dialects() -> None:
    names = [kind.__name__ for kind in structs()]
    assert len(names) > 30
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "kind", [ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest]
)
def test_every_optional_field_may_be_null(kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        if not field.required:
            assert msgspec.convert(None, field.type) is None, field.name


SHAPE = shape_of(ChatRequest)
VALID: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "n"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    ],
    "temperature": 1,
    "chat_template_kwargs": {"free": {"as": "the wind"}},
    "metadata": {"x": 1},
    "logit_bias": {"1": 2},
}


def test_a_valid_body_has_no_unknown_fields() -> None:
    assert SHAPE is not None
    assert find_unknown(VALID, SHAPE) == []


def test_unknown_fields_are_found_where_they_are() -> None:
    assert SHAPE is not None
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a", "p": 1}], "q": 1},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "r": 1}}]},
        ],
        "s": 0,
        "t": None,
        "metadata": {"u": 1},
    }
    assert find_unknown(body, SHAPE) == [
        "messages[0].content[0].p",
        "messages[0].q",
        "messages[1].tool_calls[0].function.r",
        "s",
    ]


@given(st.dictionaries(st.text(min_size=1), st.integers(), max_size=60))
def test_any_extra_names_are_reported_up_to_a_limit(extra: dict[str, int]) -> None:
    assert SHAPE is not None
    known = set(ChatRequest.__struct_fields__)
    strange = [name for name in extra if name not in known]
    found = find_unknown({**extra, **VALID}, SHAPE)
    assert found == strange[:MOST_NAMED]
