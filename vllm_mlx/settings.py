"""Types and limits of the composed configuration tree. Values and defaults are in ``conf/``, not here.

Each group's Struct is tagged by ``_target_``: the union of tags is the allow-list of what a
configuration may build.
"""

from typing import Annotated

from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every node."""


class ApiSettings(Settings, tag_field="_target_", tag="vllm_mlx.api.app.create_app"):
    """The HTTP surface: where it listens, who may call, and its limits."""

    host: str
    port: Port  # 0 picks a free one
    api_key: str | None  # None: open
    served_name: str | None  # None: the model's own name
    aliases: list[str]  # further names of the model
    strict: bool  # unknown request fields are a 400 instead of a header
    max_n: Annotated[int, Meta(ge=1, le=1024)]
    max_body_mib: PositiveFloat
    default_max_tokens: Positive | None  # None: up to the end of the context
    max_request_tokens: Positive | None  # cap on a client's max_tokens
    request_timeout_seconds: PositiveFloat | None
    keepalive_seconds: PositiveFloat  # silence on a stream before a comment is sent
    rate_limit_per_minute: Positive | None
    cors_origins: list[str]
    metrics: bool
    page: bool  # the built-in page at /
    drain_seconds: Annotated[float, Meta(ge=0)]
