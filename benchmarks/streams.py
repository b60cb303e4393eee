"""A frugal HTTP client for the benchmarks: many SSE streams over raw sockets in one process."""

import asyncio
import json
import time
from typing import Any


async def stream_chat(
    host: str, port: int, body: dict[str, Any], arrivals: list[float] | None = None
) -> int:
    """Send one streamed completion; returns completion tokens, notes when each data line came."""
    reader, writer = await asyncio.open_connection(host, port)
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    )
    last = b""
    while chunk := await reader.read(65536):
        if arrivals is not None:
            now = time.perf_counter()
            arrivals.extend([now] * chunk.count(b'"text":"'))
        last = (last + chunk)[-2000:]
    writer.close()
    if b"[DONE]" not in last:
        raise RuntimeError(f"the stream broke off: {last[-300:]!r}")
    usage = last[last.rindex(b'"completion_tokens":') + 20 :]
    return int(usage[: usage.index(b",")])


async def run_streams(host: str, port: int, bodies: list[dict[str, Any]]) -> float:
    """All at once; completion tokens per second."""
    started = time.perf_counter()
    counts = await asyncio.gather(*(stream_chat(host, port, body) for body in bodies))
    return sum(counts) / (time.perf_counter() - started)
