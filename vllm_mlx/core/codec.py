"""The served model's tokenizer and chat template, as a protocol."""

from collections.abc import Sequence
from typing import Any, Protocol


class TextCodec(Protocol):
    """The served model's tokenizer and chat template. Thread-safe; calls may take milliseconds."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def token_text(self, token_id: int) -> tuple[str, bytes]:
        """Text and exact bytes of one token; U+FFFD where the bytes are not whole characters."""
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
