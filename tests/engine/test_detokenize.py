"""Bytes of tokens to text: however a text is cut, the same text."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.engine.detokenize import Detokenizer, TokenText


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def pieces_of(tokens: list[bytes], special: frozenset[int] = frozenset()) -> list[str]:
    """Text token by token, and what the end brings."""
    detokenizer = Detokenizer(TokenText(tokens, special), skip_special_tokens=True)
    return [*(detokenizer.feed(i) for i in range(len(tokens))), detokenizer.flush()]


@given(text=st.text(max_size=30), places=st.lists(st.integers(0, 200), max_size=40))
def test_any_cut_gives_the_text(text: str, places: list[int]) -> None:
    pieces = pieces_of(cut(text.encode(), places))
    assert "".join(pieces) == text
    assert pieces[-1] == ""  # nothing was held back


@given(data=st.binary(max_size=30), places=st.lists(st.integers(0, 40), max_size=30))
def test_bytes_that_are_no_text_are_replaced_as_python_does(data: bytes, places: list[int]) -> None:
    assert "".join(pieces_of(cut(data, places))) == data.decode("utf-8", "replace")


@given(text=st.text(min_size=1, max_size=10))
def test_a_character_comes_with_its_last_byte(text: str) -> None:
    pieces = pieces_of([bytes([byte]) for byte in text.encode()])
    shown = [piece for piece in pieces if piece]
    assert shown == list(text)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_half_a_character_is_shown_at_the_end(size: int) -> None:
    half = "🐟".encode()[:size]
    assert pieces_of([half]) == ["", "\ufffd"]


def test_special_tokens_are_left_out_or_shown() -> None:
    table = TokenText([b"a", b"<end>", b"\xc3", b"\xa9"], frozenset({1}))
    hidden, shown = Detokenizer(table, True), Detokenizer(table, False)
    assert [hidden.feed(i) for i in (0, 1, 0)] == ["a", "", "a"]
    assert [shown.feed(i) for i in (0, 1, 0)] == ["a", "<end>", "a"]
    assert [hidden.feed(i) for i in (2, 1, 3)] == ["", "", "é"]  # none comes between bytes


def test_ids_beyond_the_table_add_nothing() -> None:
    detokenizer = Detokenizer(TokenText([b"a"], frozenset()), True)
    assert [detokenizer.feed(i) for i in (0, 1, 99)] == ["a", "", ""]
