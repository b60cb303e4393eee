"""Broken JSON of a model -> valid JSON with the same meaning, where the meaning is plain.

What streaming already tolerates is in ``transcode.py``; this needs the whole text.
"""

import re

from vllm_mlx.parsers.notation import JSON, escape
from vllm_mlx.parsers.transcode import Transcoder

_MAX_EDITS = 200
_BARE_VALUE = re.compile(r"[^,\]}\n\"]+")
_NEXT_KEY = re.compile(r"""["'][^"'\\\n]*["']\s*:""")
_CLOSER = {"{": "}", "[": "]"}


def repair_json(text: str) -> str | None:
    """Valid JSON, or None if it takes more guessing than quotes, commas and closing brackets."""
    for _ in range(_MAX_EDITS):
        value = Transcoder(JSON)
        stop = value.feed(text, 0, ended=True)
        if value.status == "done":
            return value.take() if not text[stop:].strip(" \t\r\n]}`;") else None
        if value.status == "open":
            return _closed(value)
        edited = _edit(text, stop, value)
        if edited is None:
            return None
        text = edited
    return None


def _closed(value: Transcoder) -> str | None:
    """The text that ended too early, with what it still needed."""
    closing = value.closing()
    return None if closing is None else value.take() + closing


def _edit(text: str, stop: int, value: Transcoder) -> str | None:
    """One repair at the place where reading failed; None if no rule fits."""
    char = text[stop]
    if value.wants_value:
        bare = _BARE_VALUE.match(text, stop)
        if bare is None or char in ":}],":
            return None
        return f'{text[:stop]}"{escape(bare.group().strip())}"{text[bare.end() :]}'
    if not value.wants_separator:
        return None
    if char in "}]":
        return f"{text[:stop]}{_CLOSER.get(value.innermost, '')}{text[stop:]}"
    quote = value.last_quote(text, stop)
    if quote < 0 or _NEXT_KEY.match(text, stop) or char in "{[":
        return f"{text[:stop]},{text[stop:]}"
    # a string that closed too early: its quote was part of it
    return f"{text[:quote]}\\{text[quote:]}"
