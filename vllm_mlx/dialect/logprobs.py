"""TokenLogprob to both vendor forms. Minus infinity becomes -9999, which JSON can say."""

import codecs
from collections.abc import Iterable

from vllm_mlx.core.delta import TokenLogprob, TopLogprob
from vllm_mlx.wire.openai_chat import ChatLogprobs, ChatTokenLogprob, ChatTopLogprob
from vllm_mlx.wire.openai_completions import CompletionLogprobs

LOWEST = -9999.0


def to_chat_logprobs(entries: Iterable[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs(content=[_chat_entry(entry) for entry in entries])


def _chat_entry(entry: TokenLogprob) -> ChatTokenLogprob:
    return ChatTokenLogprob(
        token=entry.token,
        logprob=_finite(entry.logprob),
        bytes=list(entry.bytes),
        top_logprobs=[
            ChatTopLogprob(token=top.token, logprob=_finite(top.logprob), bytes=list(top.bytes))
            for top in entry.top
        ],
    )


def _finite(logprob: float | None) -> float:
    return LOWEST if logprob is None or not logprob > LOWEST else logprob


def legacy_token(entry: TokenLogprob | TopLogprob) -> str:
    """The token as text, or ``bytes:\\xe2\\x80`` where its bytes are no text."""
    if "\ufffd" in entry.token and entry.token.encode() != entry.bytes:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.bytes)
    return entry.token


class LegacyLogprobs:
    """The four parallel lists of completions; keeps the running offset of one choice."""

    def __init__(self) -> None:
        self._characters = 0  # negative while tokens are passed that the text does not show
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def begin_prompt(self, entries: Iterable[TokenLogprob], text: str) -> None:
        """Line the prompt's tokens up with ``text``, which lacks the special tokens before it."""
        spelled = b"".join(entry.bytes for entry in entries).decode("utf-8", "replace")
        self._characters = min(0, len(text) - len(spelled))

    def take(self, entries: Iterable[TokenLogprob], top_count: int) -> CompletionLogprobs:
        """Lists for these tokens, which follow those of earlier calls."""
        lists = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for entry in entries:
            lists.tokens.append(legacy_token(entry))
            lists.token_logprobs.append(None if entry.logprob is None else _finite(entry.logprob))
            lists.top_logprobs.append(_legacy_top(entry, top_count))
            lists.text_offset.append(max(0, self._characters))
            self._characters += len(self._decoder.decode(entry.bytes))
        return lists


def _legacy_top(entry: TokenLogprob, top_count: int) -> dict[str, float] | None:
    """The best ``top_count``, and the token itself where it is not among them."""
    if entry.logprob is None:
        return None
    best: dict[str, float] = {}
    for top in entry.top[:top_count]:
        best.setdefault(legacy_token(top), _finite(top.logprob))
    best.setdefault(legacy_token(entry), _finite(entry.logprob))
    return best
