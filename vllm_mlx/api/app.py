"""The application: what it is made of and the table of its routes. Every URL string is here."""

from typing import Any

import falcon
import falcon.asgi
from prometheus_client import CollectorRegistry

import vllm_mlx
from vllm_mlx.api.access import Access
from vllm_mlx.api.asgi import AsgiApp, Receive, Scope, Send
from vllm_mlx.api.auth import RequireKey
from vllm_mlx.api.body import BodyReader
from vllm_mlx.api.disconnect import CancelOnDisconnect
from vllm_mlx.api.errors import answer_error
from vllm_mlx.api.lifespan import Lifespan
from vllm_mlx.api.offload import Offload
from vllm_mlx.api.openapi import to_openapi
from vllm_mlx.api.rate_limit import RateLimit
from vllm_mlx.api.resources.chat import ChatResource
from vllm_mlx.api.resources.completions import CompletionsResource
from vllm_mlx.api.resources.models import ModelsResource
from vllm_mlx.api.resources.openapi import OpenApiResource
from vllm_mlx.api.resources.page import NoPageResource, PageResource
from vllm_mlx.api.resources.requests import RequestsResource
from vllm_mlx.api.resources.status import (
    HealthResource,
    MetricsResource,
    StatusResource,
    VersionResource,
)
from vllm_mlx.api.resources.tokenize import TokenizeResource
from vllm_mlx.api.respond import Responder
from vllm_mlx.api.routes import Operation, Route
from vllm_mlx.api.running import RunningAnswers
from vllm_mlx.api.served import ServedModel
from vllm_mlx.api.services import Services
from vllm_mlx.api.sse import KeepAlive
from vllm_mlx.dialect.base import RequestLimits
from vllm_mlx.engine.base import Engine
from vllm_mlx.errors import ConfigError
from vllm_mlx.metrics import AnswerMetrics, EngineCollector
from vllm_mlx.settings import ApiSettings
from vllm_mlx.wire.openai_chat import ChatChunk, ChatCompletion, ChatRequest
from vllm_mlx.wire.openai_completions import Completion, CompletionRequest
from vllm_mlx.wire.openai_models import ModelEntry, ModelList
from vllm_mlx.wire.status import Aborted, Health, Ready, Status, Version
from vllm_mlx.wire.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
)

QUIET_PATHS = frozenset({"/health", "/ready", "/metrics", "/v1/status"})
GENERATION_ERRORS = (400, 401, 404, 413, 415, 429, 500, 503, 504)


class Application:
    """The ASGI callable. Its lifespan starts the engine in the background and drains it."""

    def __init__(self, asgi: AsgiApp, lifespan: Lifespan) -> None:
        self._asgi, self._lifespan = asgi, lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)

    async def loaded(self) -> None:
        """Returns when the model can answer; raises what loading raised (ModelError).

        May be awaited before start-up, from the same event loop.
        """
        await self._lifespan.loaded()

    def begin_drain(self) -> None:
        """Refuse new work now, before the server waits for its connections to end.

        What still runs after ``drain_seconds`` ends with an error frame instead of a cut line.
        """
        self._lifespan.begin_drain()


def create_app(
    engine: Engine, settings: ApiSettings, registry: CollectorRegistry | None = None
) -> Application:
    """``engine`` is not started yet. ``registry`` gets the collectors; None makes a new one."""
    registry = registry or CollectorRegistry()
    services = build_services(engine, settings, registry)
    lifespan = Lifespan(engine, services.offload, settings.drain_seconds)
    app: Any = falcon.asgi.App(middleware=build_middleware(settings, lifespan))
    app.add_error_handler(Exception, answer_error)
    app.add_error_handler(falcon.HTTPError, answer_error)
    routes = list_routes(services, settings, registry)
    described = OpenApiResource(to_openapi(routes, vllm_mlx.__version__))
    app.add_route("/openapi.json", described)
    for route in routes:
        app.add_route(route.path, route.resource, suffix=route.suffix)
    inner = KeepAlive(app, settings.keepalive_seconds)
    return Application(Access(CancelOnDisconnect(inner), QUIET_PATHS), lifespan)


def build_services(engine: Engine, settings: ApiSettings, registry: CollectorRegistry) -> Services:
    served, running = ServedModel(engine, settings), RunningAnswers()
    metrics = AnswerMetrics(registry, served.label)
    registry.register(EngineCollector(lambda: engine.status, served.label))
    return Services(
        engine=engine,
        served=served,
        running=running,
        bodies=BodyReader(int(settings.max_body_mib * 2**20), settings.strict),
        offload=Offload(),
        responder=Responder(
            engine,
            running,
            metrics,
            first_delta_seconds=settings.keepalive_seconds,
            limit_seconds=settings.request_timeout_seconds,
        ),
        limits=RequestLimits(
            max_n=settings.max_n,
            default_max_tokens=settings.default_max_tokens,
            max_request_tokens=settings.max_request_tokens,
        ),
    )


def build_middleware(settings: ApiSettings, lifespan: Lifespan) -> list[Any]:
    """CORS first, so that a browser may read a 401."""
    parts: list[Any] = [lifespan]
    if settings.cors_origins:
        anyone = "*" in settings.cors_origins
        parts.append(
            falcon.CORSMiddleware(
                allow_origins="*" if anyone else settings.cors_origins,
                expose_headers=["x-request-id", "x-ignored-fields", "retry-after"],
            )
        )
    if settings.api_key == "":
        raise ConfigError("must not be empty; null leaves the server open", "api.api_key")
    if settings.api_key is not None:
        parts.append(RequireKey(settings.api_key, OPEN_ROUTES))
    if settings.rate_limit_per_minute is not None:
        parts.append(RateLimit(settings.rate_limit_per_minute))
    return parts


OPEN_ROUTES = (
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/health"),
    ("HEAD", "/health"),
    ("GET", "/ready"),
    ("HEAD", "/ready"),
    ("GET", "/version"),
)


def list_routes(
    services: Services, settings: ApiSettings, registry: CollectorRegistry
) -> list[Route]:
    """The table: routes and ``/openapi.json`` are made of it."""
    return [
        *generation_routes(services),
        *model_routes(services),
        *status_routes(services, registry if settings.metrics else None),
        page_route(settings.page),
    ]


def generation_routes(services: Services) -> list[Route]:
    return [
        Route(
            path="/v1/chat/completions",
            resource=ChatResource(services),
            operations=(
                Operation(
                    method="POST",
                    summary="Continue a conversation.",
                    request=ChatRequest,
                    answer=ChatCompletion,
                    chunk=ChatChunk,
                    errors=GENERATION_ERRORS,
                ),
            ),
        ),
        Route(
            path="/v1/completions",
            resource=CompletionsResource(services),
            operations=(
                Operation(
                    method="POST",
                    summary="Continue one or many prompts.",
                    request=CompletionRequest,
                    answer=Completion,
                    chunk=Completion,
                    errors=GENERATION_ERRORS,
                ),
            ),
        ),
        *abort_routes(services.running),
    ]


def abort_routes(running: RunningAnswers) -> list[Route]:
    resource = RequestsResource(running)
    post, delete = (
        Operation(method=method, summary="Stop a request.", answer=Aborted, errors=(401, 404))
        for method in ("POST", "DELETE")
    )
    return [
        Route(path="/v1/requests/{answer_id}", resource=resource, operations=(delete, post)),
        Route(path="/v1/requests/{answer_id}/cancel", resource=resource, operations=(post,)),
    ]


def model_routes(services: Services) -> list[Route]:
    models, tokens = ModelsResource(services.served), TokenizeResource(services)
    names = Operation(
        method="GET", summary="All names of the model.", answer=ModelList, errors=(401, 503)
    )
    one = Operation(
        method="GET", summary="The model by any name.", answer=ModelEntry, errors=(401, 404, 503)
    )
    tokenize = Operation(
        method="POST",
        summary="Text or messages to token ids.",
        request=TokenizeRequest,
        answer=TokenizeAnswer,
        errors=GENERATION_ERRORS,
    )
    detokenize = Operation(
        method="POST",
        summary="Token ids to text.",
        request=DetokenizeRequest,
        answer=DetokenizeAnswer,
        errors=GENERATION_ERRORS,
    )
    return [
        Route(path="/v1/models", resource=models, operations=(names,)),
        Route(path="/v1/models/{model_id:path}", resource=models, operations=(one,), suffix="one"),
        Route(path="/tokenize", resource=tokens, operations=(tokenize,)),
        Route(path="/detokenize", resource=tokens, operations=(detokenize,), suffix="back"),
    ]


def status_routes(services: Services, registry: CollectorRegistry | None) -> list[Route]:
    engine, version = services.engine, vllm_mlx.__version__
    health = HealthResource(engine)
    status = StatusResource(engine, services.served, services.running, version)

    def get(summary: str, answer: type, *errors: int, needs_key: bool = False) -> Operation:
        return Operation(
            method="GET", summary=summary, answer=answer, errors=errors, needs_key=needs_key
        )

    routes = [
        Route(
            path="/health",
            resource=health,
            operations=(
                get("Is the process well?", Health),
                Operation(method="HEAD", summary="The same, without a body.", needs_key=False),
            ),
        ),
        Route(
            path="/ready",
            resource=health,
            operations=(get("Can the model answer? 503 while not.", Ready),),
            suffix="ready",
        ),
        Route(
            path="/version",
            resource=VersionResource(version),
            operations=(get("The server's version.", Version),),
        ),
        Route(
            path="/v1/status",
            resource=status,
            operations=(get("What is running.", Status, 401, needs_key=True),),
        ),
    ]
    if registry is not None:
        scrape = Operation(method="GET", summary="Prometheus metrics.", media_type="text/plain")
        routes.append(
            Route(path="/metrics", resource=MetricsResource(registry), operations=(scrape,))
        )
    return routes


def page_route(page: bool) -> Route:
    head = Operation(method="HEAD", summary="Is anybody there?", needs_key=False)
    if not page:
        return Route(path="/", resource=NoPageResource(), operations=(head,))
    show = Operation(
        method="GET", summary="The built-in page.", media_type="text/html", needs_key=False
    )
    return Route(path="/", resource=PageResource(), operations=(show, head))
