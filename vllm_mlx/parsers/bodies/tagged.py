"""Calls whose parameters stand in tags, one by one, in text that is not JSON.

Strings are escaped to JSON as they arrive; other types are read by the tool's schema when the
parameter closes.
"""

import json
import re

from msgspec import Struct

from vllm_mlx.parsers.bodies.tagged_value import ValueEnds, ValueRules, read_value, value_types
from vllm_mlx.parsers.calls import (
    HEAD_CHARS,
    NAME,
    Reading,
    consume_closers,
    stream_arguments,
)
from vllm_mlx.parsers.notation import JSON
from vllm_mlx.parsers.scanner import FAILED, Scanner, Steps, markers_of

_ATTRIBUTE = re.compile(r"([\w:-]+)\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'>]+)")
_ENTITIES = (("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


class Head(Struct, frozen=True):
    """An opening tag: ``open`` name or attributes ``end``."""

    open: str
    end: str
    attribute: str = ""  # the attribute that holds the name; "": the text itself is the name


class TaggedCalls(Struct, frozen=True):
    """Markers of the wrapper, of a call, and of its parameters."""

    call: Head
    call_close: str
    parameter: Head
    values: ValueRules
    opens: tuple[str, ...] = ()  # wrappers; a call may also come without
    closes: tuple[str, ...] = ()
    value_open: str = ""  # between a parameter's head and its value
    json_head: str = ""  # opens the whole arguments as one JSON value ...
    json_head_end: str = ""
    json_close: str = ""  # ... closed by this
    json_body: bool = False  # the body may be a JSON object instead of parameters
    starts: tuple[str, ...] = ()

    @property
    def structure(self) -> tuple[str, ...]:
        """What may follow a closed parameter."""
        marks = (self.parameter.open, self.call_close, self.call.open, self.json_head)
        return tuple(m for m in (*marks, *self.closes, *self.opens) if m)

    @property
    def ends(self) -> ValueEnds:
        """How a parameter's value ends: by its own close, or, if that is missing, the call's."""
        outside = tuple(m for m in (self.call.open, *self.closes, *self.opens) if m)
        return ValueEnds(self.values.close, self.structure, self.call_close, outside)


def read_tagged(reading: Reading, region: TaggedCalls, opener: str) -> Steps[bool]:
    """Reads the region at ``pos``. False, with nothing consumed, if there is no call in it."""
    scan = reading.scan
    at = len(opener)
    if opener in region.opens and region.call.open:
        at = yield from scan.skip_space(at)
        if not (yield from scan.literal(at, markers_of(region.call.open))):
            return False
        at += len(region.call.open)
    if not (yield from _call(reading, region, at)):
        return False
    closers = markers_of(*region.closes)
    while True:
        if (yield from consume_closers(scan, closers)) or not region.call.open:
            return True
        at = yield from scan.skip_space(0)
        if not (yield from scan.literal(at, markers_of(region.call.open))):
            return True
        if not (yield from _call(reading, region, at + len(region.call.open))):
            return True


def _head(scan: Scanner, head: Head, at: int) -> Steps[tuple[dict[str, str], int]]:
    """The attributes of a head ("" is its name) and the offset after it; no name: it is none."""
    end, _ = yield from scan.until(at, markers_of(head.end), HEAD_CHARS)
    if end == FAILED:
        return {}, at
    text = scan.text[scan.pos + at : scan.pos + end]
    found = {"": text.strip().strip("\"'")}
    if head.attribute:
        found = {key: _unquote(value) for key, value in _ATTRIBUTE.findall(text)}
        found[""] = found.get(head.attribute, "")
    return found, end + len(head.end)


def _unquote(text: str) -> str:
    text = text[1:-1] if text[:1] in "\"'" else text
    for entity, char in _ENTITIES:
        text = text.replace(entity, char)
    return text


def _name(reading: Reading, region: TaggedCalls, at: int) -> Steps[tuple[str, int]]:
    """The call's name and the offset of its first parameter, JSON body or close; "" if none."""
    scan = reading.scan
    if region.call.end:
        found, at = yield from _head(scan, region.call, at)
        name = found.get("", "")
    else:  # the name goes up to the first parameter or the close
        stops = markers_of(region.parameter.open, region.call_close, *region.closes)
        end, _ = yield from scan.until(at, stops, HEAD_CHARS)
        name = scan.text[scan.pos + at : scan.pos + end].strip() if end != FAILED else ""
        at = end
    if not NAME.fullmatch(name):
        return "", at
    at = yield from scan.skip_space(at)
    bodies = (*region.structure, "{") if region.json_body else region.structure
    if not (yield from scan.literal(at, markers_of(*bodies))) and (yield from scan.char(at)):
        return "", at
    return name, at


def _call(reading: Reading, region: TaggedCalls, at: int) -> Steps[bool]:
    """One call whose head's name is at an offset; consumed once its name is known to be one."""
    scan, calls = reading.scan, reading.calls
    name, at = yield from _name(reading, region, at)
    if not name:
        return False
    scan.pos += at
    calls.start(name)
    if region.json_body and (yield from scan.char(0)) == "{":
        closers = markers_of(region.call_close, *region.closes)
        yield from stream_arguments(reading, JSON, closers)
        yield from consume_closers(scan, markers_of(region.call_close), stray="}")
        return True
    yield from _parameters(reading, region, name)
    return True


def _parameters(reading: Reading, region: TaggedCalls, name: str) -> Steps[None]:
    """The parameters at ``pos`` up to the call's close, as a JSON object."""
    scan, calls = reading.scan, reading.calls
    structure = markers_of(*region.structure)
    separator = "{"
    while True:
        at = yield from scan.skip_space(0)
        hit = yield from scan.literal(at, structure)
        if hit == region.parameter.open:
            found, after = yield from _parameter_head(reading, region, at + len(hit))
            if not found:
                calls.end("truncated" if scan.ended else "malformed")
                return
            scan.pos += after
            calls.write(f"{separator}{json.dumps(found[''], ensure_ascii=False)}: ")
            separator = ", "
            types = value_types(reading.schema(name), region.values, found)
            if not (yield from read_value(reading, region.values, region.ends, types)):
                calls.end("truncated")
                return
        elif hit and hit == region.json_head and separator == "{":
            yield from _json_parameter(reading, region, at)
            return
        else:
            break
    scan.pos += at + len(hit) if hit == region.call_close else 0
    if not hit and scan.ended and scan.is_cut:
        calls.end("truncated")
        return
    calls.write("{}" if separator == "{" else "}")
    calls.end(None if hit or scan.ended else "malformed")


def _parameter_head(
    reading: Reading, region: TaggedCalls, at: int
) -> Steps[tuple[dict[str, str], int]]:
    """The head's attributes and the offset of the value; empty if there is no key."""
    scan = reading.scan
    found, at = yield from _head(scan, region.parameter, at)
    if not found.get(""):
        return {}, at
    if region.value_open:
        space = yield from scan.skip_space(at)
        if not (yield from scan.literal(space, markers_of(region.value_open))):
            return {}, at
        at = space + len(region.value_open)
    return found, at


def _json_parameter(reading: Reading, region: TaggedCalls, at: int) -> Steps[None]:
    """The whole arguments as one JSON value in a tag of its own."""
    scan = reading.scan
    at += len(region.json_head)
    end, hit = yield from scan.until(at, markers_of(region.json_head_end), HEAD_CHARS)
    if end == FAILED:
        reading.calls.end("truncated" if scan.ended else "malformed")
        return
    scan.pos += yield from scan.skip_space(end + len(hit))
    yield from stream_arguments(reading, JSON, markers_of(region.json_close))
    yield from consume_closers(scan, markers_of(region.json_close, region.call_close))
