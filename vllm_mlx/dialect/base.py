"""What every dialect offers to ``api/``: chunks out of deltas, and a whole answer out of chunks."""

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from vllm_mlx.core.delta import Delta, Finished


class RequestLimits(Struct, frozen=True, kw_only=True):
    """What the operator allows, whatever the model could do."""

    max_n: int
    default_max_tokens: int | None
    max_request_tokens: int | None


class ReplyStream(Protocol):
    """Translates the deltas of all choices of one request into the vendor's chunks, in order."""

    def add(self, choice: int, delta: Delta) -> Sequence[Struct]:
        """Chunks that this delta completes; may be none."""
        ...

    def end(self) -> Sequence[Struct]:
        """Chunks after the last choice has finished."""
        ...


class ReplyFold(Protocol):
    """Folds chunks into the whole answer: a non-streamed reply is the fold of the stream."""

    def add(self, chunk: Any) -> None: ...

    def body(self, finished: dict[int, Finished]) -> Struct:
        """The answer. ``finished`` has one entry per choice."""
        ...
