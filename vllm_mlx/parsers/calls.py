"""What a reader of calls works with: the text, the place to write calls to, the request's tools.

Also the streaming of one arguments value, shared by several bodies.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from vllm_mlx.parsers.base import (
    CallArguments,
    CallEnd,
    CallProblem,
    CallStart,
    Event,
    ToolSchemas,
)
from vllm_mlx.parsers.ids import IdFactory, IdStyle
from vllm_mlx.parsers.notation import JSON, Notation
from vllm_mlx.parsers.scanner import Markers, Scanner, Steps
from vllm_mlx.parsers.transcode import Transcoder

HEAD_CHARS = 256  # a call's head (name, id) longer than this is not one
NAME = re.compile(r"[\w.\-:/$]{1,128}")

_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")


class CallWriter:
    """Numbers the calls of one reply and emits their events."""

    __slots__ = ("_emit", "_ids", "_style", "count")

    def __init__(self, emit: Callable[[Event], None], ids: IdFactory, style: IdStyle) -> None:
        self._emit = emit
        self._ids = ids
        self._style: IdStyle = style
        self.count = 0

    def enter(self) -> None:
        """What follows may be calls."""

    def leave(self) -> tuple[str, ...]:
        """The calls are over; gives the text of those that turned out to be none."""
        return ()

    def start(self, name: str, given_id: str | None = None) -> None:
        """Begins the next call; ``given_id`` is the id in the text, if it has one."""
        call_id = given_id or self._ids(self._style, name, self.count)
        self._emit(CallStart(self.count, call_id, name))
        self.count += 1

    def write(self, text: str) -> None:
        """The next piece of the current call's arguments."""
        if text:
            self._emit(CallArguments(self.count - 1, text))

    def end(self, problem: CallProblem | None = None) -> None:
        """Ends the current call."""
        self._emit(CallEnd(self.count - 1, problem))


class Reading(Struct):
    """One reply's state, as region readers see it."""

    scan: Scanner
    calls: CallWriter
    tools: ToolSchemas

    def knows(self, name: str) -> bool:
        """Whether the request has this tool; yes if it named none."""
        return not self.tools or name in self.tools

    def schema(self, name: str) -> Mapping[str, Any]:
        """The parameters' schema, empty for an unknown tool."""
        return self.tools.get(name) or {}


def look_value(scan: Scanner, at: int, notation: Notation) -> Steps[tuple[str | None, int]]:
    """A value at an offset as JSON, and the offset after it; None if there is no whole value."""
    value = Transcoder(notation)
    while True:
        at = value.feed(scan.text, scan.pos + at, scan.ended) - scan.pos
        if value.status == "done":
            return value.take(), at
        if value.status == "failed" or scan.ended:
            return None, at
        yield


def look_string(scan: Scanner, at: int) -> Steps[tuple[str | None, int]]:
    """A quoted string at an offset, decoded, and the offset after it; None if it is not one."""
    text, at = yield from look_value(scan, at, JSON)
    if text is None or not text.startswith('"'):
        return None, at
    decoded: str = json.loads(text)
    return decoded, at


def stream_arguments(reading: Reading, notation: Notation, closers: Markers) -> Steps[None]:
    """Writes the value at ``pos`` as it arrives, and ends the call.

    A value that breaks goes on as it was written up to a closer: nothing is lost, and the end
    says that it is malformed.
    """
    scan, calls = reading.scan, reading.calls
    value = Transcoder(notation)
    while value.status == "open":
        # never told of the end: what it holds then is written as it is
        scan.pos = value.feed(scan.text, scan.pos, False)
        calls.write(value.take())
        if value.status == "open":
            if scan.ended:
                calls.write(value.take_held() + scan.rest())
                scan.pos = len(scan.text)
                calls.end("truncated")
                return
            yield
    if value.status == "failed":
        calls.write(value.take_held())
        yield from raw_until(reading, closers)
    calls.end("malformed" if value.status == "failed" else None)


def stream_decoded(reading: Reading, closers: Markers) -> Steps[None]:
    """Like ``stream_arguments``, where the arguments are JSON text inside a string."""
    scan, calls = reading.scan, reading.calls
    value = Transcoder(JSON)
    held, opened = "", False
    while True:
        scan.pos = value.feed(scan.text, scan.pos, scan.ended)
        text = value.take()
        over = value.status == "done"
        if text and not opened:
            opened, text = True, text[1:]  # the opening quote
        text = held + (text[:-1] if over else text)
        half = None if over or scan.ended else _HIGH_SURROGATE.search(text)
        held = half.group() if half is not None else ""
        calls.write(json.loads(f'"{text[: len(text) - len(held)]}"'))
        if over:
            calls.end()
            return
        if value.status == "failed" or scan.ended:
            yield from raw_until(reading, closers)
            calls.end("truncated" if scan.ended else "malformed")
            return
        yield


def raw_until(reading: Reading, closers: Markers) -> Steps[None]:
    """Writes the text up to a closer (not consumed) or the end as arguments.

    Without closers nothing says where the call would end: the text is left to be content.
    """
    scan = reading.scan
    if not closers.literals and not scan.ended:
        return
    while True:
        place, hit = closers.find(scan.text, scan.pos, scan.ended)
        reading.calls.write(scan.text[scan.pos : place])
        scan.pos = place
        if hit or scan.ended:
            return
        yield


def consume_closers(scan: Scanner, closers: Markers, stray: str = "") -> Steps[bool]:
    """Consumes white space, ``stray`` characters and closers, if a closer is there."""
    found = False
    while closers.literals:
        at = yield from scan.skip_space(0)
        while stray and (char := (yield from scan.char(at))) and char in stray:
            at = yield from scan.skip_space(at + 1)
        hit = yield from scan.literal(at, closers)
        if not hit:
            break
        scan.pos += at + len(hit)
        found = True
    return found
