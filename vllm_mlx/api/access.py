"""ASGI wrapper of everything: makes the Exchange, answers ``x-request-id``, logs one line."""

import logging

from vllm_mlx.api.asgi import AsgiApp, Message, Receive, Scope, Send
from vllm_mlx.api.exchange import KEY, Exchange
from vllm_mlx.api.request_id import HEADER, read_request_id

log = logging.getLogger("vllm_mlx.access")


class Access:
    """``quiet_paths`` are polled by machines: their lines go to the debug level."""

    def __init__(self, app: AsgiApp, quiet_paths: frozenset[str]) -> None:
        self._app, self._quiet_paths = app, quiet_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(read_request_id(scope["headers"]), scope["method"], scope["path"])
        scope[KEY] = exchange
        id_header = (HEADER, exchange.id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], id_header]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            exchange.close()
            self._log(exchange)

    def _log(self, exchange: Exchange) -> None:
        level = logging.DEBUG if exchange.path in self._quiet_paths else logging.INFO
        if not log.isEnabledFor(level):
            return
        notes = "".join(f" {name}={value}" for name, value in exchange.notes.items())
        left = " client_left" if exchange.client_left else ""
        log.log(
            level,
            "%s %s %s %d%s total_ms=%.1f%s",
            exchange.id,
            exchange.method,
            printable(exchange.path),
            exchange.status,
            notes,
            exchange.age_seconds * 1000,
            left,
        )


def printable(path: str) -> str:
    """A path that cannot forge a log line."""
    return "".join(c if c.isprintable() and c != " " else "?" for c in path[:200])
