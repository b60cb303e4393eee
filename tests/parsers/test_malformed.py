"""Broken markup: nothing crashes, nothing vanishes, and what is plain enough is read."""

# ruff: noqa: RUF001  (some families write a full-width bar)

import json

import pytest

from tests.parsers.strategies import TOOLS
from vllm_mlx.errors import ConfigError
from vllm_mlx.parsers.base import CallArguments, CallStart, Event, Folded, fold
from vllm_mlx.parsers.formats.registry import reasoning_format, tool_format
from vllm_mlx.parsers.ids import CountingIds, RandomIds
from vllm_mlx.parsers.machine import Markup
from vllm_mlx.parsers.recovery import Recovery


def events_of(
    name: str, text: str, *, recovery: Recovery = "none", is_cut: bool = False, step: int = 1
) -> list[Event]:
    parser = Markup(tool_format(name), None).reply(TOOLS, CountingIds(), recovery=recovery)
    events = [e for n in range(0, len(text), step) for e in parser.feed(text[n : n + step])]
    return [*events, *parser.finish(is_cut=is_cut)]


def read(name: str, text: str, *, recovery: Recovery = "none", is_cut: bool = False) -> Folded:
    folded = fold(events_of(name, text, recovery=recovery, is_cut=is_cut))
    whole = events_of(name, text, recovery=recovery, is_cut=is_cut, step=len(text))
    assert folded == fold(whole)
    return folded


def arguments_of(folded: Folded) -> list[object]:
    return [json.loads(call.arguments) for call in folded.calls]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>not json</tool_call>"),
        ("hermes", '<tool_call>{"nome": "f"}</tool_call>'),
        ("hermes", "<tool_call>"),
        ("hermes", 'Use <tool_call> like this: {"name": ...}'),
        ("hermes", '<tool_call>{"name": "has space", "arguments": {}}</tool_call>'),
        ("qwen3_xml", "<tool_call>\n<function= >\n</tool_call>"),
        ("qwen3_xml", "The tag <function=f> opens a call."),
        ("glm47", "<tool_call>two words<arg_key>a</arg_key></tool_call>"),
        ("mistral", "[TOOL_CALLS] is a token."),
        ("mistral", "[TOOL_CALLS][]"),
        ("kimi", "<|tool_calls_section_begin|>nothing<|tool_calls_section_end|>"),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>?{}<｜tool▁call▁end｜>"),
        ("llama", '{"name": "Bob", "parameters": {"age": 3}}'),
        ("llama", '{"title": "no call"}'),
        ("llama", "[1, 2, 3]"),
        ("xlam", '[{"name": "nobody", "arguments": {}}]'),
        ("xlam", '```json\n{"a": 1}\n```'),
        ("pythonic", "[x for x in range(3)]"),
        ("pythonic", "[unknown(a=1)]"),
        ("gemma4", "<|tool_call>call:{}<tool_call|>"),
        ("functionary", "Hello\nworld"),
        ("functionary", "A prompt: >>> 1 + 1"),
        ("minimax", '<minimax:tool_call>\n<invoke title="f">\n</invoke>'),
    ],
)
def test_what_is_no_call_is_content(name: str, text: str) -> None:
    assert read(name, text) == Folded(content=text)


def test_a_call_after_a_broken_one_is_read() -> None:
    good = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    folded = read("hermes", f"<tool_call>oops {good}")
    assert folded.content == "<tool_call>oops"
    assert arguments_of(folded) == [{}]


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        (  # Python's literals and quotes
            "hermes",
            "<tool_call>{'name': 'get_weather', 'arguments': {'on': True, 'city': None,"
            " 'code': 'it\"s', }}</tool_call>",
            {"on": True, "city": None, "code": 'it"s'},
        ),
        (  # keys in any order, arguments as text
            "hermes",
            '<tool_call>{"arguments": {"days": 1}, "id": 7, "name": "get_weather"}</tool_call>',
            {"days": 1},
        ),
        (
            "hermes",
            '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"\\ud83d\\ude00\\"}"}'
            "</tool_call>",
            {"city": "😀"},
        ),
        (
            "hermes",
            '<tool_call>{"type": "function", "function": {"name": "get_weather", "arguments":'
            ' {"days": 1}}}</tool_call>',
            {"days": 1},
        ),
        ("hermes", '<tool_call>{"name": "get_weather"}</tool_call>', {}),
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": null}</tool_call>', {}),
        # no closing tag, one brace too many, a raw line break, an escape that is none
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"days": 1}}', {"days": 1}),
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": {}}}}</tool_call>', {}),
        (
            "hermes",
            '<tool_call>{"name": "get_weather", "arguments": {"code": "a\nb\\d"}}</tool_call>',
            {"code": "a\nb\\d"},
        ),
        (  # the wrapper left out
            "qwen3_xml",
            "<function=get_weather>\n<parameter=days>\n3\n</parameter>\n</function>",
            {"days": 3},
        ),
        (  # a parameter that is not closed
            "qwen3_xml",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</function>\n"
            "</tool_call>",
            {"city": "Paris"},
        ),
        (  # a string that speaks of the tags
            "qwen3_xml",
            "<tool_call>\n<function=get_weather>\n<parameter=code>\na </parameter> b </function> c"
            "\n</parameter>\n</function>\n</tool_call>",
            {"code": "a </parameter> b </function> c"},
        ),
        (  # a value that is not of its type stays a string
            "qwen3_xml",
            "<tool_call>\n<function=get_weather>\n<parameter=days>\nmany\n</parameter>\n"
            "</function>\n</tool_call>",
            {"days": "many"},
        ),
        (
            "qwen3_xml",
            "<tool_call>\n<function=get_weather>\n<parameter=flags>\n['a', \"b\"]\n</parameter>\n"
            "<parameter=on>\nTrue\n</parameter>\n</function>\n</tool_call>",
            {"flags": ["a", "b"], "on": True},
        ),
        ("glm47", "<tool_call>get_weather\n</tool_call>", {}),
        (
            "deepseek",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{}\n```",
            {},
        ),
        ("llama", '<|python_tag|>get_weather.call(city="Paris")', {"city": "Paris"}),
        ("gemma4", '<|tool_call>get_weather(city="Paris")<tool_call|>', {"city": "Paris"}),
        ("pythonic", "[get_weather('Paris', days=3,)]", {"city": "Paris", "days": 3}),
        (
            "pythonic",
            '[get_weather(flags=("a", \'b\'), code="""x\n"y" """)]',
            {"flags": ["a", "b"], "code": 'x\n"y" '},
        ),
        ("functionary", "get_weather\n<|content|>{}\n<|from|>assistant\n", {}),
        ("functionary", 'all\nHi>>>get_weather\n{"days": 1}', {"days": 1}),
    ],
)
def test_what_is_plain_enough_is_read(name: str, text: str, arguments: object) -> None:
    folded = read(name, text)
    assert [call.name for call in folded.calls] == ["get_weather"]
    assert [call.problem for call in folded.calls] == [None]
    assert arguments_of(folded) == [arguments]
    assert folded.content in ("", "Hi")


def test_code_goes_to_the_tool_that_takes_it() -> None:
    tools = {"python": {"properties": {"code": {"type": "string"}}}}
    for name, text in (
        ("llama", '<|python_tag|>print("hi")\n'),
        ("harmony", '<|channel|>commentary to=python<|message|>print("hi")\n<|call|>'),
    ):
        parser = Markup(tool_format(name), None).reply(tools, CountingIds())
        folded = fold([e for char in text for e in parser.feed(char)] + parser.finish())
        assert arguments_of(folded) == [{"code": 'print("hi")\n'}]


def test_arguments_that_break_go_on_as_written_and_say_so() -> None:
    folded = read(
        "hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": oops}}</tool_call>!'
    )
    assert folded.calls[0].arguments == '{"city": oops}}'
    assert folded.calls[0].problem == "malformed"
    assert folded.content == "!"


def test_a_cut_in_a_tagged_value_says_so() -> None:
    text = "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar"
    folded = read("qwen3_xml", text, is_cut=True)
    assert (folded.calls[0].arguments, folded.calls[0].problem) == ('{"city": "Par', "truncated")


def test_step_drops_a_repeated_call() -> None:
    call = (
        "<tool_call>\n<function=search.web>\n<parameter=city>\nx\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    other = call.replace("x\n", "y\n")
    folded = read("step3p5", call + call + other + call)
    assert arguments_of(folded) == [{"city": "x"}, {"city": "y"}]


@pytest.mark.parametrize(
    ("arguments", "repaired"),
    [
        ('{"city": Paris}', {"city": "Paris"}),
        ('{"city": "Par', {"city": "Par"}),
        ('{"city": "a", "flags": ["x"', {"city": "a", "flags": ["x"]}),
        ('{"city": "say "hi" now", "days": 1}', {"city": 'say "hi" now', "days": 1}),
        ('{"days": 1 "city": "a"}', {"days": 1, "city": "a"}),
        ('{"city": "a" "days": 1}', {"city": "a", "days": 1}),
        ('{"flags": ["a"}', {"flags": ["a"]}),
        ('{"days": "3", "on": "true", "city": 5}', {"days": 3, "on": True, "city": "5"}),
        ('{"days":', {"days": None}),
    ],
)
def test_buffered_recovery_repairs(arguments: str, repaired: object) -> None:
    text = f'<tool_call>{{"name": "get_weather", "arguments": {arguments}'
    for tail in ("", "}</tool_call>"):
        if not tail or arguments.endswith("}"):
            folded = read("hermes", text + tail, recovery="buffered")
            assert arguments_of(folded) == [repaired]
            assert folded.calls[0].problem is None
            assert folded.content == ""


def test_buffered_recovery_emits_a_call_at_once() -> None:
    text = '<tool_call>{"name": "get_weather", "arguments": {"days": 1}}</tool_call>'
    events = events_of("hermes", text, recovery="buffered")
    assert [type(event) for event in events][:2] == [CallStart, CallArguments]
    assert events[1] == CallArguments(0, '{"days": 1}')


def test_what_cannot_be_repaired_is_content() -> None:
    text = '<tool_call>{"name": "get_weather", "arguments": {"city": :}}</tool_call>'
    folded = read("hermes", text, recovery="buffered")
    assert folded.calls == []
    assert folded.content.startswith('<tool_call>{"name": "get_weather", "arguments": {"city": :}')


def test_a_cut_call_is_not_repaired() -> None:
    text = '<tool_call>{"name": "get_weather", "arguments": {"city": "Par'
    folded = read("hermes", text, recovery="buffered", is_cut=True)
    assert (folded.calls[0].arguments, folded.calls[0].problem) == ('{"city": "Par', "truncated")


def test_ids() -> None:
    def ids(name: str, text: str) -> list[str]:
        parser = Markup(tool_format(name), None).reply(TOOLS, RandomIds())
        return [call.id for call in fold([*parser.feed(text), *parser.finish()]).calls]

    call = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    first, second = ids("hermes", call * 2)
    assert first != second
    assert first.startswith("call_")
    assert len(first) == len("call_") + 24
    (short,) = ids("mistral", "[TOOL_CALLS]get_weather[ARGS]{}")
    assert len(short) == 9
    assert short.isalnum()
    text = "<|tool_call_begin|>functions.get_weather:3<|tool_call_argument_begin|>{}"
    assert ids("kimi", text) == ["functions.get_weather:3"]


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(ConfigError, match=r"hermes.*qwen3_xml"):
        tool_format("nope")
    with pytest.raises(ConfigError, match="deepseek_r1"):
        reasoning_format("nope")
