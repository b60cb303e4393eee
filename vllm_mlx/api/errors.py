"""Every error as OpenAI's body: ours, Falcon's, and what nobody expected."""

import logging
from collections.abc import Mapping
from typing import Any

import falcon
import falcon.asgi
import msgspec

from vllm_mlx.errors import (
    CapacityError,
    EngineStopped,
    GenerationFailed,
    QueueFull,
    RequestError,
    RequestTimedOut,
    UnknownModel,
)
from vllm_mlx.wire.error_bodies import OpenAIError, OpenAIErrorBody

log = logging.getLogger(__name__)

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
STARTING_RETRY_SECONDS = 2


class ApiError(Exception):
    """What a client is told: status, OpenAI's four members, headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.error = OpenAIError(message=message, type=type, param=param, code=code)

    def body(self) -> OpenAIErrorBody:
        return OpenAIErrorBody(self.error)


def to_api_error(error: Exception) -> ApiError:
    """Never raises. An error nobody expected is logged here and told without its words."""
    match error:
        case ApiError():
            return error
        case RequestError():
            status = 404 if isinstance(error, UnknownModel) else 400
            return ApiError(status, error.message, param=error.param, code=error.code)
        case CapacityError():
            return _capacity(error)
        case EngineStopped():
            return ApiError(
                503,
                str(error) or "The model is not ready.",
                type=SERVER_ERROR,
                code="model_not_ready",
                headers={"retry-after": str(STARTING_RETRY_SECONDS)},
            )
        case RequestTimedOut():
            return ApiError(504, str(error), type=SERVER_ERROR, code="request_timeout")
        case GenerationFailed():
            log.warning("a generation failed: %s", error)
            return ApiError(500, str(error), type=SERVER_ERROR, code="generation_failed")
        case falcon.HTTPError():
            return _falcon(error)
        case _:
            log.error("unexpected error while answering", exc_info=error)
            return ApiError(
                500, "The server had an error.", type=SERVER_ERROR, code="internal_error"
            )


def _capacity(error: CapacityError) -> ApiError:
    full = isinstance(error, QueueFull)
    return ApiError(
        429 if full else 503,
        error.message,
        type="rate_limit_error" if full else SERVER_ERROR,
        code="queue_full" if full else "no_capacity",
        headers={"retry-after": str(error.retry_after_seconds)},
    )


FALCON_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def _falcon(error: falcon.HTTPError) -> ApiError:
    message = error.description or error.title or "Invalid request."
    if error.status_code == 404:
        message = "There is nothing at this URL. /openapi.json lists what is."
    elif error.status_code == 405:
        message = "This method is not allowed here; see the Allow header."
    headers = error.headers
    return ApiError(
        error.status_code,
        message,
        type=INVALID_REQUEST if error.status_code < 500 else SERVER_ERROR,
        code=FALCON_CODES.get(error.status_code),
        headers=dict(headers) if headers else None,
    )


async def answer_error(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response | None,
    error: Exception,
    params: dict[str, Any],
) -> None:
    """Falcon's handler for every exception."""
    if resp is None:
        raise error  # a websocket; none are routed here
    told = to_api_error(error)
    resp.status = told.status
    resp.stream = None
    resp.text = resp.media = None
    resp.data = msgspec.json.encode(told.body())
    resp.content_type = falcon.MEDIA_JSON
    for name, value in told.headers.items():
        resp.set_header(name, value)
