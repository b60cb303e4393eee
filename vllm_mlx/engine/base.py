"""The engine as its callers see it: all that is above it knows only these protocols."""

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
        """The next delta, up to Finished; GenerationFailed or EngineStopped is raised instead."""
        ...

    def take_ready(self) -> Sequence[Delta]:
        """Deltas that are here already, without waiting; may be empty. For coalescing writes."""
        ...

    def abort(self) -> None:
        """End the sequence within one step and free what it holds. Again: does nothing."""
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
        """Take no more work, let sequences finish for so long, abort the rest, end the thread."""
        ...

    def submit(self, generation: Generation) -> DeltaStream:
        """Queue one generation; never blocks.

        ``stopping.max_tokens`` beyond the context is capped. Raises PromptTooLong, QueueFull,
        EngineStopped.
        """
        ...
