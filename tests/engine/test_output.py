"""Sampled ids to deltas, and the end of a sequence."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sequences import make_sequence
from vllm_mlx.core.delta import Delta, Finished, PromptScored, TextDelta, TokenLogprob, Usage
from vllm_mlx.core.generation import Stopping
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.detokenize import TokenText
from vllm_mlx.engine.output import OutputPipe, RawLogprob

EOS, SPECIAL = 0, 1
TABLE = [b"<end>", b"<special>", b"a", b"b", b"ab", b"ba b", b"\xf0\x9f", b"\x90\x9f", b"\xff", b""]
TEXT = TokenText(TABLE, frozenset({EOS, SPECIAL}))
NOTHING = RawLogprob(-0.5, [], [])


def make_pipe(sequence: Sequence) -> OutputPipe:
    return OutputPipe(sequence, TEXT, frozenset({EOS}))


def say(
    sequence: Sequence, tokens: list[int], raws: list[RawLogprob] | None = None
) -> list[list[Delta]]:
    """What each token gave, up to the end."""
    pipe, given = make_pipe(sequence), []
    for place, token in enumerate(tokens):
        sequence.output_ids.append(token)
        sequence.num_sampled += 1
        given.append(pipe.accept(token, None if raws is None else raws[place]))
        if given[-1] and isinstance(given[-1][-1], Finished):
            break
    return given


def text_of(deltas: list[list[Delta]]) -> str:
    return "".join(d.text for inner in deltas for d in inner if isinstance(d, TextDelta))


def ids_of(deltas: list[list[Delta]]) -> list[int]:
    return [i for inner in deltas for d in inner if isinstance(d, TextDelta) for i in d.token_ids]


def logprobs_of(deltas: list[list[Delta]]) -> list[TokenLogprob]:
    return [e for inner in deltas for d in inner if isinstance(d, TextDelta) for e in d.logprobs]


def end_of(deltas: list[list[Delta]]) -> Finished:
    finished = [d for inner in deltas for d in inner if isinstance(d, Finished)]
    assert finished == deltas[-1][-1:]
    return finished[0]


@dataclass
class Said:
    """By definition, with the whole output at hand."""

    count: int
    text: str
    reason: str
    match: str | int | None


def decoded(tokens: list[int], skip: bool) -> bytes:
    return b"".join(TABLE[t] for t in tokens if not (skip and t in TEXT.special_ids))


def by_definition(
    tokens: list[int], stopping: Stopping, max_tokens: int, skip: bool
) -> Said | None:
    for count, token in enumerate(tokens, start=1):
        before = decoded(tokens[: count - 1], skip).decode("utf-8", "replace")
        if token == EOS and not stopping.ignore_eos:
            return Said(count, before, "stop", None)
        if token in stopping.stop_token_ids and count > stopping.min_tokens:
            return Said(count, before, "stop", token)
        # complete characters only: half a one may still become another
        whole = decoded(tokens[:count], skip)
        text = whole.decode("utf-8", "replace")
        if count == max_tokens:
            return Said(count, text, "length", None)
    return None


tokens_of = st.lists(st.integers(0, len(TABLE) - 1), min_size=1, max_size=12)


@given(
    tokens=tokens_of,
    stop_token_ids=st.lists(st.integers(1, 9), max_size=2).map(tuple),
    min_tokens=st.integers(0, 4),
    ignore_eos=st.booleans(),
    skip=st.booleans(),
)
@settings(max_examples=150)
def test_ends_and_text_by_definition(
    tokens: list[int],
    stop_token_ids: tuple[int, ...],
    min_tokens: int,
    ignore_eos: bool,
    skip: bool,
) -> None:
    stopping = Stopping(stop_token_ids=stop_token_ids, min_tokens=min_tokens, ignore_eos=ignore_eos)
    expected = by_definition(tokens, stopping, len(tokens), skip)
    assert expected is not None
    sequence = make_sequence(
        stopping=stopping, max_tokens=len(tokens), skip_special_tokens=skip, top_logprobs=0
    )
    deltas = say(sequence, tokens, [NOTHING] * len(tokens))
    end = end_of(deltas)
    assert (end.reason, end.stop_match) == (expected.reason, expected.match)
    assert text_of(deltas) == expected.text
    assert ids_of(deltas) == tokens[: expected.count]
    assert end.usage == Usage(3, expected.count)
    shown = expected.count - int(expected.reason == "stop")  # the end token has no entry
    assert [entry.token_id for entry in logprobs_of(deltas)] == tokens[:shown]
    assert end.cumulative_logprob == pytest.approx(-0.5 * expected.count)


@given(
    tokens=st.lists(st.sampled_from([2, 3, 4, 5, 6, 7]), min_size=1, max_size=12),
    stops=st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=2).map(tuple),
)
@settings(max_examples=150)
def test_stop_strings_over_token_borders(tokens: list[int], stops: tuple[str, ...]) -> None:
    sequence = make_sequence(stopping=Stopping(stop=stops), max_tokens=len(tokens))
    deltas = say(sequence, tokens)
    end, shown = end_of(deltas), text_of(deltas)
    text = decoded(tokens, True).decode("utf-8", "replace")
    assert not any(stop in shown for stop in stops)
    if any(stop in text for stop in stops):
        assert end.reason == "stop"
        assert end.stop_match in stops
        assert text.startswith(shown + str(end.stop_match))
        used = decoded(sequence.output_ids, True).decode("utf-8", "replace")
        before = decoded(sequence.output_ids[:-1], True).decode("utf-8", "replace")
        assert str(end.stop_match) in used  # and not one token later than needed
        assert not any(stop in before for stop in stops)
    else:
        assert (end.reason, end.stop_match, shown) == ("length", None, text)


def test_tokens_are_shown_as_soon_as_they_are_text() -> None:
    sequence = make_sequence(stopping=Stopping(stop=("b b",)), max_tokens=6)
    a, b, half, other_half, end = 2, 3, 6, 7, EOS
    deltas = say(sequence, [a, half, other_half, b, end])
    assert deltas == [
        [TextDelta("a", (a,))],
        [],  # half a character
        [TextDelta("🐟", (half, other_half))],
        [],  # could begin a stop
        [TextDelta("b", (b, end)), Finished("stop", Usage(3, 5))],
    ]


def test_nothing_is_stopped_before_min_tokens() -> None:
    stopping = Stopping(stop=("a",), stop_token_ids=(3,), min_tokens=3)
    deltas = say(make_sequence(stopping=stopping, max_tokens=9), [2, 3, 2, 4, 3])
    end = end_of(deltas)
    assert text_of(deltas) == "aba"
    assert (end.stop_match, end.usage.completion_tokens) == ("a", 4)


def test_a_stop_that_ends_the_text_of_a_token_hides_the_rest() -> None:
    deltas = say(make_sequence(stopping=Stopping(stop=("a ",)), max_tokens=9), [5])
    assert text_of(deltas) == "b"  # of "ba b"
    assert ids_of(deltas) == [5]
    assert end_of(deltas).stop_match == "a "


def test_cached_tokens_are_reported() -> None:
    sequence = make_sequence(max_tokens=1)
    sequence.cached_tokens = 2
    assert end_of(say(sequence, [2])).usage == Usage(3, 1, 2)


# -- logprobs


def raw(*ids: int, chosen: float = -0.25) -> RawLogprob:
    return RawLogprob(chosen, list(ids), [-0.25 - place for place in range(len(ids))])


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_nobody_gets_more_alternatives_than_asked_for(asked: int) -> None:
    """A step computes as many for all rows as the most demanding one wants."""
    sequence = make_sequence(max_tokens=2, top_logprobs=asked)
    deltas = say(sequence, [2, 6], [raw(2, 3, 6), raw(6, 2, 3, chosen=-1.0)])
    first, second = logprobs_of(deltas)
    assert [top.token_id for top in first.top] == [2, 3, 6][:asked]
    assert [top.token_id for top in second.top] == [6, 2, 3][:asked]
    assert (first.token, first.bytes, first.logprob) == ("a", b"a", -0.25)
    assert (second.token, second.bytes, second.logprob) == ("\ufffd", b"\xf0\x9f", -1.0)
    assert end_of(deltas).cumulative_logprob == -1.25


def test_without_asking_there_are_none() -> None:
    deltas = say(make_sequence(max_tokens=1), [2])
    assert logprobs_of(deltas) == []
    assert end_of(deltas).cumulative_logprob is None


@given(
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 11), max_size=4),
    again_from=st.none() | st.integers(1, 11),
    asked=st.integers(0, 2),
)
def test_prompt_logprobs_come_once_whatever_the_chunks(
    prompt: list[int], cuts: list[int], again_from: int | None, asked: int
) -> None:
    """``again_from``: after so many positions the sequence is preempted and starts over."""
    sequence = make_sequence(prompt, prompt_logprobs=asked)
    pipe = make_pipe(sequence)
    edges = [1, *sorted({c for c in cuts if 1 < c < len(prompt)}), len(prompt)]
    chunks = list(itertools.pairwise(edges))
    if again_from is not None:
        chunks = [chunk for chunk in chunks if chunk[0] <= again_from] + chunks
    given: list[Any] = []
    for start, end in chunks:
        raws = [raw(place % 10, 2, 3, chosen=-float(place)) for place in range(start, end)]
        given += pipe.accept_prompt(start, raws)
    assert len(given) == 1
    assert isinstance(given[0], PromptScored)
    entries = given[0].logprobs
    assert [entry.token_id for entry in entries] == prompt
    assert [entry.logprob for entry in entries] == [
        None,
        *(-float(p) for p in range(1, len(prompt))),
    ]
    assert all(len(entry.top) == asked for entry in entries[1:])
    assert entries[0].top == ()


def test_an_impossible_token_is_minus_infinity() -> None:
    deltas = say(make_sequence(max_tokens=1, top_logprobs=0), [2], [RawLogprob(-math.inf, [], [])])
    assert logprobs_of(deltas)[0].logprob == -math.inf


def test_nothing_to_generate_ends_at_once() -> None:
    sequence = make_sequence(max_tokens=0)
    assert make_pipe(sequence).end_unsampled() == [Finished("length", Usage(3, 0))]
