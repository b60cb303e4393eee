"""Laws every tool-call format obeys, for every way its models write and every way of cutting."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.parsers.strategies import (
    EXAMPLES,
    MARKUP,
    TOOLS,
    any_text,
    calls,
    cut,
    said,
    sizes,
    strings_in,
)
from tests.parsers.writers import WRITERS, Call, Writer
from vllm_mlx.parsers.base import Folded, fold
from vllm_mlx.parsers.formats.more_tools import TOOL_FORMATS
from vllm_mlx.parsers.formats.registry import tool_format
from vllm_mlx.parsers.ids import CountingIds
from vllm_mlx.parsers.machine import Markup
from vllm_mlx.parsers.recovery import Recovery

CASES = [
    pytest.param(name, n, id=f"{name}-{n}")
    for name, writers in WRITERS.items()
    for n in range(len(writers))
]
MARKUPS = {one.names[0]: Markup(one, None) for one in TOOL_FORMATS}
LAW = settings(max_examples=EXAMPLES)


def read(
    name: str, pieces: Iterable[str], *, is_cut: bool = False, recovery: Recovery = "none"
) -> Folded:
    markup = MARKUPS[tool_format(name).names[0]]
    parser = markup.reply(TOOLS, CountingIds(), recovery=recovery)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return fold([*events, *parser.finish(is_cut=is_cut)])


def representable(writer: Writer, name: str, group: list[Call]) -> bool:
    """Whether the family can write these calls at all."""
    strings = strings_in([arguments for _, arguments in group])
    if any(bad in text for bad in writer.forbidden for text in strings):
        return False
    values = [value for _, arguments in group for value in arguments.values()]
    if writer.forbidden and not writer.as_written:
        # a tagged or quoted value cannot carry what JSON needs to say about a lone string
        return not any(isinstance(v, str) and v != v.replace("\r", "") for v in values)
    return True


def expected_content(segments: list[str]) -> str:
    """The segments joined; white space that touches calls stays only between texts."""
    joined = "".join(segments)
    if len(segments) > 1 and not segments[0].strip():
        joined = joined.lstrip()
    if len(segments) > 1 and not segments[-1].strip():
        joined = joined.rstrip()
    return joined


def test_every_format_is_written_here() -> None:
    assert {tool_format(name).names[0] for name in WRITERS} == {
        one.names[0] for one in TOOL_FORMATS
    }


@pytest.mark.parametrize(("name", "n"), CASES)
@given(data=st.data())
@LAW
def test_what_was_written_is_read(name: str, n: int, data: st.DataObject) -> None:
    writer = WRITERS[name][n]
    group = data.draw(calls)[: None if writer.many else 1]
    assume(representable(writer, name, group))
    if name == "step3p5":
        assume(len({json.dumps(call) for call in group}) == len(group))
    before = "" if writer.at_start else data.draw(said)
    after = "" if writer.at_start else data.draw(said)
    text = writer.said(before) + writer.calls(group) + writer.said(after)
    assume(not any(mark in before + after for mark in MARKUP))
    text = text.removeprefix("<|start|>assistant")
    lengths = data.draw(sizes)

    folded = read(name, cut(text, lengths))

    assert [(call.name, json.loads(call.arguments)) for call in folded.calls] == group
    assert all(call.ended and call.problem is None for call in folded.calls)
    if writer.as_written:
        written = [json.dumps(arguments, ensure_ascii=False) for _, arguments in group]
        assert [call.arguments for call in folded.calls] == written
    content = expected_content([before, after])
    # a message's own ends are markup
    assert folded.content == (content.strip() if writer.said(" ") != " " else content)
    assert folded == read(name, text) == read(name, [text])


@pytest.mark.parametrize(("name", "n"), CASES)
@given(data=st.data())
@LAW
def test_a_truncated_call_gives_what_is_there(name: str, n: int, data: st.DataObject) -> None:
    writer = WRITERS[name][n]
    group = data.draw(calls)[:1]
    assume(representable(writer, name, group))
    text = writer.calls(group).removeprefix("<|start|>assistant")
    text = text[: data.draw(st.integers(0, len(text)))]

    folded = read(name, cut(text, data.draw(sizes)), is_cut=True)

    assert folded == read(name, [text], is_cut=True)
    assert len(folded.calls) <= 1
    for call in folded.calls:
        assert call.ended
        assert call.name == group[0][0]
        if call.problem is None:
            assert json.loads(call.arguments).items() <= group[0][1].items()
        elif writer.as_written:
            assert call.problem == "truncated"
            whole = json.dumps(group[0][1], ensure_ascii=False)
            assert whole.startswith(call.arguments)


@pytest.mark.parametrize("name", sorted(WRITERS))
@given(data=st.data())
@LAW
def test_nonsense_is_neither_lost_nor_doubled(name: str, data: st.DataObject) -> None:
    """Markers in any order with words between them: every word comes out exactly once."""
    markers = [*MARKUPS[tool_format(name).names[0]].markers, *MARKUP, "{", "}", '"', "[", "\n"]
    pieces = data.draw(st.lists(st.sampled_from(markers), max_size=8))
    words = [f"w{n:03d}" for n in range(len(pieces))]
    text = "".join(word + piece for word, piece in zip(words, pieces, strict=True))

    folded = read(name, cut(text, data.draw(sizes)))

    assert folded == read(name, [text])
    out = folded.content + "".join(call.name + call.arguments for call in folded.calls)
    assert [word for word in words if out.count(word) != 1] == []


@pytest.mark.parametrize("name", sorted(WRITERS))
@given(data=st.data())
@LAW
def test_buffered_calls_are_valid_or_content(name: str, data: st.DataObject) -> None:
    """Calls broken in the middle: repaired, or content; never a call with broken arguments."""
    writer = data.draw(st.sampled_from(WRITERS[name]))
    text = writer.calls(data.draw(calls)[:1]).removeprefix("<|start|>assistant")
    place = data.draw(st.integers(0, len(text)))
    text = text[:place] + data.draw(st.sampled_from(['"', "}", "x", ", ", ""])) + text[place + 1 :]

    folded = read(name, cut(text, data.draw(sizes)), recovery="buffered")

    assert folded == read(name, [text], recovery="buffered")
    for call in folded.calls:
        assert isinstance(json.loads(call.arguments), dict)
        assert call.problem is None


@pytest.mark.parametrize("name", sorted(WRITERS))
@given(text=any_text, lengths=sizes)
@LAW
def test_any_text_is_read_the_same_however_it_is_cut(
    name: str, text: str, lengths: list[int]
) -> None:
    assert read(name, cut(text, lengths)) == read(name, [text])


@pytest.mark.parametrize(("name", "n"), CASES)
def test_name_and_id_come_first_and_strings_stream(name: str, n: int) -> None:
    """A long string argument comes out while it is written, after the name and the id."""
    words = " ".join(f"word{n}" for n in range(50))
    text = WRITERS[name][n].calls([("get_weather", {"city": words})])
    parser = MARKUPS[tool_format(name).names[0]].reply(TOOLS, CountingIds())
    half = text.index("word25")
    events = [event for char in text[:half].removeprefix("<|start|>assistant")
              for event in parser.feed(char)]  # fmt: skip
    folded = fold(events)
    assert type(events[0]).__name__ == "CallStart"
    assert folded.calls[0].name == "get_weather"
    assert folded.calls[0].id
    assert json.loads(folded.calls[0].arguments.rstrip() + '"}')["city"].endswith("word24")
