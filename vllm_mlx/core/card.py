"""What is served: one ModelCard per model, read by /v1/models, the start-up plan and metrics."""

from typing import Literal

from msgspec import Struct, field


class ModelCard(Struct, frozen=True, kw_only=True):
    """``mode`` is how it runs (docs/decisions): token rows, batched rows, or single rows."""

    id: str
    aliases: tuple[str, ...] = ()
    created: int  # unix seconds at load
    architecture: str  # model_type of the checkpoint
    mode: Literal["token_rows", "rows", "toy"]
    mode_reason: str
    dtype: str
    context_tokens: int
    vocab_tokens: int
    weights_bytes: int
    kv_bytes_per_token: int
    modalities: tuple[str, ...] = ("text",)
    capabilities: dict[str, bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # warnings a person should see (toy, missing BLAS, ...)
    eos_token_ids: tuple[int, ...] = ()
    # what a request gets where it is silent: Sampling field -> value, from options and checkpoint
    sampling_defaults: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name a request may use."""
        return tuple(dict.fromkeys((self.id, *self.aliases, "default")))


class EngineStatus(Struct, frozen=True, kw_only=True):
    """A snapshot for /metrics, /v1/status and the page; taken without asking the engine thread."""

    state: Literal["starting", "ready", "draining", "stopped", "failed"]
    running: int = 0
    waiting: int = 0
    steps: int = 0
    preemptions: int = 0
    kv_used_tokens: int = 0
    kv_capacity_tokens: int = 0  # what the byte budget allows
    kv_allocated_bytes: int = 0  # slabs allocated now
    prompt_tokens_total: int = 0
    completion_tokens_total: int = 0
    failure: str | None = None
