"""Reasoning formats: where thinking begins and ends, and what may not trigger inside it."""

# ruff: noqa: RUF001  (some families write a full-width bar)

import pytest
from hypothesis import assume, given, settings

from tests.parsers.strategies import EXAMPLES, MARKUP, TOOLS, any_text, cut, said, sizes
from tests.parsers.writers import HERMES, harmony
from vllm_mlx.parsers.base import Folded, fold
from vllm_mlx.parsers.formats.reasoning import REASONING_FORMATS
from vllm_mlx.parsers.formats.registry import reasoning_format, tool_format
from vllm_mlx.parsers.ids import CountingIds
from vllm_mlx.parsers.machine import Markup

TAGGED = [one for one in REASONING_FORMATS if one.closes]
CHANNELS = {
    "harmony": (
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}"
    ),
    "muse": " to=self<|message|>{}<|eom|><|start|>assistant to=user<|message|>{}",
}
CALL = HERMES.calls([("get_weather", {"city": "Paris"})])


def read(
    reasoning: str | None,
    pieces: list[str],
    *,
    tool: str | None = None,
    opened: bool | None = None,
    is_cut: bool = False,
) -> Folded:
    markup = Markup(
        tool_format(tool) if tool else None, reasoning_format(reasoning) if reasoning else None
    )
    parser = markup.reply(TOOLS, CountingIds(), in_reasoning=opened)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return fold([*events, *parser.finish(is_cut=is_cut)])


def test_every_format_is_tested() -> None:
    tested = {one.names[0] for one in TAGGED} | {reasoning_format(n).names[0] for n in CHANNELS}
    assert tested == {one.names[0] for one in REASONING_FORMATS}


@pytest.mark.parametrize("name", [one.names[0] for one in TAGGED])
@given(thought=any_text, answer=said, lengths=sizes)
@settings(max_examples=EXAMPLES)
def test_tags_part_thought_and_answer(
    name: str, thought: str, answer: str, lengths: list[int]
) -> None:
    """With the opener, and without it where the prompt wrote it."""
    form = reasoning_format(name)
    marks = (*form.opens, *form.closes, *form.until)
    assume(not any(mark in thought + answer for mark in marks))
    assume(not any(mark in answer for mark in MARKUP))
    rest = f"\n{thought}\n{form.closes[0]}\n\n{answer}"
    assume(rest.find(form.closes[0]) == len(thought) + 2)
    expected = Folded(content=answer.lstrip(), reasoning=thought.strip())
    for text, opened in ((form.opens[0] + rest, False), (form.opens[0] + rest, None), (rest, True)):
        assert read(name, cut(text, lengths), opened=opened) == expected


@pytest.mark.parametrize("name", sorted(CHANNELS))
@given(thought=said, answer=said, lengths=sizes)
@settings(max_examples=EXAMPLES)
def test_channels_part_thought_and_answer(
    name: str, thought: str, answer: str, lengths: list[int]
) -> None:
    text = CHANNELS[name].format(thought, answer)
    folded = read(name, cut(text, lengths))
    assert folded == Folded(content=answer.lstrip(), reasoning=thought.strip())


@pytest.mark.parametrize("name", [one.names[0] for one in TAGGED])
def test_without_tags_a_reply_is_content_unless_the_prompt_opened_the_thinking(name: str) -> None:
    text = "No tags here."
    assert read(name, [text], opened=False) == Folded(content=text)
    assert read(name, [text], opened=True) == Folded(reasoning=text)
    assumed = reasoning_format(name).assumed
    assert read(name, [text]) == (Folded(reasoning=text) if assumed else Folded(content=text))


def test_calls_inside_thinking_are_thoughts() -> None:
    text = f"<think>I could write {CALL} here.</think>No."
    folded = read("qwen3", [*text], tool="hermes")
    assert folded == Folded(content="No.", reasoning=f"I could write {CALL} here.")


def test_thinking_inside_a_call_is_an_argument() -> None:
    call = HERMES.calls([("get_weather", {"city": "<think>no</think>"})])
    folded = read("qwen3", [*f"<think>Yes.</think>\n{call}"], tool="hermes")
    assert folded.reasoning == "Yes."
    assert folded.content == ""
    assert folded.calls[0].arguments == '{"city": "<think>no</think>"}'


def test_tags_in_the_answer_are_text() -> None:
    text = "<think>a</think>The tags are <think> and </think>."
    assert read("qwen3", [*text]) == Folded(
        content="The tags are <think> and </think>.", reasoning="a"
    )


def test_a_close_that_nobody_opened_is_markup_once() -> None:
    assert read("qwen3", [*"Hm.</think>Yes </think>"]).content == "Hm.Yes </think>"
    assert read("qwen3", [*"Yes </think>"], opened=False).content == "Yes </think>"


@pytest.mark.parametrize(
    ("reasoning", "tool", "call"),
    [
        (
            "deepseek_v4",
            "deepseek_v4",
            '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n'
            '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
            "</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        ),
        (
            "kimi_k2",
            "kimi",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
            '<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>'
            "<|tool_calls_section_end|>",
        ),
    ],
)
def test_a_tool_section_ends_the_thinking(reasoning: str, tool: str, call: str) -> None:
    folded = read(reasoning, [*f"Let me see.\n\n{call}"], tool=tool, opened=True)
    assert folded.reasoning == "Let me see."
    assert folded.content == ""
    assert [(one.name, one.arguments) for one in folded.calls] == [
        ("get_weather", '{"city": "Paris"}')
    ]


def test_gemma_thinks_again_and_again() -> None:
    text = (
        "<|channel>thought\nOne.<channel|>A<|channel>thought\nTwo.\n<channel|>"
        '<|tool_call>call:get_weather{city:<|"|><|channel>thought<|"|>}<tool_call|>'
    )
    folded = read("gemma4", [*text], tool="gemma4")
    assert folded.reasoning == "One.Two."
    assert folded.content == "A"
    assert folded.calls[0].arguments == '{"city":"<|channel>thought"}'


def test_harmony_with_thinking_preamble_and_calls() -> None:
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>Looking.<|end|>"
    ) + harmony([("get_weather", {"city": "Paris"}), ("search.web", {})])
    folded = read("harmony", [*text], tool="harmony")
    assert (folded.reasoning, folded.content) == ("Hm.", "Looking.")
    assert [(one.name, one.arguments) for one in folded.calls] == [
        ("get_weather", '{"city": "Paris"}'),
        ("search.web", "{}"),
    ]


def test_harmony_without_a_reasoning_parser_keeps_the_analysis() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A"
    assert read(None, [*text], tool="harmony").content == "Hm.A"


def test_box_wrappers_go() -> None:
    text = "<think>a</think><|begin_of_box|>42<|end_of_box|>"
    assert read("glm4", [*text]) == Folded(content="42", reasoning="a")


def test_a_repeated_opener_is_dropped() -> None:
    assert read("qwen3", [*"<think>\na</think>b"], opened=True) == Folded("b", "a")


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", None),
        ("<think>a</think>b<|im_end|><|im_start|>assistant\n", None),
        ("", None),
    ],
)
def test_the_end_of_the_prompt_says_where_the_reply_begins(
    prompt: str, opened: bool | None
) -> None:
    assert Markup(None, reasoning_format("qwen3")).begins_in_reasoning(prompt) is opened


def test_is_reasoning_follows_the_text() -> None:
    parser = Markup(None, reasoning_format("qwen3")).reply({}, CountingIds())
    seen = []
    for piece in ("<thi", "nk>", "a", "</think>", "b"):
        parser.feed(piece)
        seen.append(parser.is_reasoning)
    assert seen == [False, True, True, False, False]
