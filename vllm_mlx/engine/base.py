"""The engine as its callers see it. Everything above ``engine/`` is written against these protocols."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from vllm_mlx.core.card import EngineStatus, ModelCard
from vllm_mlx.core.delta import Delta
from vllm_mlx.core.generation import Generation


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


class TextCodec(Protocol):
    """The served model's tokenizer and chat template. Thread-safe; calls may take milliseconds."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def token_text(self, token_id: int) -> tuple[str, bytes]:
        """Text and exact bytes of one token; text has U+FFFD where the bytes are not whole characters."""
        ...

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_arguments: dict[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> list[int]:
        """Token ids of a conversation. Raises TemplateFailed with the template's own words."""
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
