"""How often a client may ask: a token bucket per address, in a table that cannot grow."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

import falcon.asgi

from vllm_mlx.api.errors import ApiError

MOST_CLIENTS = 4096


class RateLimit:
    """Falcon middleware over POST. A bucket holds one minute's worth and refills evenly.

    Clients are told apart by address, never by a header they can invent; when the table is full,
    the one that was silent longest is forgotten.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (tokens, when)

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if req.method != "POST":
            return
        wait_seconds = self.take(req.remote_addr)
        if wait_seconds > 0:
            raise ApiError(
                429,
                f"More than {self._per_minute} requests per minute.",
                type="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": str(math.ceil(wait_seconds))},
            )

    def take(self, client: str) -> float:
        """Seconds until the next request is allowed; 0 if this one is."""
        now, per_second = self._clock(), self._per_minute / 60
        tokens, before = self._buckets.pop(client, (float(self._per_minute), now))
        tokens = min(float(self._per_minute), tokens + (now - before) * per_second)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / per_second
