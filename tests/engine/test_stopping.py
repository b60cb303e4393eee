"""Stop strings: the same output however the text arrives, and never a stop in it."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mlx.engine.stopping import StopStrings

letters = st.text("ab", max_size=14)
stop_sets = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple)


def whole(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """By definition: the stop that is complete first, the longer of two; and the text before it."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def fed(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, str | None]:
    watch, shown = StopStrings(stops), ""
    for piece in pieces:
        shown += watch.feed(piece)
        if watch.match is not None:
            return shown, watch.match
    return shown + watch.flush(), None


@given(text=letters, stops=stop_sets, places=st.lists(st.integers(0, 20), max_size=16))
@settings(max_examples=300)
def test_any_cut_gives_the_same(text: str, stops: tuple[str, ...], places: list[int]) -> None:
    shown, match = fed(cut(text, places), stops)
    assert (shown, match) == whole(text, stops)
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown + (match or ""))


@given(text=letters, stops=stop_sets)
def test_only_what_could_become_a_stop_is_held_back(text: str, stops: tuple[str, ...]) -> None:
    watch, shown = StopStrings(stops), ""
    for end, letter in enumerate(text, start=1):
        shown += watch.feed(letter)
        if watch.match is not None:
            return
        held = text[len(shown) : end]
        assert held == "" or any(stop.startswith(held) for stop in stops)
        if stops:
            assert len(held) < max(map(len, stops))


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (("END",), "the END of", ("the ", "END")),
        (("b", "abc"), "xabc", ("xa", "b")),  # complete first
        (("c", "abc"), "xabc", ("x", "abc")),  # the longer of two that end together
        (("aab",), "aaab", ("a", "aab")),  # a false start inside a true one
        (("\n\n",), "one\ntwo\n\nthree", ("one\ntwo", "\n\n")),
        ((), "free", ("free", None)),
    ],
)
def test_examples(stops: tuple[str, ...], text: str, expected: tuple[str, str | None]) -> None:
    assert fed([text], stops) == expected


def test_what_is_passed_over_is_shown_and_forgotten() -> None:
    watch = StopStrings(("stop",))
    assert watch.feed("a st") == "a "
    assert watch.pass_over("op") == "stop"
    assert watch.match is None
    assert watch.feed("st") + watch.feed("ill") == "still"
    assert watch.flush() == ""
