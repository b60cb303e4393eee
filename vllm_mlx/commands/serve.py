"""`vllm-mlx serve`: assemble, listen, say what runs, drain. Answering is in ``api/``."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from math import ceil
from types import FrameType

import uvicorn
from omegaconf import DictConfig

from vllm_mlx.assembly import Server, build_server, load_settings
from vllm_mlx.commands.plan import start_up_plan
from vllm_mlx.errors import ConfigError
from vllm_mlx.log import configure_logging
from vllm_mlx.model.blas import BlasReport
from vllm_mlx.settings import ApiSettings

CLOSING_SECONDS = 5.0  # after the drain, for streams that the engine has ended to be written
PORT_FAULTS = (errno.EPERM, errno.EACCES, errno.EADDRINUSE)


def serve(cfg: DictConfig, blas: BlasReport) -> int:
    """Run until SIGINT or SIGTERM. Raises ConfigError, or ModelError if it never got ready.

    After SIGTERM the process ends by that signal, as service managers expect; what must happen
    before is in the application's lifespan.
    """
    settings = load_settings(cfg)
    configure_logging(settings.log_level)
    quiet_what_we_tell_ourselves(settings.log_level)
    listener = listen(settings.api)
    server = build_server(settings, cfg)
    url = public_url(settings.api.host, listener)

    def announce() -> None:
        plan = start_up_plan(server.engine.card, server.engine.status, settings, blas, url)
        print(plan, flush=True)

    print(f"vllm-mlx: loading the model; {url}/health answers meanwhile", flush=True)
    run_until_signal(server, listener, announce)
    return 0


def quiet_what_we_tell_ourselves(level: str) -> None:
    """The plan says what uvicorn says at start; `cli.py` says why a model cannot be loaded."""
    if level != "debug":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("vllm_mlx.api.lifespan").setLevel(logging.CRITICAL)


def listen(api: ApiSettings) -> socket.socket:
    """A bound socket, taken before a model is loaded for nothing. Not listening yet."""
    try:
        found = socket.getaddrinfo(api.host, api.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"cannot resolve '{api.host}': {error.strerror}", "api.host") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        path = "api.port" if error.errno in PORT_FAULTS else "api.host"
        raise ConfigError(f"{api.host}:{api.port}: {error.strerror}", path) from error
    return listener


def public_url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class ModelServer(uvicorn.Server):
    """uvicorn's server beside a model that loads in the background."""

    def __init__(
        self,
        config: uvicorn.Config,
        loaded: Callable[[], Awaitable[None]],
        announce: Callable[[], None],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._loaded, self._announce, self._drain = loaded, announce, drain
        self.is_ready = False
        self.failure: Exception | None = None

    async def main_loop(self) -> None:
        watching = asyncio.get_running_loop().create_task(self._watch_loading())
        await super().main_loop()
        watching.cancel()

    async def _watch_loading(self) -> None:
        """Announce when the model can answer; if it never will, stop and keep the reason."""
        try:
            await self._loaded()
        except Exception as error:
            self.failure, self.should_exit = error, True
            return
        self.is_ready = True
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The engine ends what is left at the deadline, so that streams end in good order."""
        draining = asyncio.ensure_future(self._drain())
        await super().shutdown(sockets)
        await draining

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_loading = not self.is_ready and self.failure is None
        is_impatient = self.should_exit and sig == signal.SIGINT
        if is_loading or is_impatient:
            # Loading holds nothing that must be saved: downloads resume, conversions are atomic.
            # Asked twice, waiting for requests is not wanted.
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


def run_until_signal(server: Server, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve on ``listener``; running requests may finish for ``api.drain_seconds``.

    Raises what loading raised.
    """
    drain_seconds = server.settings.api.drain_seconds
    config = uvicorn.Config(
        server.app,
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=ceil(drain_seconds + CLOSING_SECONDS),
    )
    runner = ModelServer(
        config, server.app.loaded, announce, lambda: server.engine.stop(drain_seconds)
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn repeats a SIGINT once all is done
        runner.run(sockets=[listener])
    if runner.failure is not None:
        raise runner.failure
