"""What the property tests draw: tools, arguments, texts, and ways to cut a text."""

import os
from typing import Any

from hypothesis import strategies as st

from tests.parsers.writers import Call

# many more of them find rarer texts: LAW_EXAMPLES=300 pytest tests/parsers
EXAMPLES = int(os.environ.get("LAW_EXAMPLES", "12"))

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "code": {"type": "string"},
        "days": {"type": "integer"},
        "ratio": {"type": "number"},
        "on": {"type": "boolean"},
        "flags": {"type": "array", "items": {"type": "string"}},
        "opt": {"$ref": "#/$defs/opt"},
        "nothing": {"type": "null"},
    },
    "$defs": {"opt": {"type": "object"}},
}
TOOLS = {"get_weather": SCHEMA, "search.web": SCHEMA, "mcp__files-read": SCHEMA}

MARKUP = (
    "<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<|tool_call>", "<|",
    "</parameter>", "<function=f>", "</function>", "<|message|>", "<|end|>", "```", "<arg_key>",
    "</invoke>", "<|call|>", "<|start|>", ")]", "]]>", "[/THINK]", "<channel|>", ">>>",
    "<tool_call|>",
)  # fmt: skip
_PIECES = (
    *MARKUP, '"', "'", "\\", "\n", " ", "{", "}", "[", "]", "<", ">", ",", ":", "a", "null", "3",
    "\t", "é", "漢", "😀", "👩‍👩‍👧", "\u0007", "\\n", "=",
)  # fmt: skip

any_text = st.lists(st.sampled_from(_PIECES), max_size=8).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8
)
_keys = st.sampled_from(("a", "key_2", "Z"))
_leaf = st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | any_text
_json = _leaf | st.lists(_leaf, max_size=3) | st.dictionaries(_keys, _leaf, max_size=2)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "city": any_text,
    "code": any_text,
    "days": st.integers(),
    "ratio": st.floats(allow_nan=False, allow_infinity=False),
    "on": st.booleans(),
    "flags": st.lists(any_text, max_size=3),
    "opt": st.dictionaries(_keys, _json, max_size=3),
    "nothing": st.none(),
}
arguments = st.fixed_dictionaries({}, optional=_VALUES)
calls: st.SearchStrategy[list[Call]] = st.lists(
    st.tuples(st.sampled_from(sorted(TOOLS)), arguments), min_size=1, max_size=3
)

# text that no format takes for markup, with pieces that could become some
_SAID = ("Hello", "world", " ", "\n", "\n\n", "<", "<tool", "[TOOL_", "<|", "é", "😀", "3 < 4", "`")
said = st.lists(st.sampled_from(_SAID), max_size=5).map("".join)

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def cut(text: str, lengths: list[int]) -> list[str]:
    """The text in pieces of these lengths, again and again."""
    pieces, place, n = [], 0, 0
    while place < len(text):
        pieces.append(text[place : place + lengths[n % len(lengths)]])
        place += len(pieces[-1])
        n += 1
    return pieces


def strings_in(value: Any) -> list[str]:
    """Every string in a value, keys left out."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings_in(one)]
    return [text for one in value for text in strings_in(one)] if isinstance(value, list) else []
