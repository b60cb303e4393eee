"""Replies made of messages with headers: whom a message is for, and bodies that are calls."""

import re

from msgspec import Struct

from vllm_mlx.parsers.bodies.raw import text_parameter, write_raw
from vllm_mlx.parsers.calls import (
    HEAD_CHARS,
    NAME,
    Reading,
    consume_closers,
    raw_until,
    stream_arguments,
)
from vllm_mlx.parsers.formats.description import Channels
from vllm_mlx.parsers.notation import JSON
from vllm_mlx.parsers.scanner import FAILED, Steps, markers_of


class Message(Struct, frozen=True):
    """Whom one message is for; neither: the reader."""

    is_reasoning: bool = False
    tool: str = ""


def read_header(reading: Reading, channels: Channels, first: bool) -> Steps[Message | None]:
    """Consumes a header. None, with nothing consumed, if what follows is none."""
    scan = reading.scan
    at = yield from scan.skip_space(0)
    if not (first and channels.begins_in_head):
        begins = (*channels.starts, *channels.implicit) if first else channels.starts
        if not (yield from scan.literal(at, markers_of(*begins))):
            return None
    limit = _first_line_chars(reading, channels) if channels.begins_in_head else HEAD_CHARS
    body, mark = yield from scan.until(at, markers_of(*channels.messages), limit)
    if body == FAILED:
        return None
    head = re.fullmatch(channels.head, scan.text[scan.pos + at : scan.pos + body], re.DOTALL)
    if head is None:
        return None
    message = _message(channels, head.groupdict())
    if channels.begins_in_head and message.tool not in ("", *reading.tools):
        return None  # an ordinary line
    scan.pos += body + len(mark)
    return message


def _first_line_chars(reading: Reading, channels: Channels) -> int:
    """How long a header can be that is known only by the tool it names."""
    names = (*reading.tools, *channels.readers)
    marks = (*channels.starts, channels.prefix, "\n\n")
    return max(map(len, names)) + sum(map(len, marks))


def _message(channels: Channels, head: dict[str, str | None]) -> Message:
    recipient, channel = head.get("recipient") or "", head.get("channel") or ""
    recipient = recipient.removeprefix(channels.prefix)
    if recipient in channels.reasoning or (not recipient and channel in channels.reasoning):
        return Message(is_reasoning=True)
    if not channels.calls or not recipient or recipient in channels.readers:
        return Message()
    return Message(tool=recipient) if NAME.fullmatch(recipient) else Message()


def read_body(reading: Reading, channels: Channels, name: str) -> Steps[None]:
    """A body that is a call's arguments: JSON, or free text for a tool that takes a text."""
    scan, calls = reading.scan, reading.calls
    ends = (*channels.starts, *channels.ends)
    closers = markers_of(*ends)
    at = yield from scan.skip_space(0)
    key = text_parameter(reading, name)
    if (yield from scan.char(at)) == "{":
        scan.pos += at
        calls.start(name)
        yield from stream_arguments(reading, JSON, closers)
        yield from consume_closers(scan, markers_of(*channels.ends), stray="}")
    elif (yield from scan.literal(at, closers)) or not (yield from scan.char(at)):
        calls.start(name)
        calls.write("{}")
        calls.end()
    elif key:
        yield from write_raw(reading, name, key, ends)
    else:
        calls.start(name)
        yield from raw_until(reading, closers)
        calls.end("malformed")
