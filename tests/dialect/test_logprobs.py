"""Both forms of logprobs: numbers JSON can say, offsets that point into the text."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.core.delta import TokenLogprob, TopLogprob
from vllm_mlx.dialect.logprobs import LOWEST, LegacyLogprobs, legacy_token, to_chat_logprobs


def entry(raw: bytes, logprob: float | None = -1.0) -> TokenLogprob:
    return TokenLogprob(1, raw.decode("utf-8", "replace"), raw, logprob)


@st.composite
def cut_text(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A text and its bytes cut anywhere, also inside characters."""
    text = draw(st.text(st.characters(codec="utf-8"), max_size=12))
    raw = text.encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(raw)), max_size=6)) | {0, len(raw)})
    return text, [raw[a:b] for a, b in pairwise(cuts)]


@given(cut_text(), st.integers(1, 4))
def test_offsets_point_into_the_text_however_it_comes(
    case: tuple[str, list[bytes]], batch: int
) -> None:
    text, pieces = case
    entries = [entry(piece) for piece in pieces]
    whole = LegacyLogprobs().take(entries, 1)
    parts, running = [], LegacyLogprobs()
    for i in range(0, len(entries), batch):
        parts.extend(running.take(entries[i : i + batch], 1).text_offset)
    assert parts == whole.text_offset
    raw = b""
    for piece, offset in zip(pieces, whole.text_offset, strict=True):
        assert offset == len(raw.decode("utf-8", "ignore"))
        raw += piece
    assert raw.decode() == text


def test_prompt_offsets_skip_what_the_text_does_not_show() -> None:
    entries = [entry(b"<s>", None), entry(b"a"), entry(b"b")]
    lists = LegacyLogprobs()
    lists.begin_prompt(entries, "ab")
    assert lists.take(entries, 0).text_offset == [0, 0, 1]
    assert lists.take([entry(b"c")], 0).text_offset == [2]


def test_bytes_that_are_no_text_stay_distinct() -> None:
    assert legacy_token(entry(b"\xe2\x80")) == "bytes:\\xe2\\x80"
    assert legacy_token(entry("\ufffd".encode())) == "\ufffd"
    assert legacy_token(entry(b"a")) == "a"


def test_minus_infinity_can_be_said_in_json() -> None:
    token = TokenLogprob(1, "a", b"a", -math.inf, (TopLogprob(2, "b", b"b", -math.inf),))
    (said,) = to_chat_logprobs([token]).content
    assert (said.logprob, said.top_logprobs[0].logprob) == (LOWEST, LOWEST)
    lists = LegacyLogprobs().take([token], 1)
    assert lists.token_logprobs == [LOWEST]
    assert lists.top_logprobs == [{"b": LOWEST, "a": LOWEST}]


def test_top_is_cut_to_what_was_asked_and_keeps_the_token() -> None:
    tops = tuple(TopLogprob(i, c, c.encode(), -i) for i, c in enumerate("xyz"))
    token = TokenLogprob(9, "q", b"q", -5.0, tops)
    assert LegacyLogprobs().take([token], 2).top_logprobs == [{"x": 0, "y": -1, "q": -5.0}]
