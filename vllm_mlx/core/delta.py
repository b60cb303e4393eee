"""What the engine gives back, in order, for one Generation. Vendors' chunks are not here.

A stream is: at most one PromptScored, any number of TextDelta / ReasoningDelta / ToolCallDelta,
then exactly one Finished. A failure is raised from the stream instead of Finished.
"""

from typing import Literal

from msgspec import Struct

FinishReason = Literal["stop", "length", "tool_calls", "abort"]


class TopLogprob(Struct, frozen=True, gc=False):
    """One alternative: its id, its text as far as it is text, its bytes, its natural logprob."""

    token_id: int
    token: str
    bytes: bytes
    logprob: float


class TokenLogprob(Struct, frozen=True):
    """The chosen (or given) token and the most likely ones at its place, best first.

    ``logprob`` is None only for the first token of a prompt, which nothing predicts.
    """

    token_id: int
    token: str
    bytes: bytes
    logprob: float | None
    top: tuple[TopLogprob, ...] = ()


class PromptScored(Struct, frozen=True):
    """One entry per prompt token."""

    logprobs: tuple[TokenLogprob, ...]


class TextDelta(Struct, frozen=True):
    """Text the client may see now, the ids sampled since the last delta, their logprobs if asked.

    ``text`` may be empty while ids are held back (half a character, a possible stop string).
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(Struct, frozen=True):
    text: str
    token_ids: tuple[int, ...] = ()


class ToolCallDelta(Struct, frozen=True):
    """A piece of a tool call: ``id`` and ``name`` in the first of an ``index``, then arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    token_ids: tuple[int, ...] = ()


class Usage(Struct, frozen=True):
    """Tokens as billed. ``cached_tokens`` is prefill that was really saved."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Finished(Struct, frozen=True):
    """The end. ``stop_match`` is the stop string or stop token id that was hit, if one was."""

    reason: FinishReason
    usage: Usage
    stop_match: str | int | None = None
    cumulative_logprob: float | None = None  # sum over chosen tokens, where logprobs were asked


Delta = PromptScored | TextDelta | ReasoningDelta | ToolCallDelta | Finished
