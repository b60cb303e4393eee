"""Calls whose body is free text, such as code for an interpreter: one string argument."""

import json

from msgspec import Struct

from vllm_mlx.parsers.calls import Reading, consume_closers
from vllm_mlx.parsers.notation import escape
from vllm_mlx.parsers.scanner import Steps, markers_of


class RawCalls(Struct, frozen=True):
    """``names``: the tools such a body may be for; the first that the request has is called."""

    opens: tuple[str, ...]
    names: tuple[str, ...]
    closes: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()


def text_parameter(reading: Reading, name: str) -> str:
    """The parameter that takes the text: the only required or the first one of type string."""
    schema = reading.schema(name)
    properties = schema.get("properties") or {}
    strings = [
        key
        for key, value in properties.items()
        if isinstance(value, dict) and value.get("type") == "string"
    ]
    required = [key for key in schema.get("required") or () if key in strings]
    return next(iter([*required, *strings]), "")


def read_raw(reading: Reading, region: RawCalls, opener: str) -> Steps[bool]:
    """Reads the region at ``pos``. False if the request has no tool for it."""
    name = next((one for one in region.names if one in reading.tools), "")
    key = text_parameter(reading, name)
    if not key:
        return False
    reading.scan.pos += len(opener)
    yield from write_raw(reading, name, key, region.closes)
    yield from consume_closers(reading.scan, markers_of(*region.closes))
    return True


def write_raw(reading: Reading, name: str, key: str, ends: tuple[str, ...]) -> Steps[None]:
    """A whole call whose one argument is the text up to an end (not consumed)."""
    scan, calls = reading.scan, reading.calls
    closers = markers_of(*ends)
    calls.start(name)
    calls.write(f'{{{json.dumps(key, ensure_ascii=False)}: "')
    while True:
        place, hit = closers.find(scan.text, scan.pos, scan.ended)
        calls.write(escape(scan.text[scan.pos : place]))
        scan.pos = place
        if hit or scan.ended:
            break
        yield
    is_whole = bool(hit) or not scan.is_cut
    calls.write('"}' if is_whole else "")
    calls.end(None if is_whole else "truncated")
