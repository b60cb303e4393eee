"""Health, readiness, version and status: this server's own shapes."""

from typing import Literal

from msgspec import Struct


class Health(Struct):
    status: Literal["ok", "failed"]
    state: str


class Ready(Struct):
    ready: bool
    state: str
    failure: str | None = None


class Version(Struct):
    version: str


class RunningRequest(Struct, kw_only=True):
    """One request that is being answered; never its text."""

    id: str  # what DELETE /v1/requests/{id} takes
    path: str
    model: str
    stream: bool
    choices: int
    prompt_tokens: int
    completion_tokens: int
    age_seconds: float
    first_token_seconds: float | None


class EngineState(Struct, kw_only=True):
    state: str
    failure: str | None
    running: int
    waiting: int
    steps: int
    preemptions: int
    kv_used_tokens: int
    kv_capacity_tokens: int
    kv_allocated_bytes: int
    prompt_tokens_total: int
    completion_tokens_total: int


class Status(Struct, kw_only=True):
    version: str
    model: str | None
    uptime_seconds: float
    engine: EngineState
    requests: list[RunningRequest]


class Aborted(Struct):
    id: str
    object: Literal["request.aborted"] = "request.aborted"
    aborted: bool = True
