"""Health, readiness, version, status, metrics: what the server says about itself."""

import time

import falcon
import falcon.asgi
import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from vllm_mlx.api.answer import Answer
from vllm_mlx.api.body import write_json
from vllm_mlx.api.running import RunningAnswers
from vllm_mlx.api.served import ServedModel
from vllm_mlx.engine.base import Engine
from vllm_mlx.wire.status import EngineState, Health, Ready, RunningRequest, Status, Version


class HealthResource:
    """``/health`` is about the process, ``/ready`` about the model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """503 only when the engine has failed: restarting the process is then the cure."""
        state = self._engine.status.state
        resp.status = 503 if state == "failed" else 200
        write_json(resp, Health("failed" if state == "failed" else "ok", state))

    on_head = on_get

    async def on_get_ready(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        status = self._engine.status
        ready = status.state == "ready"
        resp.status = 200 if ready else 503
        if not ready:
            resp.set_header("retry-after", "2")
        write_json(resp, Ready(ready, status.state, status.failure))

    on_head_ready = on_get_ready


class VersionResource:
    def __init__(self, version: str) -> None:
        self._version = version

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        write_json(resp, Version(self._version))


class StatusResource:
    """What is running now, request by request; never their text."""

    def __init__(
        self, engine: Engine, served: ServedModel, running: RunningAnswers, version: str
    ) -> None:
        self._engine, self._served, self._running = engine, served, running
        self._version, self._started = version, time.monotonic()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        status = self._engine.status
        write_json(
            resp,
            Status(
                version=self._version,
                model=self._served.name_if_known(),
                uptime_seconds=round(time.monotonic() - self._started, 3),
                engine=msgspec.convert(status, EngineState, from_attributes=True),
                requests=[describe(answer) for answer in self._running],
            ),
        )


def describe(answer: Answer) -> RunningRequest:
    question, first = answer.question, answer.first_token_seconds
    return RunningRequest(
        id=answer.id,
        path=question.path,
        model=question.model,
        stream=question.stream,
        choices=len(question.generations),
        prompt_tokens=question.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        age_seconds=round(time.perf_counter() - question.started, 3),
        first_token_seconds=None if first is None else round(first, 4),
    )


class MetricsResource:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = generate_latest(self._registry)
        resp.content_type = CONTENT_TYPE_LATEST

    on_head = on_get
