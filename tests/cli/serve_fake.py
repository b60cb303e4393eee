"""Run by test_serve.py in a process of its own: the real serving loop around an engine of straw.

Arguments: port, what loading does (ready, fail, hang), seconds that one request takes.
"""

import asyncio
import sys
from typing import Any, cast

from vllm_mlx.assembly import Server
from vllm_mlx.cli import main_errors
from vllm_mlx.commands.serve import listen, public_url, run_until_signal
from vllm_mlx.errors import ModelError
from vllm_mlx.settings import ApiSettings


class StrawEngine:
    """Ends everything ``drain_seconds`` after it was told to stop."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def stop(self, drain_seconds: float) -> None:
        await asyncio.sleep(drain_seconds)
        self.ended.set()


class StrawApplication:
    def __init__(self, engine: StrawEngine, loading: str, request_seconds: float) -> None:
        self._engine, self._loading, self._request_seconds = engine, loading, request_seconds

    async def loaded(self) -> None:
        if self._loading == "hang":
            await asyncio.sleep(600)
        if self._loading == "fail":
            raise ModelError("there is no such folder:\n /nowhere")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        print("request begins", flush=True)
        body = b"whole answer"
        try:
            async with asyncio.timeout(self._request_seconds):
                await self._engine.ended.wait()
                body = b"cut short"
        except TimeoutError:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("cleaned up", flush=True)
        await send({"type": "lifespan.shutdown.complete"})


class StrawSettings:
    def __init__(self, port: int) -> None:
        self.api = ApiSettings(
            host="127.0.0.1",
            port=port,
            api_key=None,
            served_name=None,
            aliases=[],
            strict=False,
            max_n=1,
            max_body_mib=1,
            default_max_tokens=None,
            max_request_tokens=None,
            request_timeout_seconds=None,
            keepalive_seconds=5,
            rate_limit_per_minute=None,
            cors_origins=[],
            metrics=False,
            page=False,
            drain_seconds=1,
        )


def run(port: int, loading: str, request_seconds: float) -> int:
    settings = StrawSettings(port)
    listener = listen(settings.api)
    url = public_url("127.0.0.1", listener)
    print(f"bound {url}", flush=True)
    engine = StrawEngine()
    app = StrawApplication(engine, loading, request_seconds)
    parts = {"settings": settings, "engine": engine, "app": app}
    server = cast(Server, type("Straw", (), parts))
    run_until_signal(server, listener, lambda: print(f"ready {url}", flush=True))
    return 0


if __name__ == "__main__":
    main_errors(lambda: run(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
