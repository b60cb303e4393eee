"""Calls with a head (name, perhaps an id), then the arguments as one value.

``name[ARGS]{...}``, ``functions.name:0<|sep|>{...}``, ``call:name{...}``, ``name({...})``. The
head is the text up to the first brace.
"""

import re

from msgspec import Struct

from vllm_mlx.parsers.calls import HEAD_CHARS, Reading, consume_closers, stream_arguments
from vllm_mlx.parsers.notation import JSON, Notation
from vllm_mlx.parsers.scanner import FAILED, Steps, markers_of


class HeadedCalls(Struct, frozen=True):
    """``head`` must match the whole text before the value; groups ``name`` and maybe ``id``."""

    calls: tuple[str, ...]  # open one call
    head: str
    opens: tuple[str, ...] = ()  # open a section of calls
    closes: tuple[str, ...] = ()  # close the section
    call_closes: tuple[str, ...] = ()
    notation: Notation = JSON
    value_closes: tuple[str, ...] = ()  # may stand between the value and the call's close
    starts: tuple[str, ...] = ()


def read_headed(reading: Reading, region: HeadedCalls, opener: str) -> Steps[bool]:
    """Reads the region at ``pos``. False, with nothing consumed, if there is no call in it."""
    scan = reading.scan
    calls = markers_of(*region.calls)
    at = len(opener)
    if opener in region.opens:
        at = yield from scan.skip_space(at)
        hit = yield from scan.literal(at, calls)
        if not hit:
            return False
        at += len(hit)
    found = False
    while (yield from _call(reading, region, at)):
        found = True
        at = yield from scan.skip_space(0)
        hit = yield from scan.literal(at, calls)
        if not hit:
            break
        at += len(hit)
    if found:
        yield from consume_closers(scan, markers_of(*region.closes))
    return found


def _call(reading: Reading, region: HeadedCalls, at: int) -> Steps[bool]:
    scan, calls = reading.scan, reading.calls
    end, hit = yield from scan.until(at, markers_of("{", *region.call_closes), HEAD_CHARS)
    if end == FAILED:
        return False
    head = re.fullmatch(region.head, scan.text[scan.pos + at : scan.pos + end], re.DOTALL)
    if head is None:
        return False
    calls.start(head["name"], head.groupdict().get("id"))
    scan.pos += end
    closers = markers_of(*region.call_closes, *region.closes)
    if hit == "{":
        yield from stream_arguments(reading, region.notation, closers)
    else:
        calls.write("{}")
        calls.end()
    yield from consume_closers(
        scan, markers_of(*region.value_closes, *region.call_closes), stray="}"
    )
    return True
