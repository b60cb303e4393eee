"""What the engine asks of a runner. Scheduler, sampling, cache policy and APIs know only this."""

from typing import Protocol

import mlx.core as mx
from msgspec import Struct

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.card import ModelCard
from vllm_mlx.core.codec import TextCodec
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant
from vllm_mlx.model.progress import Progress

__all__ = ["GenerationRunner", "Grant", "Loaded", "ModelSource", "Unread"]


class Unread(Struct, frozen=True):
    """Tokens of the previous step that are still on the device.

    ``tokens`` [n] int32; ``index`` maps a sequence's number to its place in it.
    """

    tokens: mx.array
    index: dict[int, int]


class GenerationRunner(Protocol):
    """Computes logits. Owned by the engine thread; never called from another."""

    def forward(self, grants: list[Grant], unread: Unread | None) -> mx.array:
        """Logits [rows, vocab] of one step, lazily.

        Rows follow the grants' order, ``num_logits`` rows each. The input of a decode grant is its
        sequence's last token, taken from ``unread`` when the host has not read it yet. The result
        of a reproducible sequence does not depend on what else is in the step, where the backend
        can promise that.
        """
        ...

    def state(self) -> list[mx.array]:
        """Arrays that a step changed beside its logits; evaluated together with them."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence left or was preempted: drop what is held for it outside the block pool."""
        ...

    def reset(self) -> None:
        """Drop all keys and values; after a failed evaluation."""
        ...

    def scrub(self, block_ids: list[int]) -> None:
        """Make these blocks harmless after a sequence produced NaN."""
        ...

    def trim(self, extent_blocks: int) -> None:
        """Nobody needs blocks from ``extent_blocks`` on: memory may be given back."""
        ...

    @property
    def allocated_bytes(self) -> int:
        """Bytes of keys and values allocated now, unused parts included."""
        ...


class Loaded(Struct, frozen=True):
    """A model ready to run, made on the engine thread."""

    runner: GenerationRunner
    codec: TextCodec
    card: ModelCard
    token_bytes: list[bytes]
    special_ids: frozenset[int]


class ModelSource(Protocol):
    """An option of the ``model`` group: knows what to load and how."""

    def load(self, kv: KvCache, progress: Progress) -> Loaded:
        """Load on the calling thread and open ``kv`` for the model's sizes. Raises ModelError."""
        ...
