"""The exact bytes of each token of a vocabulary, as a table by token id."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

Render = Callable[[str], bytes]
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: which stands for which."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _byte_level() -> Render:
    table = _byte_of_character()

    def render(token: str) -> bytes:
        try:
            return bytes([table[character] for character in token])
        except KeyError:  # an added token, whose text is meant literally
            return token.encode("utf-8", "replace")

    return render


def _replacing(pairs: Sequence[tuple[str, str]], with_bytes: bool) -> Render:
    def render(token: str) -> bytes:
        if with_bytes and (found := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(found[1], 16)])
        for old, new in pairs:
            token = token.replace(old, new)
        return token.encode("utf-8", "replace")

    return render


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    return [decoder]


def renderer_of(decoder: dict[str, Any] | None) -> Render | None:
    """How a fast tokenizer's decoder turns one token into bytes; None if it needs neighbours.

    Trimming at the start of a text is left out: it is no property of a token.
    """
    if decoder is None:
        return None
    pairs: list[tuple[str, str]] = []
    with_bytes = False
    for step in _steps(decoder):
        kind = step["type"]
        if kind == "ByteLevel":
            return _byte_level()
        if kind == "Replace" and "String" in step["pattern"]:
            pairs.append((step["pattern"]["String"], step["content"]))
        elif kind == "Metaspace":
            pairs.append((step["replacement"], " "))
        elif kind == "ByteFallback":
            with_bytes = True
        elif kind not in ("Fuse", "Strip"):
            return None
    return _replacing(pairs, with_bytes)


def _by_difference(tokenizer: Any, count: int) -> list[bytes]:
    """For any tokenizer: what a token adds to the text of another. Slow, a decode a token."""

    def decode(ids: list[int]) -> str:
        text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text

    anchor = next((i for i in range(count) if decode([i]).isalnum()), 0)
    before = decode([anchor])
    return [decode([anchor, i])[len(before) :].encode("utf-8", "replace") for i in range(count)]


def _slow_tokens(tokenizer: Any, count: int) -> list[bytes]:
    """Tokenizers in Python: token strings of SentencePiece, or byte strings of tiktoken."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(count)))
    if all(isinstance(token, bytes) for token in tokens if token is not None):
        return [token or b"" for token in tokens]
    if any(isinstance(token, str) and token.startswith("\u2581") for token in tokens):
        render = _replacing([("\u2581", " ")], with_bytes=True)
        return [render(token) if isinstance(token, str) else token or b"" for token in tokens]
    return _by_difference(tokenizer, count)


def build_token_bytes(tokenizer: Any) -> list[bytes]:
    """Bytes by token id, ``len(tokenizer)`` or more entries; b"" where an id has no token.

    Joining the entries of a text's ids gives that text, but for a leading space that some
    SentencePiece tokenizers add and drop again.
    """
    count = max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)
    if not tokenizer.is_fast:
        return _slow_tokens(tokenizer, count)
    backend = tokenizer.backend_tokenizer
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else None
    render = renderer_of(decoder)
    if render is None:
        return _by_difference(tokenizer, count)
    table = [b""] * count
    for token, token_id in tokenizer.get_vocab().items():
        table[token_id] = render(token)
    return table
