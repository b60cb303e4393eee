"""The engine as its callers see it. Everything above ``engine/`` is written against these protocols."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from vllm_mlx.core.card import EngineStatus, ModelCard
from vllm_mlx.core.codec import TextCodec
from vllm_mlx.core.delta import Delta
from vllm_mlx.core.generation import Generation

__all__ = ["DeltaStream", "Engine", "TextCodec"]


class DeltaStream(Protocol):
    """Deltas of one Generation; lives on the event loop that submitted it."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    async def __anext__(self) -> Delta:
        """The next delta. Raises StopAsyncIteration after Finished, GenerationFailed or EngineStopped."""
        ...

    def take_ready(self) -> Sequence[Delta]:
        """Deltas that are here already, without waiting; may be empty. For coalescing writes."""
        ...

    def abort(self) -> None:
        """Stop the sequence within one step and free what it holds. Safe to call twice or after the end."""
        ...


class Engine(Protocol):
    """One model, one thread that owns MLX."""

    @property
    def card(self) -> ModelCard:
        """Known once ready; EngineStopped before."""
        ...

    @property
    def codec(self) -> TextCodec: ...

    @property
    def status(self) -> EngineStatus: ...

    async def start(self) -> None:
        """Load the model on the engine thread and return when it can answer. Raises ModelError."""
        ...

    async def stop(self, drain_seconds: float) -> None:
        """Take no more work, let running sequences finish for so long, then abort the rest and end the thread."""
        ...

    def submit(self, generation: Generation) -> DeltaStream:
        """Queue one generation; never blocks.

        Raises PromptTooLong, QueueFull, EngineStopped. ``stopping.max_tokens`` beyond the context is capped.
        """
        ...
