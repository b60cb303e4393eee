"""Text to token ids and back for a Hugging Face tokenizer: the engine's TextCodec."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from vllm_mlx.errors import RequestError
from vllm_mlx.model.chat_template import ChatTemplate
from vllm_mlx.model.token_bytes import build_token_bytes


class HuggingFaceCodec:
    """Thread-safe. Owns the tokenizer it is given, and switches its truncation and padding off."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat_function: Callable[..., str] | None = None,
        vocab_rows: int = 0,
        chat_template: str | None = None,
        template_arguments: dict[str, Any] | None = None,
    ) -> None:
        """``vocab_rows`` is how many ids the model can produce, if more than the tokenizer has.

        ``chat_template`` stands in for the tokenizer's own; ``template_arguments`` are what a
        request that is silent about them gets.
        """
        self._default_arguments = template_arguments or {}
        self._tokenizer = tokenizer
        self._vocab_rows = vocab_rows
        self._fast = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        # Tokenizers written in Python keep state; fast ones are safe once nothing sets them up
        self._guard: Any = contextlib.nullcontext() if self._fast else threading.Lock()
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
        self._building = threading.Lock()
        self._table: list[bytes] | None = None
        self.chat_template = ChatTemplate(tokenizer, chat_function, chat_template)
        self.special_ids = _special_ids(tokenizer)

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def vocab_tokens(self) -> int:
        """How many token ids have a text."""
        return len(self._tokenizer)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``. Raises RequestError for text that is not valid Unicode."""
        try:
            if self._fast is not None:
                return list(self._fast.encode(text, add_special_tokens=add_special_tokens).ids)
            with self._guard:
                return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))
        except (UnicodeEncodeError, TypeError) as error:
            raise RequestError("The text is not valid Unicode (a lone surrogate).") from error

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids; unknown ones add nothing. Raises RequestError if one is negative."""
        if any(token_id < 0 for token_id in token_ids):
            raise RequestError("A token id cannot be negative.")
        table = self.token_bytes_table()
        known = [t for t in token_ids if t < len(table) and (table[t] or t < self.vocab_tokens)]
        with self._guard:
            text: str = self._tokenizer.decode(
                known,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        return text

    def token_text(self, token_id: int) -> tuple[str, bytes]:
        """Text and exact bytes of one token; U+FFFD where the bytes are not whole characters."""
        table = self.token_bytes_table()
        data = table[token_id] if 0 <= token_id < len(table) else b""
        return data.decode("utf-8", "replace"), data

    def token_bytes_table(self) -> list[bytes]:
        """Bytes by token id, made on first use; not to be changed. b"" where an id has no token."""
        if self._table is None:
            with self._building, self._guard:
                if self._table is None:
                    table = build_token_bytes(self._tokenizer)
                    self._table = table + [b""] * (self._vocab_rows - len(table))
        return self._table

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
        text = self.chat_template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            arguments={**self._default_arguments, **(template_arguments or {})},
            chat_template=chat_template,
        )
        # The template writes the first token itself, where the model wants one
        return self.encode(text, add_special_tokens=False)


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    flagged = {token_id for token_id, token in added if token.special}
    return frozenset(flagged | set(tokenizer.all_special_ids))
