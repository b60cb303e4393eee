"""``/v1/models``: OpenAI's list entry, and what this server adds about the model."""

from typing import Literal

from msgspec import Struct


class ModelEntry(Struct, kw_only=True):
    """``max_model_len`` and ``context_length`` are the same number under two known names."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vllm-mlx"
    root: str  # the name the model itself has
    parent: str | None = None
    max_model_len: int
    context_length: int
    architecture: str
    mode: str
    mode_reason: str
    dtype: str
    vocab_size: int
    weights_bytes: int
    kv_bytes_per_token: int
    modalities: list[str]
    capabilities: dict[str, bool]
    sampling_defaults: dict[str, float]
    notes: list[str]


class ModelList(Struct):
    data: list[ModelEntry]
    object: Literal["list"] = "list"
