"""Calls written as Python: ``[name(key=value, ...), other()]``."""

import json
import re

from msgspec import Struct

from vllm_mlx.parsers.calls import HEAD_CHARS, NAME, Reading, consume_closers
from vllm_mlx.parsers.notation import PYTHON
from vllm_mlx.parsers.scanner import FAILED, Scanner, Steps, markers_of
from vllm_mlx.parsers.transcode import Transcoder

_PAREN = markers_of("(")
_KEY_END = markers_of("=", ",", "(", ")", "[", "{", '"', "'")
_IDENTIFIER = re.compile(r"[^\W\d]\w*\Z")


class PythonicCalls(Struct, frozen=True):
    """``starts``: brackets that open a list without any marker; the tool must then be known."""

    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    bare: bool = False  # a single call without brackets
    suffix: str = ""  # dropped from the name


def read_pythonic(reading: Reading, region: PythonicCalls, opener: str) -> Steps[bool]:
    """Reads the region at ``pos``. False, with nothing consumed, if there is no call in it."""
    scan = reading.scan
    guarded = opener in region.starts
    at = yield from scan.skip_space(0 if guarded else len(opener))
    in_list = not region.bare
    if in_list:
        if (yield from scan.char(at)) != "[":
            return False
        at += 1
    if not (yield from _call(reading, region, at, guarded)):
        return False
    while in_list:
        at = yield from scan.skip_space(0)
        char = yield from scan.char(at)
        if char == "]":
            scan.pos += at + 1
            break
        if char != "," or not (yield from _call(reading, region, at + 1, guarded)):
            break
    yield from consume_closers(scan, markers_of(*region.closes))
    return True


def _call(reading: Reading, region: PythonicCalls, at: int, guarded: bool) -> Steps[bool]:
    scan, calls = reading.scan, reading.calls
    at = yield from scan.skip_space(at)
    end, _ = yield from scan.until(at, _PAREN, HEAD_CHARS)
    written = scan.text[scan.pos + at : scan.pos + end].strip() if end != FAILED else ""
    name = written.removesuffix(region.suffix) if region.suffix else written
    if not NAME.fullmatch(name) or (region.suffix and name == written):
        return False
    if guarded and not reading.knows(name):
        return False
    scan.pos += end + 1
    calls.start(name)
    if (yield from _arguments(reading, name)):
        calls.end()
    else:
        calls.end("truncated" if scan.ended and not scan.rest().strip() else "malformed")
    return True


def _arguments(reading: Reading, name: str) -> Steps[bool]:
    """Writes the arguments after the parenthesis; False if they break off."""
    scan, calls = reading.scan, reading.calls
    places = iter(reading.schema(name).get("properties") or {})
    separator = "{"
    while True:
        at = yield from scan.skip_space(0)
        char = yield from scan.char(at)
        if char == ")":
            scan.pos += at + 1
            calls.write("{}" if separator == "{" else "}")
            return True
        if char == "," and separator != "{":
            at = yield from scan.skip_space(at + 1)
            if (yield from scan.char(at)) == ")":
                continue_at = at + 1
                scan.pos += continue_at
                calls.write("}")
                return True
        elif separator != "{":
            return False
        key, at = yield from _key(scan, at)
        key = next(places, "") if key is None else key
        if not key:
            return False
        scan.pos += at
        calls.write(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        if not (yield from _value(reading)):
            return False


def _key(scan: Scanner, at: int) -> Steps[tuple[str | None, int]]:
    """The keyword at an offset and the offset of its value; None if the argument has none."""
    end, hit = yield from scan.until(at, _KEY_END, HEAD_CHARS)
    word = scan.text[scan.pos + at : scan.pos + end].strip() if end != FAILED else ""
    if hit == "=" and _IDENTIFIER.match(word):
        return word, (yield from scan.skip_space(end + 1))
    return None, at


def _value(reading: Reading) -> Steps[bool]:
    scan = reading.scan
    value = Transcoder(PYTHON)
    while True:
        scan.pos = value.feed(scan.text, scan.pos, False)
        reading.calls.write(value.take())
        if value.status == "done":
            return True
        if value.status == "failed":
            return False
        if scan.ended:
            reading.calls.write(value.take_held() + scan.rest())
            scan.pos = len(scan.text)
            return False
        yield
