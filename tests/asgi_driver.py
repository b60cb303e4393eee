"""Drives an ASGI application without sockets, including a client that leaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from vllm_mlx.api.app import Application, create_app
from vllm_mlx.settings import ApiSettings

SETTINGS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "api_key": None,
    "served_name": None,
    "aliases": [],
    "strict": False,
    "max_n": 128,
    "max_body_mib": 1.0,
    "default_max_tokens": None,
    "max_request_tokens": None,
    "request_timeout_seconds": None,
    "keepalive_seconds": 5.0,
    "rate_limit_per_minute": None,
    "cors_origins": [],
    "metrics": True,
    "page": True,
    "drain_seconds": 1.0,
}


def settings(**more: Any) -> ApiSettings:
    return ApiSettings(**(SETTINGS | more))


@dataclass
class Reply:
    """What came back, whole or so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    writes: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def data(self) -> list[str]:
        """The payloads of the event stream, ``[DONE]`` included."""
        frames = self.body.decode().split("\n\n")
        return [frame[len("data: ") :] for frame in frames if frame.startswith("data: ")]

    @property
    def chunks(self) -> list[Any]:
        return [json.loads(data) for data in self.data if data != "[DONE]"]


class Call:
    """One request in flight."""

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        headers: dict[str, str] | None = None,
        client: str = "10.0.0.1",
    ) -> None:
        self.reply = Reply()
        self._pieces = body if isinstance(body, list) else [body]
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        given = {"host": "test", **(headers or {})}
        if not isinstance(body, list) and body:
            given.setdefault("content-length", str(len(body)))
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "scheme": "http",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in given.items()],
            "client": (client, 1234),
            "server": ("test", 80),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._left.is_set() and not self.reply.complete:
            return  # as uvicorn: writing to nobody is silent
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.headers = {k.decode(): v.decode("latin-1") for k, v in message["headers"]}
        else:
            piece = message.get("body", b"")
            self.reply.body += piece
            if piece:
                self.reply.writes.append(piece)
            if not message.get("more_body", False):
                self.reply.complete = True
                self._left.set()  # as uvicorn: after the answer, receive says disconnect
        self._news.set()

    def leave(self) -> None:
        """The client closes the connection."""
        self._left.set()

    async def written(self, text: str, seconds: float = 5.0) -> None:
        """Wait until the answer so far contains ``text``."""
        async with asyncio.timeout(seconds):
            while text.encode() not in self.reply.body:
                self._news.clear()
                await self._news.wait()

    async def whole(self, seconds: float = 10.0) -> Reply:
        async with asyncio.timeout(seconds):
            await self.task
        return self.reply


class Client:
    """Calls an application whose lifespan is running."""

    def __init__(self, app: Application, engine: Any) -> None:
        self.app, self.engine = app, engine

    def begin(self, path: str, body: Any, **more: Any) -> Call:
        raw = body if isinstance(body, bytes | list) else json.dumps(body).encode()
        return Call(self.app, "POST", path, raw, **more)

    async def post(self, path: str, body: Any, **more: Any) -> Reply:
        return await self.begin(path, body, **more).whole()

    async def get(self, path: str, method: str = "GET", **more: Any) -> Reply:
        return await Call(self.app, method, path, **more).whole()

    async def chat(self, **fields: Any) -> Reply:
        return await self.post("/v1/chat/completions", chat_body(**fields))

    def begin_chat(self, **fields: Any) -> Call:
        return self.begin("/v1/chat/completions", chat_body(**fields))

    async def complete(self, **fields: Any) -> Reply:
        return await self.post("/v1/completions", {"prompt": "Hi", **fields})


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


class Lifespan:
    """The lifespan protocol of one application."""

    def __init__(self, app: Application) -> None:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        self.task = asyncio.ensure_future(app(scope, self._to_app.get, self._from_app.put))

    async def say(self, event: str) -> None:
        await self._to_app.put({"type": f"lifespan.{event}"})
        answer = await self._from_app.get()
        assert answer["type"] == f"lifespan.{event}.complete", answer


@asynccontextmanager
async def serving(engine: Any, *, wait: bool = True, **more: Any) -> AsyncIterator[Client]:
    """A client of an application whose engine has started, unless told not to wait."""
    app = create_app(engine, settings(**more))
    lifespan = Lifespan(app)
    await lifespan.say("startup")
    if wait:
        await app.loaded()
    try:
        yield Client(app, engine)
    finally:
        await lifespan.say("shutdown")
        await lifespan.task
