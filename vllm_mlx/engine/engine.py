"""GenerationEngine: the one engine class that the rest of the server sees."""

import asyncio
import itertools
import logging
import threading
import time
from pathlib import Path
from typing import Literal

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.card import EngineStatus, ModelCard
from vllm_mlx.core.codec import TextCodec
from vllm_mlx.core.generation import Generation
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.loop import EngineLoop
from vllm_mlx.engine.mailbox import Abort, Drain, Inbox, Outbox, Submit
from vllm_mlx.engine.stream import EngineStream
from vllm_mlx.engine.warmup import measure_cost
from vllm_mlx.errors import EngineStopped, PromptTooLong, QueueFull, RequestError
from vllm_mlx.model.progress import Progress, ProgressBars
from vllm_mlx.runner.base import Loaded, ModelSource
from vllm_mlx.scheduler.base import Scheduler
from vllm_mlx.scheduler.cost import StepCost, estimate_wait_seconds

THREAD_END_SECONDS = 0.1

State = Literal["starting", "ready", "draining", "stopped", "failed"]

logger = logging.getLogger(__name__)


class GenerationEngine:
    """One model on one thread; see ``engine.base.Engine``. Nothing happens before ``start``."""

    def __init__(
        self,
        source: ModelSource,
        scheduler: Scheduler,
        kv: KvCache,
        progress: Progress | None = None,
    ) -> None:
        self._source, self._scheduler, self._kv = source, scheduler, kv
        self._progress = ProgressBars() if progress is None else progress
        self._inbox = Inbox()
        self._cost = StepCost()
        self._numbers = itertools.count()
        self._state: State = "starting"
        self._failure: str | None = None
        self._loaded: Loaded | None = None
        self._loop: EngineLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def card(self) -> ModelCard:
        return self._known().card

    @property
    def codec(self) -> TextCodec:
        return self._known().codec

    @property
    def status(self) -> EngineStatus:
        loop, loaded = self._loop, self._loaded
        if loop is None or loaded is None:
            return EngineStatus(state=self._state, failure=self._failure)
        return EngineStatus(
            state=self._state,
            running=loop.num_running,
            waiting=loop.num_waiting,
            steps=loop.counters.steps,
            preemptions=loop.counters.preemptions,
            kv_used_tokens=loop.used_blocks * self._kv.block_tokens,
            kv_capacity_tokens=self._kv.capacity_tokens,
            kv_allocated_bytes=loaded.runner.allocated_bytes,
            prompt_tokens_total=loop.counters.prompt_tokens,
            completion_tokens_total=loop.counters.completion_tokens,
            failure=self._failure,
        )

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        outbox = Outbox(loop)
        self._thread = threading.Thread(
            target=self._run, args=(outbox, loop, ready), name="engine", daemon=True
        )
        self._thread.start()
        try:
            await ready
        except Exception:  # the thread ends by itself
            await asyncio.to_thread(_join, self._thread)
            raise

    async def stop(self, drain_seconds: float) -> None:
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        if self._state == "ready":
            self._state = "draining"
        self._inbox.post(Drain(time.monotonic() + drain_seconds))
        await asyncio.to_thread(_join, thread)

    def submit(self, generation: Generation) -> EngineStream:
        self._check_ready()
        card = self.card
        prompt_tokens = len(generation.prompt_ids)
        if prompt_tokens == 0:
            raise RequestError("The prompt has no tokens.", param="prompt", code="empty_prompt")
        room = card.context_tokens - prompt_tokens
        asked = generation.stopping.max_tokens
        if room < (0 if asked == 0 else 1):
            raise PromptTooLong(prompt_tokens, card.context_tokens)
        waiting = self._waiting()
        limit = self._scheduler.max_waiting + self._scheduler.max_running
        if waiting >= limit:
            raise QueueFull(
                f"{waiting} requests are running or waiting; try again later",
                estimate_wait_seconds(waiting, self._cost.decode_seconds(1)),
                limit,
            )
        sequence = Sequence(
            generation, next(self._numbers), room if asked is None else min(asked, room)
        )
        stream = EngineStream(sequence.number, self._abort)
        self._inbox.post(Submit(sequence, stream))
        if self._state == "failed":  # since the first look: perhaps nobody reads the letter
            self._check_ready()
        return stream

    def _waiting(self) -> int:
        """Sequences in the queue or in the mail, and those that run."""
        loop = self._loop
        return 0 if loop is None else loop.num_members + self._inbox.num_letters

    def _abort(self, number: int) -> None:
        self._inbox.post(Abort(number))

    def _known(self) -> Loaded:
        """What was loaded; while draining it is still needed."""
        if self._loaded is None:
            raise EngineStopped(self._failure or f"the engine is {self._state}")
        return self._loaded

    def _check_ready(self) -> None:
        if self._state != "ready":
            raise EngineStopped(self._failure or f"the engine is {self._state}")

    # -- on the engine thread

    def _run(
        self, outbox: Outbox, loop: asyncio.AbstractEventLoop, ready: "asyncio.Future[None]"
    ) -> None:
        try:
            engine_loop = self._load(outbox)
        except Exception as error:  # told to whoever called start
            self._state, self._failure = "failed", str(error)
            _settle(loop, ready, error)
            return
        self._state = "ready"
        _settle(loop, ready, None)
        try:
            engine_loop.run()
            self._state = "stopped"
        except BaseException as error:
            # A thread that dies silently leaves every client waiting for ever.
            self._state, self._failure = "failed", f"the engine died: {error}"
            logger.critical("the engine thread died", exc_info=error)
        engine_loop.end(EngineStopped(self._failure or "the server is shutting down"))

    def _load(self, outbox: Outbox) -> EngineLoop:
        loaded = self._source.load(self._kv, self._progress)
        measure_cost(loaded.runner, self._kv, self._cost)
        self._loaded = loaded
        self._loop = EngineLoop(loaded, self._scheduler, self._kv, self._inbox, outbox, self._cost)
        return self._loop


def _join(thread: threading.Thread) -> None:
    """Until the thread is really gone.

    What MLX keeps by thread (its cache of compiled functions) is taken down after Python's join
    has returned, and needs the interpreter: one that ends meanwhile aborts the process.
    """
    thread.join()
    task = Path(f"/proc/self/task/{thread.native_id}")
    if not task.parent.exists():  # no Linux: nothing tells, but it takes far less than this
        time.sleep(THREAD_END_SECONDS)
    deadline = time.monotonic() + THREAD_END_SECONDS
    while task.exists() and time.monotonic() < deadline:
        time.sleep(0.001)


def _settle(
    loop: asyncio.AbstractEventLoop, ready: "asyncio.Future[None]", error: Exception | None
) -> None:
    """Complete a future from another thread; a loop that has closed has nobody waiting."""

    def complete() -> None:
        if ready.done():
            return
        if error is None:
            ready.set_result(None)
        else:
            ready.set_exception(error)

    try:
        loop.call_soon_threadsafe(complete)
    except RuntimeError:
        logger.warning("the event loop closed while the model was loading")
