"""Values: valid JSON passes unchanged, what comes out as done is valid, types follow the schema."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parsers.strategies import EXAMPLES, any_text, cut, sizes
from vllm_mlx.parsers.coerce import parameter_types, to_json
from vllm_mlx.parsers.notation import GEMMA4, JSON, PYTHON, Notation
from vllm_mlx.parsers.recovery import repair_arguments
from vllm_mlx.parsers.repair import repair_json
from vllm_mlx.parsers.transcode import Transcoder, transcode

LAW = settings(max_examples=EXAMPLES * 5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
broken = st.lists(
    st.sampled_from([*"{}[]\",:\\'( )=\n", "a", "12", "true", '"k": ', '{"a": [', "<|", '<|"|>']),
    max_size=12,
).map("".join)


def streamed(pieces: list[str], notation: Notation) -> tuple[str, str]:
    """The JSON of a text fed in pieces, and the status at its end."""
    value, text, out = Transcoder(notation), "", ""
    for n, piece in enumerate([*pieces, ""]):
        text += piece
        stop = value.feed(text, 0, ended=n == len(pieces))
        text, out = text[stop:], out + value.take()
    return out, value.status


@given(value=values, indent=st.sampled_from([None, 0, 2]), ascii=st.booleans(), lengths=sizes)
@LAW
def test_valid_json_passes_unchanged(
    value: Any, indent: int | None, ascii: bool, lengths: list[int]
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert streamed(cut(text, lengths), JSON) == (text, "done")


@given(value=values, lengths=sizes)
@LAW
def test_python_literals_become_json(value: Any, lengths: list[int]) -> None:
    out, status = streamed(cut(repr(value), lengths), PYTHON)
    assert status == "done"
    assert json.loads(out) == value
    assert json.loads(transcode(repr((value, value)), PYTHON) or "") == [value, value]


@pytest.mark.parametrize("notation", [JSON, PYTHON, GEMMA4])
@given(text=broken, lengths=sizes)
@LAW
def test_what_is_done_is_valid_json(notation: Notation, text: str, lengths: list[int]) -> None:
    out, status = streamed(cut(text, lengths), notation)
    assert (out, status) == streamed([text], notation)
    if status == "done":
        json.loads(out)


@given(text=broken)
@LAW
def test_a_repair_is_valid_json_or_none(text: str) -> None:
    repaired = repair_json(text)
    if repaired is not None:
        json.loads(repaired)


@given(value=st.dictionaries(any_text, values, max_size=4))
@LAW
def test_valid_arguments_keep_their_spelling(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert repair_arguments(text, {}) == text


def test_depth_is_no_danger() -> None:
    text = '{"a": ' + "[" * 20_000 + "]" * 20_000 + "}"
    assert transcode(text, JSON) == text
    assert repair_arguments(text, {}) is None


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"string", "null"}),
        ({"anyOf": [{"type": "string"}, {}]}, set()),
        ({"allOf": [{"description": "x"}, {"type": "object"}]}, {"object"}),
        ({"enum": ["a", 1, None]}, {"string", "integer", "null"}),
        ({"const": True}, {"boolean"}),
        ({"$ref": "#/$defs/one"}, {"number"}),
        ({"$ref": "#/$defs/loop"}, set()),
        ({"$ref": "https://elsewhere"}, set()),
        (True, set()),
    ],
)
def test_types_of_a_schema(schema: Any, types: set[str]) -> None:
    defs = {"one": {"type": "number"}, "loop": {"$ref": "#/$defs/loop"}}
    assert parameter_types({"properties": {"p": schema}, "$defs": defs}, "p") == types


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        (" 3\n", {"integer"}, "3"),
        ("3.0", {"integer"}, "3"),
        ("3.5", {"integer"}, '"3.5"'),
        ("1e3", {"number"}, "1e3"),
        (".5", {"number"}, "0.5"),
        ("123456789012345678901234567890", {"integer"}, "123456789012345678901234567890"),
        ("TRUE", {"boolean"}, "true"),
        ("None", {"string", "null"}, "null"),
        ("None", {"string"}, '"None"'),
        ("12", {"string", "integer"}, "12"),
        ("12", {"string"}, '"12"'),
        ("{'a': (1, True)}", {"object"}, "{\"a\": [1, true]}"),
        ("[1,  2]", {"array"}, "[1,  2]"),
        ("[1, NaN]", {"array"}, '"[1, NaN]"'),
        ("[1", {"array"}, '"[1"'),
        ("Paris", set(), '"Paris"'),
        ("nil", set(), '"nil"'),
        ("null", set(), "null"),
        (" two ", set(), '" two "'),
    ],
)  # fmt: skip
def test_text_of_a_parameter(text: str, types: set[str], value: str) -> None:
    assert to_json(text, frozenset(types)) == value
