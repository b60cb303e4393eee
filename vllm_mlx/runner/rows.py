"""Row mode: for models that look along the length axis (recurrent, convolution, own attention).

One sequence is one row, over the model's own mlx-lm caches. Sequences prefill alone in chunks;
decoding ones share a batch made with mlx-lm's ``merge``, ``extend``, ``filter`` and ``extract``.
Where the probe found that a batch changes results, every sequence decodes alone.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from vllm_mlx.core.sequence import Sequence
from vllm_mlx.runner.base import Grant, Unread

LayerCaches = list[Any]  # one mlx-lm cache object a layer


class DecodeBatch:
    """Sequences that decode together, and their merged caches."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.caches: LayerCaches = []

    def join(self, number: int, caches: LayerCaches) -> None:
        merged = [type(cache).merge([cache]) for cache in caches]
        if self.numbers:
            for mine, new in zip(self.caches, merged, strict=True):
                mine.extend(new)
        else:
            self.caches = merged
        self.numbers.append(number)

    def leave(self, number: int) -> None:
        keep = [i for i, other in enumerate(self.numbers) if other != number]
        self.numbers.remove(number)
        if not keep:
            self.caches = []
        for cache in self.caches:
            cache.filter(keep)

    def take_out(self, number: int) -> LayerCaches:
        """Leave, with the caches of a sequence on its own."""
        place = self.numbers.index(number)
        caches = [cache.extract(place) for cache in self.caches]
        self.leave(number)
        return caches


class RowsRunner:
    """See ``runner.base.GenerationRunner``. ``batched`` is what the probe found to be right."""

    def __init__(
        self, model: Module, make_caches: Callable[[], LayerCaches], batched: bool
    ) -> None:
        self._model, self._make_caches, self._batched = model, make_caches, batched
        self._alone: dict[int, LayerCaches] = {}
        self._batch = DecodeBatch()

    def forward(self, grants: list[Grant], unread: Unread | None) -> mx.array:
        together = [g for g in grants if g.is_decode and self._may_share(g.sequence)]
        self._compose([g.sequence.number for g in together])
        logits: dict[int, mx.array] = {}
        if together:
            by_number = {g.sequence.number: g for g in together}
            rows = [by_number[number] for number in self._batch.numbers]
            out = self._model(_last_tokens(rows, unread)[:, None], cache=self._batch.caches)
            for row, number in enumerate(self._batch.numbers):
                logits[number] = out[row, -1:]
        for grant in grants:
            if grant.sequence.number not in logits:
                logits[grant.sequence.number] = self._run_alone(grant, unread)
        return mx.concatenate([logits[grant.sequence.number] for grant in grants])

    def state(self) -> list[mx.array]:
        caches = [*self._batch.caches, *(c for alone in self._alone.values() for c in alone)]
        return [array for cache in caches for array in _arrays(cache.state)]

    def forget(self, sequence: Sequence) -> None:
        self._alone.pop(sequence.number, None)
        if sequence.number in self._batch.numbers:
            self._batch.leave(sequence.number)

    def reset(self) -> None:
        self._alone.clear()
        self._batch = DecodeBatch()

    def scrub(self, block_ids: list[int]) -> None:
        """Nothing is shared between sequences."""

    def trim(self, extent_blocks: int) -> None:
        """Caches go with their sequences."""

    @property
    def allocated_bytes(self) -> int:
        caches = [*self._batch.caches, *(c for alone in self._alone.values() for c in alone)]
        return sum(array.nbytes for cache in caches for array in _arrays(cache.state))

    def _may_share(self, sequence: Sequence) -> bool:
        """A reproducible sequence decodes alone: products of other shapes have other bits."""
        return self._batched and not sequence.is_reproducible

    def _compose(self, numbers: list[int]) -> None:
        """Make the batch hold exactly these sequences; the others go back to being alone."""
        for number in [n for n in self._batch.numbers if n not in numbers]:
            self._alone[number] = self._batch.take_out(number)
        for number in numbers:
            if number not in self._batch.numbers:
                self._batch.join(number, self._alone.pop(number))

    def _run_alone(self, grant: Grant, unread: Unread | None) -> mx.array:
        """Logits [num_logits, vocab] of one sequence's tokens."""
        number = grant.sequence.number
        if grant.start == 0:
            self._alone[number] = self._make_caches()
        caches = self._alone[number]
        if grant.is_decode:
            return self._call(_last_tokens([grant], unread), caches)[-1:]
        tokens = mx.array(grant.sequence.tokens_between(grant.start, grant.end))
        if grant.scores:
            return self._call(tokens, caches)
        if not grant.samples:  # lazily: nobody asks for these logits, so no head is computed
            return self._call(tokens, caches)[:0]
        if grant.count > 1:
            self._call(tokens[:-1], caches)
        return self._call(tokens[-1:], caches)

    def _call(self, tokens: mx.array, caches: LayerCaches) -> mx.array:
        """``tokens`` [n] of one sequence -> logits [n, vocab]."""
        logits: mx.array = self._model(tokens[None], cache=caches)
        return logits[0]


def _last_tokens(grants: list[Grant], unread: Unread | None) -> mx.array:
    """The last token of each sequence, from the device where it has not been read: [n]."""
    parts = []
    for grant in grants:
        if grant.sequence.has_unread_token and unread is not None:
            place = unread.index[grant.sequence.number]
            parts.append(unread.tokens[place : place + 1])
        else:
            parts.append(mx.array([grant.sequence.token_at(grant.start)], dtype=mx.int32))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def _arrays(state: Any) -> list[mx.array]:
    """Every array inside nested lists and tuples."""
    if isinstance(state, mx.array):
        return [state]
    if isinstance(state, (list, tuple)):
        return [array for part in state for array in _arrays(part)]
    return []
