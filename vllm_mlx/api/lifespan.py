"""Starts the engine beside the open port, and drains it at the end."""

import asyncio
import logging
from typing import Any

from vllm_mlx.api.offload import Offload
from vllm_mlx.engine.base import Engine

log = logging.getLogger(__name__)


class Lifespan:
    """Falcon middleware. Loading runs in the background: ``/health`` answers at once, ``/ready``
    when the model is there.
    """

    def __init__(self, engine: Engine, offload: Offload, drain_seconds: float) -> None:
        self._engine, self._offload, self._drain_seconds = engine, offload, drain_seconds
        self._begun = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._stopping: asyncio.Future[None] | None = None

    async def loaded(self) -> None:
        """Returns when the model can answer; raises what loading raised.

        May be awaited by several callers, also before start-up; cancelling stops only the waiting.
        """
        await self._begun.wait()
        assert self._loading is not None  # set before the event
        await asyncio.shield(self._loading)

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        self._loading = asyncio.get_running_loop().create_task(self._engine.start())
        self._loading.add_done_callback(self._tell)
        self._begun.set()

    def begin_drain(self) -> "asyncio.Future[None]":
        """Take no more work; what runs may finish for ``drain_seconds``. May be called twice."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._engine.stop(self._drain_seconds))
        return self._stopping

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        await self.begin_drain()
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
        self._offload.close()

    @staticmethod
    def _tell(loading: "asyncio.Task[None]") -> None:
        if not loading.cancelled() and (error := loading.exception()) is not None:
            log.error("the model could not be loaded: %s", error)
