"""What a route is: the path, who serves it, and what each method takes and gives."""

from typing import Any

from msgspec import Struct


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one path, as ``/openapi.json`` describes it."""

    method: str
    summary: str
    request: type | None = None
    answer: type | None = None  # None: not JSON
    chunk: type | None = None  # each ``data:`` of the event stream, with ``stream: true``
    media_type: str = "application/json"
    needs_key: bool = True
    errors: tuple[int, ...] = ()


class Route(Struct, frozen=True, kw_only=True):
    """``suffix`` picks the responders of a resource that serves several paths."""

    path: str  # Falcon's template
    resource: Any
    operations: tuple[Operation, ...]
    suffix: str | None = None
