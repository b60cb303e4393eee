"""Rendering chats: the template's own words, one result for one meaning."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.engine.base import TextCodec
from vllm_mlx.errors import RequestError, TemplateFailed
from vllm_mlx.model.codec import HuggingFaceCodec
from vllm_mlx.model.load import load_tokenizer

USER = [{"role": "user", "content": "Hi there"}]
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
ONLY_PARTS = (
    "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}"
    "{{ p.text }}{% endif %}{% endfor %};{% endfor %}"
)
CALLS_AS_OBJECTS = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<{{ c.function.arguments | tojson }}>{% endfor %}{% endfor %}"
)
CALLS_AS_STRINGS = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<' + c.function.arguments + '>' }}{% endfor %}{% endfor %}"
)
CALLS_BY_ITEM = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{% for k, v in c.function.arguments | items %}<{{ k }}={{ v }}>{% endfor %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def codec(smollm2: Path) -> TextCodec:
    return HuggingFaceCodec(load_tokenizer(smollm2)[0])


def rendered(codec: TextCodec, messages: Any, **options: Any) -> str:
    return codec.decode(codec.render_chat(messages, **options), skip_special_tokens=False)


def called(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [*USER, {"role": "assistant", "content": None, "tool_calls": [call]}]


def test_the_models_own_template(codec: TextCodec) -> None:
    text = rendered(codec, USER)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n")
    assert not rendered(codec, USER, add_generation_prompt=False).endswith("assistant\n")
    assert codec.render_chat(USER).count(codec.encode("<|im_start|>")[0]) == 3


@pytest.mark.parametrize("template", [None, PLAIN, ONLY_PARTS])
def test_a_string_and_a_list_of_parts_are_the_same(codec: TextCodec, template: str | None) -> None:
    parts = [{"type": "text", "text": "Hi there"}]
    listed = [{"role": "user", "content": parts}]
    as_string = codec.render_chat(USER, chat_template=template)
    assert codec.render_chat(listed, chat_template=template) == as_string
    assert "Hi there" in codec.decode(as_string)
    two = [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}]
    joined = [{"role": "user", "content": "a\nb"}]
    assert codec.render_chat(two, chat_template=template) == codec.render_chat(
        joined, chat_template=template
    )
    assert listed == [{"role": "user", "content": parts}]


@given(parts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3))
def test_parts_joined_for_any_text(codec: TextCodec, parts: list[str]) -> None:
    listed = [{"role": "user", "content": [{"type": "text", "text": p} for p in parts]}]
    joined = [{"role": "user", "content": "\n".join(parts)}]
    assert codec.render_chat(listed) == codec.render_chat(joined)


@pytest.mark.parametrize("template", [CALLS_AS_OBJECTS, CALLS_AS_STRINGS])
def test_arguments_of_calls_take_the_form_the_template_wants(
    codec: TextCodec, template: str
) -> None:
    for arguments in ({"a": 1}, '{"a": 1}'):
        assert '<{"a": 1}>' in rendered(codec, called(arguments), chat_template=template)
    given = called('{"a": 1}')
    before = json.dumps(given)
    codec.render_chat(given, chat_template=template)
    assert json.dumps(given) == before


def test_arguments_by_item(codec: TextCodec) -> None:
    assert "<a=1>" in rendered(codec, called('{"a": 1}'), chat_template=CALLS_BY_ITEM)
    assert rendered(codec, called(""), chat_template=CALLS_BY_ITEM).startswith("Hi there")
    with pytest.raises(TemplateFailed):
        codec.render_chat(called("not json"), chat_template=CALLS_BY_ITEM)


def test_the_final_message_goes_on(codec: TextCodec) -> None:
    messages = [*USER, {"role": "assistant", "content": "Well, I "}]
    assert rendered(codec, messages, continue_final_message=True).endswith("assistant\nWell, I ")
    by_argument = {"continue_final_message": True, "add_generation_prompt": False}
    assert codec.render_chat(messages, template_arguments=by_argument) == codec.render_chat(
        messages, continue_final_message=True, add_generation_prompt=False
    )


def test_no_second_first_token(codec: TextCodec) -> None:
    template = "{{ bos_token }}" + PLAIN
    ids = codec.render_chat(USER, chat_template=template)
    assert ids[0] == 1
    assert ids[1] != 1


def test_tools_and_arguments_reach_the_template(codec: TextCodec) -> None:
    template = "{{ tools[0].function.name }} {{ mood }} {{ enable_thinking }}"
    tools = [{"type": "function", "function": {"name": "look"}}]
    text = rendered(
        codec,
        USER,
        tools=tools,
        template_arguments={"mood": "gay", "enable_thinking": False},
        chat_template=template,
    )
    assert text == "look gay False"
    unknown = {"nobody_knows": 1, "padding": True, "documents": []}
    assert codec.render_chat(USER, template_arguments=unknown) == codec.render_chat(USER)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content.nope.deeper }}", "nope"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(10000000) %}x{% endfor %}", "range"),
    ],
)
def test_a_failing_template_fails_in_its_own_words(
    codec: TextCodec, template: str, words: str
) -> None:
    with pytest.raises(TemplateFailed, match=words) as failure:
        codec.render_chat(USER, chat_template=template)
    assert failure.value.param == "chat_template"
    assert codec.render_chat(USER)


def test_fields_of_the_request_are_no_arguments(codec: TextCodec) -> None:
    with pytest.raises(TemplateFailed, match="'messages'"):
        codec.render_chat(USER, template_arguments={"messages": []})
    with pytest.raises(TemplateFailed, match="no messages"):
        codec.render_chat([])


def test_a_model_without_a_template(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)[0]
    tokenizer.chat_template = None
    bare = HuggingFaceCodec(tokenizer)
    with pytest.raises(TemplateFailed, match="no chat template") as failure:
        bare.render_chat(USER)
    assert failure.value.code == "no_chat_template"
    assert rendered(bare, USER, chat_template=PLAIN) == "[user]Hi there"
    assert bare.encode("Hello world") == [19556, 905]


def test_a_template_and_arguments_of_the_configuration(smollm2: Path) -> None:
    template = "{{ mood }}{{ tone }}{{ messages[0].content }}{{ raise_exception('no') if bad }}"
    codec = HuggingFaceCodec(
        load_tokenizer(smollm2)[0],
        chat_template=template,
        template_arguments={"mood": "gay", "tone": "low"},
        chat_function=lambda *arguments, **options: "never",
    )
    assert rendered(codec, USER) == "gaylowHi there"
    assert rendered(codec, USER, template_arguments={"tone": "high"}) == "gayhighHi there"
    assert rendered(codec, USER, chat_template=PLAIN) == "[user]Hi there"
    assert codec.chat_template.source() == template
    with pytest.raises(TemplateFailed) as failure:
        codec.render_chat(USER, template_arguments={"bad": True})
    assert failure.value.param == "messages"  # not a field that the caller gave


def test_prompts_that_are_written_in_code(smollm2: Path) -> None:
    def write(messages: list[dict[str, Any]], **options: Any) -> str:
        return f"{messages[0]['content']}|{options['add_generation_prompt']}"

    codec = HuggingFaceCodec(load_tokenizer(smollm2)[0], chat_function=write)
    listed = [{"role": "user", "content": [{"type": "text", "text": "Hi there"}]}]
    assert rendered(codec, listed) == "Hi there|True"


def test_text_that_is_none(codec: TextCodec) -> None:
    with pytest.raises(RequestError, match="Unicode"):
        codec.encode("a\ud800")
    with pytest.raises(RequestError, match="negative"):
        codec.decode([-1])
    assert codec.decode([10**6, 19556]) == "Hello"


def test_many_threads_at_once(smollm2: Path) -> None:
    codec = HuggingFaceCodec(load_tokenizer(smollm2)[0])

    def work(i: int) -> bool:
        messages = [{"role": "user", "content": f"Tell me {i} things " * 40}]
        text = codec.decode(codec.render_chat(messages), skip_special_tokens=False)
        return codec.token_text(33)[1] == b"1" and f"Tell me {i} things" in text

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
