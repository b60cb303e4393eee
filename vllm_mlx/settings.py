"""Types and limits of the composed tree. Values and defaults are in ``conf/``, not here.

Each group's Struct is tagged by ``_target_``: the union of tags is the allow-list of what a
configuration may build.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0, le=1e12)]  # finite


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every node. Children inherit all three; type checkers want the first two repeated."""


class DownloadSettings(Settings, frozen=True, kw_only=True):
    """How a checkpoint is fetched from the hub."""

    timeout_seconds: PositiveFloat  # per connection, without a byte
    retries: Annotated[int, Meta(ge=0, le=100)]
    offline: bool  # only what is on disk already


class SamplingDefaults(Settings, frozen=True, kw_only=True):
    """What a request gets where it is silent; None: from the checkpoint's generation_config."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None
    top_k: Annotated[int, Meta(ge=0)] | None  # 0 keeps all
    min_p: Annotated[float, Meta(ge=0, le=1)] | None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None
    repetition_penalty: PositiveFloat | None


class CheckpointModel(
    Settings,
    frozen=True,
    kw_only=True,
    tag_field="_target_",
    tag="vllm_mlx.runner.source.CheckpointModel",
):
    """A checkpoint on disk or on the hub, and how it is loaded."""

    path: Annotated[str, Meta(min_length=1)]  # folder, GGUF file, hub id, or "embedded"
    revision: str | None  # of a hub id
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    mode: Literal["auto", "token_rows", "rows"]  # auto: a probe at load decides
    context_tokens: Positive | None  # a cap; None: what the checkpoint says
    trust_remote_code: bool
    download: DownloadSettings
    chat_template: str | None  # a file; None: the checkpoint's own
    chat_template_kwargs: dict[str, Any]  # passed to the template where a request is silent
    sampling: SamplingDefaults


class ToyModel(
    Settings,
    frozen=True,
    kw_only=True,
    tag_field="_target_",
    tag="vllm_mlx.runner.toy.ToyModel",
):
    """A deterministic model without weights."""

    script: str | None  # a file of replies; None: it makes up its own
    context_tokens: Positive


class ContinuousScheduler(
    Settings,
    frozen=True,
    kw_only=True,
    tag_field="_target_",
    tag="vllm_mlx.scheduler.continuous.ContinuousScheduler",
):
    """Decode rows and prefill chunks of many sequences in one step."""

    max_running: Positive  # sequences in one batch
    max_waiting: Annotated[int, Meta(ge=0)]  # beyond: 429
    step_tokens: Positive  # budget of one step, decode and prefill together
    prefill_chunk_tokens: Positive  # the most one prompt gets of a step
    stretch: Annotated[float, Meta(ge=1, le=1e6)]  # a step with prefill against a pure decode step
    target_itl_ms: PositiveFloat | None  # inter-token latency to aim at, instead of stretch


class SerialScheduler(
    Settings,
    frozen=True,
    kw_only=True,
    tag_field="_target_",
    tag="vllm_mlx.scheduler.serial.SerialScheduler",
):
    """One sequence at a time."""

    max_waiting: Annotated[int, Meta(ge=0)]
    prefill_chunk_tokens: Positive


class BlockPool(Settings, frozen=True, kw_only=True):
    """What every option of the cache group says of its blocks."""

    block_tokens: Annotated[int, Meta(ge=1, le=1024)]
    memory_gib: PositiveFloat | Literal["auto"]  # auto: what weights and a reserve leave free


class PagedCache(
    BlockPool,
    frozen=True,
    kw_only=True,
    tag_field="_target_",
    tag="vllm_mlx.cache.paged.PagedCache",
):
    """Keys and values in blocks of one pool."""


class NoCache(
    BlockPool,
    frozen=True,
    kw_only=True,
    tag_field="_target_",
    tag="vllm_mlx.cache.none.NoCache",
):
    """The same pool, but nothing is remembered after a sequence ends."""


class ApiSettings(
    Settings,
    frozen=True,
    kw_only=True,
    tag_field="_target_",
    tag="vllm_mlx.api.app.create_app",
):
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
    drain_seconds: Annotated[float, Meta(ge=0, le=86400)]


class ServerSettings(Settings, frozen=True, kw_only=True):
    """The whole tree of ``conf/server.yaml``."""

    model: CheckpointModel | ToyModel
    scheduler: ContinuousScheduler | SerialScheduler
    cache: PagedCache | NoCache
    api: ApiSettings
    log_level: Literal["debug", "info", "warning", "error"]
