"""Calls written as JSON objects: one, an array of them, or one after another.

``{"name": ..., "arguments": {...}}`` in any order of keys, nested under "function", with the
arguments as an object or as a string of JSON; or ``{"the_name": {...}}``.
"""

import json
import re

from msgspec import Struct

from vllm_mlx.parsers.calls import (
    HEAD_CHARS,
    NAME,
    Reading,
    consume_closers,
    look_string,
    look_value,
    stream_arguments,
    stream_decoded,
)
from vllm_mlx.parsers.notation import JSON
from vllm_mlx.parsers.scanner import FAILED, Scanner, Steps, markers_of

_BARE_KEY = re.compile(r"[A-Za-z_]\w*\Z")
_COLON = markers_of(":")


class JsonCalls(Struct, frozen=True):
    """``guarded``: there is no marker, so the name must be one of the request's tools."""

    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()  # openers only at the start of the content, and left in the body
    guarded: bool = False
    keyed: bool = False  # the only key is the name
    name_keys: tuple[str, ...] = ("name", "tool_name", "function_name")
    argument_keys: tuple[str, ...] = ("arguments", "parameters", "args", "input")
    id_keys: tuple[str, ...] = ("id", "tool_call_id", "call_id")
    keeps_ids: bool = False


class _Seen(Struct):
    """What is known of the object being read."""

    name: str | None = None
    given_id: str | None = None
    early: str | None = None  # arguments that came before the name, as JSON
    committed: bool = False
    depth: int = 1


def read_json(reading: Reading, region: JsonCalls, opener: str) -> Steps[bool]:
    """Reads the region at ``pos``. False, with nothing consumed, if there is no call in it."""
    scan = reading.scan
    at = yield from scan.skip_space(0 if opener in region.starts else len(opener))
    in_array = (yield from scan.char(at)) == "["
    if in_array:
        at = yield from scan.skip_space(at + 1)
    if (yield from scan.char(at)) != "{" or not (yield from _object(reading, region, at)):
        return False
    while (yield from _next(reading, region, in_array)):
        pass
    if in_array:
        yield from _consume(scan, "]")
    yield from consume_closers(scan, markers_of(*region.closes), stray="}]")
    return True


def _next(reading: Reading, region: JsonCalls, in_array: bool) -> Steps[bool]:
    """Another object right after the last one, with or without a comma."""
    scan = reading.scan
    at = yield from scan.skip_space(0)
    if (yield from scan.char(at)) in (",", ";"):
        at = yield from scan.skip_space(at + 1)
    if (yield from scan.char(at)) != "{":
        return False
    return (yield from _object(reading, region, at))


def _consume(scan: Scanner, char: str) -> Steps[None]:
    at = yield from scan.skip_space(0)
    if (yield from scan.char(at)) == char:
        scan.pos += at + 1


def _object(reading: Reading, region: JsonCalls, at: int) -> Steps[bool]:
    """One object whose brace is at an offset; consumed once its arguments begin."""
    seen = _Seen()
    scan = reading.scan
    at += 1
    while True:
        at = yield from scan.skip_space(at)
        char = yield from scan.char(at)
        if char == "}":
            at += 1
            seen.depth -= 1
            if seen.depth == 0:
                break
        elif char == ",":
            at += 1
        elif char == "":
            return seen.committed
        else:
            key, at = yield from _key(scan, at)
            if key is None:
                return seen.committed
            at = yield from _member(reading, region, seen, key, at)
            if at == FAILED:
                return seen.committed
    return _finish(reading, region, seen, at)


def _finish(reading: Reading, region: JsonCalls, seen: _Seen, at: int) -> bool:
    """The object is closed: consume its tail, and write a call that has no arguments."""
    if not seen.committed:
        if seen.name is None or (region.guarded and not reading.tools and seen.early is None):
            return False
        reading.calls.start(seen.name, seen.given_id)
        reading.calls.write(seen.early or "{}")
        reading.calls.end()
    reading.scan.pos += at
    return True


def _key(scan: Scanner, at: int) -> Steps[tuple[str | None, int]]:
    """A key and the offset after its colon."""
    if (yield from scan.char(at)) in "\"'":
        key, at = yield from look_string(scan, at)
        at = yield from scan.skip_space(at)
        return (key if (yield from scan.char(at)) == ":" else None), at + 1
    colon, _ = yield from scan.until(at, _COLON, HEAD_CHARS)
    bare = scan.text[scan.pos + at : scan.pos + colon].strip() if colon != FAILED else ""
    return (bare if _BARE_KEY.match(bare) else None), colon + 1


def _member(reading: Reading, region: JsonCalls, seen: _Seen, key: str, at: int) -> Steps[int]:
    """One value; the offset after it, or FAILED if this is no call."""
    scan = reading.scan
    at = yield from scan.skip_space(at)
    char = yield from scan.char(at)
    if seen.committed:
        return (yield from _skip(scan, at))
    if key in region.name_keys and char in ('"', "'"):
        return (yield from _name(reading, region, seen, at))
    if key in region.id_keys and region.keeps_ids and char in ('"', "'"):
        seen.given_id, after = yield from look_string(scan, at)
        return FAILED if seen.given_id is None else after
    if key == "function" and char == "{":
        seen.depth += 1
        return at + 1
    if region.keyed and char == "{" and NAME.fullmatch(key):
        seen.name = key
        return (yield from _arguments(reading, region, seen, char, at))
    if key in region.argument_keys:
        return (yield from _arguments(reading, region, seen, char, at))
    if region.guarded and key != "type" and key not in region.id_keys:
        return FAILED
    return (yield from _skip(scan, at))


def _skip(scan: Scanner, at: int) -> Steps[int]:
    value, after = yield from look_value(scan, at, JSON)
    return FAILED if value is None else after


def _name(reading: Reading, region: JsonCalls, seen: _Seen, at: int) -> Steps[int]:
    seen.name, after = yield from look_string(reading.scan, at)
    if seen.name is None or not NAME.fullmatch(seen.name):
        return FAILED
    return FAILED if region.guarded and not reading.knows(seen.name) else after


def _arguments(reading: Reading, region: JsonCalls, seen: _Seen, char: str, at: int) -> Steps[int]:
    """Streams the arguments if the name is known, else keeps them until it is."""
    scan, calls = reading.scan, reading.calls
    closers = markers_of(*region.closes)
    if char not in ("{", '"', "'"):
        value, at = yield from look_value(scan, at, JSON)
        if value is None:
            return FAILED
        seen.early = "{}" if value == "null" else value
        return at
    if seen.name is None:
        value, at = yield from look_value(scan, at, JSON)
        if value is None:
            return FAILED
        seen.early = value if value[0] != '"' else json.loads(value)
        return at
    scan.pos += at
    seen.committed = True
    calls.start(seen.name, seen.given_id)
    if char == "{":
        yield from stream_arguments(reading, JSON, closers)
    else:
        yield from stream_decoded(reading, closers)
    return 0
