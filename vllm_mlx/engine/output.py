"""What one sequence says: sampled ids in, deltas out, and the decision that it has ended."""

from msgspec import Struct

from vllm_mlx.core.delta import (
    Delta,
    Finished,
    FinishReason,
    PromptScored,
    TextDelta,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.detokenize import Detokenizer, TokenText
from vllm_mlx.engine.stopping import StopStrings


class RawLogprob(Struct, frozen=True):
    """As it comes from the device: natural logs, ids and values of the best in order."""

    chosen: float
    best_ids: list[int]
    best: list[float]


class OutputPipe:
    """ids -> text -> stop strings -> deltas, for one sequence."""

    def __init__(self, sequence: Sequence, table: TokenText, eos_ids: frozenset[int]) -> None:
        generation = sequence.generation
        self._sequence, self._table = sequence, table
        self._stopping = generation.stopping
        self._eos_ids = frozenset[int]() if self._stopping.ignore_eos else eos_ids
        self._detokenizer = Detokenizer(table, generation.skip_special_tokens)
        self._stops = StopStrings(self._stopping.stop)
        self._pending_ids: list[int] = []
        self._pending_logprobs: list[TokenLogprob] = []
        self._prompt_logprobs: list[TokenLogprob] = []
        self._cumulative = 0.0

    def accept(self, token_id: int, raw: RawLogprob | None) -> list[Delta]:
        """The sequence's next token, already in ``output_ids``; the last delta may be Finished."""
        self._pending_ids.append(token_id)
        if raw is not None:
            self._pending_logprobs.append(self._logprob(token_id, raw))
            self._cumulative += raw.chosen
        count = len(self._sequence.output_ids)
        if token_id in self._eos_ids:
            return self._end_at(None)
        if token_id in self._stopping.stop_token_ids and count > self._stopping.min_tokens:
            return self._end_at(token_id)
        text = self._detokenizer.feed(token_id)
        if count <= self._stopping.min_tokens:
            text = self._stops.pass_over(text)
        else:
            text = self._stops.feed(text)
        if self._stops.match is not None:
            return [*self._delta(text), self._finished("stop", self._stops.match)]
        if count >= self._sequence.max_tokens:
            return self._finish("length", None, text)
        return self._delta(text) if text else []

    def accept_prompt(self, start: int, raws: list[RawLogprob]) -> list[Delta]:
        """Logprobs of the prompt tokens from position ``start`` on; PromptScored at the end.

        The first token has none. What is computed again after a preemption is known already.
        """
        prompt, known = self._sequence.generation.prompt_ids, self._prompt_logprobs
        if len(known) == len(prompt):
            return []
        if not known:
            known.append(TokenLogprob(prompt[0], *self._text_of(prompt[0]), logprob=None))
        for raw in raws[max(0, len(known) - start) :]:
            known.append(self._logprob(prompt[len(known)], raw))
        return [PromptScored(tuple(known))] if len(known) == len(prompt) else []

    def end_unsampled(self) -> list[Delta]:
        """Nothing was to be generated (max_tokens 0)."""
        return [self._finished("length", None)]

    def _end_at(self, match: int | None) -> list[Delta]:
        """The newest token ended the sequence: billed, but shown neither as text nor as logprob."""
        if self._pending_logprobs:
            self._pending_logprobs.pop()
        return self._finish("stop", match)

    def _finish(self, reason: FinishReason, match: str | int | None, text: str = "") -> list[Delta]:
        """End after showing everything that was held back."""
        text = text + self._stops.feed(self._detokenizer.flush())
        if self._stops.match is not None:
            return [*self._delta(text), self._finished("stop", self._stops.match)]
        return [*self._delta(text + self._stops.flush()), self._finished(reason, match)]

    def _delta(self, text: str) -> list[Delta]:
        if not text and not self._pending_ids:
            return []
        delta = TextDelta(text, tuple(self._pending_ids), tuple(self._pending_logprobs))
        self._pending_ids, self._pending_logprobs = [], []
        return [delta]

    def _finished(self, reason: FinishReason, match: str | int | None) -> Finished:
        sequence = self._sequence
        usage = Usage(sequence.prompt_tokens, len(sequence.output_ids), sequence.cached_tokens)
        asked = sequence.generation.top_logprobs is not None
        return Finished(reason, usage, match, self._cumulative if asked else None)

    def _logprob(self, token_id: int, raw: RawLogprob) -> TokenLogprob:
        top = tuple(
            TopLogprob(best_id, *self._text_of(best_id), value)
            for best_id, value in zip(raw.best_ids, raw.best, strict=True)
        )
        return TokenLogprob(token_id, *self._text_of(token_id), raw.chosen, top)

    def _text_of(self, token_id: int) -> tuple[str, bytes]:
        data = self._table.bytes_of(token_id)
        return data.decode("utf-8", "replace"), data
