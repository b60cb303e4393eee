"""The queue of sequences that wait for admission: by priority, then by arrival."""

import bisect
from collections.abc import Iterator

from vllm_mlx.core.sequence import Sequence


class WaitingQueue:
    """Sorted by ``Sequence.order``; a preempted sequence returns to its old place."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence) -> None:
        bisect.insort(self._sequences, sequence, key=lambda s: s.order)

    def first(self) -> Sequence | None:
        return self._sequences[0] if self._sequences else None

    def take_first(self) -> Sequence:
        return self._sequences.pop(0)

    def remove(self, sequence: Sequence) -> None:
        self._sequences.remove(sequence)

    def clear(self) -> list[Sequence]:
        """Take everything out."""
        taken, self._sequences = self._sequences, []
        return taken
