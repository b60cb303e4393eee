"""One HTTP exchange: its id, what is noted about it, and what must happen when it ends."""

import time
from collections.abc import Callable
from typing import Any

import falcon.asgi

KEY = "vllm_mlx.exchange"  # where the ASGI scope carries it


class Exchange:
    """Made for every request, closed exactly once, whoever ends it: answer, client, or server."""

    def __init__(self, id: str, method: str, path: str) -> None:
        self.id, self.method, self.path = id, method, path
        self.started = time.perf_counter()
        self.status = 0  # 0: nothing was sent
        self.client_left = False
        self.notes: dict[str, str | int | float] = {}  # for the access line; never a client's text
        self._closers: list[Callable[[], None]] = []

    @property
    def age_seconds(self) -> float:
        return time.perf_counter() - self.started

    def on_close(self, closer: Callable[[], None]) -> None:
        """``closer`` runs when the exchange ends, also if the response was never begun."""
        self._closers.append(closer)

    def close(self) -> None:
        while self._closers:
            self._closers.pop()()


def exchange_of(req: falcon.asgi.Request) -> Exchange:
    found: Any = req.scope[KEY]
    assert isinstance(found, Exchange)  # put there by access.Access, which wraps every request
    return found
