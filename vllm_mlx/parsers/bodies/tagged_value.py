"""The value of one tagged parameter: where it ends, and how it becomes JSON."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from vllm_mlx.parsers.calls import Reading
from vllm_mlx.parsers.coerce import parameter_types, to_json
from vllm_mlx.parsers.notation import escape
from vllm_mlx.parsers.scanner import Markers, Scanner, Steps, markers_of

_STRING = frozenset({"string"})
_NULLABLE = frozenset({"string", "null"})
_PEEK_CHARS = 16  # a nullable string is held no longer than "null" and its white space could take
_CDATA_OPEN, _CDATA_CLOSE = "<![CDATA[", "]]>"
_CLAIMS = {"true": _STRING}


class ValueRules(Struct, frozen=True):
    """How values are closed and typed."""

    close: str
    trims_newline: bool = False  # one line break after the opening and before the closing tag
    cdata: bool = False  # <![CDATA[ ... ]]> around a value is not part of it
    type_attribute: str = ""  # the head's attribute that names the type, or says string="true"
    untyped: str = "string"  # without a schema: "string", or "literal" (what it looks like)


class ValueEnds(Struct, frozen=True):
    """The close of a value and what must follow it; the close of its call, and the same."""

    close: str
    structure: tuple[str, ...]
    call_close: str
    outside: tuple[str, ...]


def value_types(
    schema: Mapping[str, Any], rules: ValueRules, head: dict[str, str]
) -> frozenset[str]:
    """The types the value of the parameter ``head[""]`` may have; empty: what it looks like."""
    types = parameter_types(schema, head[""])
    claimed = head.get(rules.type_attribute, "") if rules.type_attribute else ""
    if types:
        return _STRING if "string" in types and claimed in ("string", "true") else types
    if claimed == "false":
        return frozenset()
    if claimed:
        return _CLAIMS.get(claimed, frozenset({claimed}))
    return _STRING if rules.untyped == "string" else frozenset()


def read_value(
    reading: Reading, rules: ValueRules, ends: ValueEnds, types: frozenset[str]
) -> Steps[bool]:
    """Writes the value at ``pos`` as JSON and consumes its close. False if the text ended first.

    A close counts only where structure follows, so that a string may speak of the tag itself.
    """
    scan = reading.scan
    trims = rules.trims_newline
    if rules.cdata:
        at = yield from scan.skip_space(0)
        if (yield from scan.literal(at, markers_of(_CDATA_OPEN))):
            scan.pos += at + len(_CDATA_OPEN)
            ends = ValueEnds(_CDATA_CLOSE + rules.close, ends.structure, "", ())
            trims = False
    if trims and (yield from scan.char(0)) == "\n":
        scan.pos += 1
    nullable = types == _NULLABLE and not (yield from _is_short(scan, ends.close))
    if types == _STRING or nullable:
        return (yield from _string(reading, ends, trims))
    return (yield from _typed(reading, ends, trims, types))


def _is_short(scan: Scanner, close: str) -> Steps[bool]:
    place, _ = yield from scan.until(0, markers_of(close), _PEEK_CHARS)
    return place >= 0


def _is_end(scan: Scanner, at: int, hit: str, ends: ValueEnds) -> Steps[bool]:
    """Whether the close at an offset is followed by what must follow, or by nothing."""
    at = yield from scan.skip_space(at + len(hit))
    if not (yield from scan.char(at)):
        return True
    follow = ends.structure if hit == ends.close else ends.outside
    return bool((yield from scan.literal(at, markers_of(*follow))))


def _closers(ends: ValueEnds) -> Markers:
    return markers_of(*(m for m in (ends.close, ends.call_close) if m))


def _string(reading: Reading, ends: ValueEnds, trims: bool) -> Steps[bool]:
    scan, calls = reading.scan, reading.calls
    closers = _closers(ends)
    calls.write('"')
    held = ""  # a line break that is dropped if the value closes
    while True:
        place, hit = closers.find(scan.text, scan.pos, scan.ended)
        text = held + scan.text[scan.pos : place]
        scan.pos = place
        held = "\n" if trims and text.endswith("\n") else ""
        calls.write(escape(text[:-1] if held else text))
        if hit:
            if (yield from _is_end(scan, 0, hit, ends)):
                scan.pos += len(hit) if hit == ends.close else 0
                calls.write('"')
                return True
            calls.write(escape(held + hit))
            held = ""
            scan.pos += len(hit)
        elif scan.ended:
            calls.write(escape(held))
            return False
        else:
            yield


def _typed(reading: Reading, ends: ValueEnds, trims: bool, types: frozenset[str]) -> Steps[bool]:
    scan = reading.scan
    closers = _closers(ends)
    at = 0
    while True:
        place, hit = closers.find(scan.text, scan.pos + at, scan.ended)
        at = place - scan.pos
        if hit and (yield from _is_end(scan, at, hit, ends)):
            break
        if hit:
            at += len(hit)
        elif scan.ended:
            reading.calls.write(scan.rest())
            scan.pos = len(scan.text)
            return False
        else:
            yield
    text = scan.text[scan.pos : scan.pos + at]
    if trims and text.endswith("\n"):
        text = text[:-1]
    scan.pos += at + (len(hit) if hit == ends.close else 0)
    reading.calls.write(to_json(text, types))
    return True
