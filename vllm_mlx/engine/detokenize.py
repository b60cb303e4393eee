"""Token ids to text, one token at a time, without ever splitting a character."""

import codecs

from msgspec import Struct


class TokenText(Struct, frozen=True):
    """A tokenizer's bytes by token id, built once; ``special_ids`` are left out of text."""

    token_bytes: list[bytes]
    special_ids: frozenset[int]

    def bytes_of(self, token_id: int) -> bytes:
        return self.token_bytes[token_id] if token_id < len(self.token_bytes) else b""


class Detokenizer:
    """Incremental text of one sequence: a table lookup and a UTF-8 state machine, O(1) a token."""

    def __init__(self, table: TokenText, skip_special_tokens: bool) -> None:
        self._table = table
        self._skipped = table.special_ids if skip_special_tokens else frozenset[int]()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """Characters that became complete with this token."""
        if token_id in self._skipped:
            return ""
        return self._decoder.decode(self._table.bytes_of(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)
