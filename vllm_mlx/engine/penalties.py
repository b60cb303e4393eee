"""Repetition, presence and frequency penalties: what each sequence has said, kept on the device.

Counts live on the device because a step is launched before the tokens of the one before it are
read. Only sequences that ask for a penalty have a row here.
"""

import mlx.core as mx

from vllm_mlx.core.sequence import Sequence


class PenaltyTable:
    """``counts`` [rows, vocab]: sampled tokens; ``prompts`` [rows, vocab]: in the prompt or not."""

    def __init__(self, vocab_tokens: int) -> None:
        self._vocab_tokens = vocab_tokens
        self._rows: dict[int, int] = {}  # sequence number -> row
        self._free: list[int] = []
        self._counts = mx.zeros((0, vocab_tokens))
        self._prompts = mx.zeros((0, vocab_tokens), dtype=mx.bool_)

    def apply(self, logits: mx.array, sequences: list[Sequence]) -> mx.array:
        """Penalise the rows of ``logits`` [n, vocab] whose sequences ask for it.

        Repetition (CTRL, Keskar et al. 2019) divides positive and multiplies negative logits of
        every token of prompt and output; presence and frequency (OpenAI) count output only.
        """
        places = [i for i, s in enumerate(sequences) if s.generation.sampling.has_penalties]
        if not places:
            return logits
        wanting = [sequences[i] for i in places]
        rows = mx.array([self._row_of(sequence) for sequence in wanting])
        samplings = [sequence.generation.sampling for sequence in wanting]
        repetition = mx.array([s.repetition_penalty for s in samplings])[:, None]
        presence = mx.array([s.presence_penalty for s in samplings])[:, None]
        frequency = mx.array([s.frequency_penalty for s in samplings])[:, None]
        logits = logits.astype(mx.float32)
        mine, counts = logits[mx.array(places)], self._counts[rows]
        said = counts > 0
        repeated = mx.where(mine > 0, mine / repetition, mine * repetition)
        mine = mx.where(said | self._prompts[rows], repeated, mine)
        mine = mine - frequency * counts - presence * said
        logits[mx.array(places)] = mine
        return logits

    def count(self, sequences: list[Sequence], tokens: mx.array) -> None:
        """Add the sampled ``tokens`` [n] of those sequences that have a row."""
        places = [i for i, s in enumerate(sequences) if s.number in self._rows]
        if places:
            rows = mx.array([self._rows[sequences[i].number] for i in places])
            self._counts = self._counts.at[rows, tokens[mx.array(places)]].add(1.0)

    def drop(self, number: int) -> None:
        row = self._rows.pop(number, None)
        if row is not None:
            self._free.append(row)

    def _row_of(self, sequence: Sequence) -> int:
        if sequence.number not in self._rows:
            self._rows[sequence.number] = self._fill(sequence)
        return self._rows[sequence.number]

    def _fill(self, sequence: Sequence) -> int:
        """A row with what is known of the sequence; it has no unread token when it comes here."""
        counts = mx.zeros((self._vocab_tokens,))
        if sequence.output_ids:
            counts = counts.at[mx.array(sequence.output_ids)].add(1.0)
        prompt = mx.zeros((self._vocab_tokens,), dtype=mx.bool_)
        prompt[mx.array(sequence.generation.prompt_ids)] = True
        if not self._free:
            self._counts = mx.concatenate([self._counts, counts[None]])
            self._prompts = mx.concatenate([self._prompts, prompt[None]])
            return self._counts.shape[0] - 1
        row = self._free.pop()
        self._counts[row] = counts
        self._prompts[row] = prompt
        return row
