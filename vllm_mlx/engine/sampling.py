"""Logits to tokens, all rows of a step at once, each row by its own parameters.

A row's result is a function of its own logits, parameters, seed and position: nothing is drawn
from a shared generator, so company, order and preemption do not change it. A random row takes one
uniform number, made on the host from (seed, choice, position), through the inverse of its
cumulative distribution.
"""

from collections.abc import Iterable

import mlx.core as mx
from msgspec import Struct

from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.penalties import PenaltyTable

MASK_64 = (1 << 64) - 1
LOWEST_TEMPERATURE = 1e-30  # a logit divided by less would not fit into float32


class LogprobRows(Struct, frozen=True):
    """Natural-log probabilities for ``rows`` of a step: chosen [m], best_ids and best [m, k]."""

    rows: list[int]
    chosen: mx.array
    best_ids: mx.array
    best: mx.array


class Sampled(Struct, frozen=True):
    """``tokens`` [n] int32; ``finite`` [n] bool, False where the logits were not numbers."""

    tokens: mx.array
    finite: mx.array
    logprobs: LogprobRows | None

    def arrays(self) -> list[mx.array]:
        extra = self.logprobs
        more = [] if extra is None else [extra.chosen, extra.best_ids, extra.best]
        return [self.tokens, self.finite, *more]


class Sampler:
    """Owned by the engine thread. ``eos_ids`` are held back until a sequence's min_tokens."""

    def __init__(self, vocab_tokens: int, eos_ids: tuple[int, ...]) -> None:
        self._vocab_tokens, self._eos_ids = vocab_tokens, eos_ids
        self._penalties = PenaltyTable(vocab_tokens)

    def sample(self, logits: mx.array, sequences: list[Sequence]) -> Sampled:
        """``logits`` [n, vocab], one row a sequence, whose next token is sampled."""
        adjusted = self._adjust(logits, sequences)
        tokens, finite = _choose(adjusted, sequences)
        self._penalties.count(sequences, tokens)
        return Sampled(tokens, finite, _logprobs(logits, tokens, sequences))

    def forget(self, sequence: Sequence) -> None:
        """The sequence left or goes back to the queue."""
        self._penalties.drop(sequence.number)

    def _adjust(self, logits: mx.array, sequences: list[Sequence]) -> mx.array:
        rows, ids, values = self._biases(sequences)
        if rows:
            logits = logits.astype(mx.float32)
            logits = logits.at[mx.array(rows), mx.array(ids)].add(mx.array(values))
        return self._penalties.apply(logits, sequences)

    def _biases(self, sequences: list[Sequence]) -> tuple[list[int], list[int], list[float]]:
        """logit_bias, and the end tokens that are not allowed yet, as (row, token, value)."""
        rows: list[int] = []
        ids: list[int] = []
        values: list[float] = []
        for row, sequence in enumerate(sequences):
            biases: Iterable[tuple[int, float]] = sequence.generation.sampling.logit_bias.items()
            stopping = sequence.generation.stopping
            if sequence.num_sampled < stopping.min_tokens:
                ends = {*self._eos_ids, *stopping.stop_token_ids}
                # an excluded end is excluded, whatever its bias
                biases = [b for b in biases if b[0] not in ends]
                biases = [*biases, *((token, -float("inf")) for token in ends)]
            for token, value in biases:
                rows.append(row)
                ids.append(token)
                values.append(value)
        return rows, ids, values


def _choose(logits: mx.array, sequences: list[Sequence]) -> tuple[mx.array, mx.array]:
    """Tokens [n] and whether their logits were finite [n]."""
    greedy = [i for i, s in enumerate(sequences) if s.generation.sampling.is_greedy]
    if len(greedy) == len(sequences):
        return _greedy(logits)
    random = [i for i, s in enumerate(sequences) if not s.generation.sampling.is_greedy]
    if not greedy:
        return _random(logits, sequences)
    first = _greedy(logits[mx.array(greedy)])
    second = _random(logits[mx.array(random)], [sequences[i] for i in random])
    order = [*greedy, *random]
    back = mx.array(sorted(range(len(order)), key=order.__getitem__))
    tokens, finite = (mx.concatenate(list(pair))[back] for pair in zip(first, second, strict=True))
    return tokens, finite


def _greedy(logits: mx.array) -> tuple[mx.array, mx.array]:
    tokens = mx.argmax(logits, axis=-1)
    best = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return tokens.astype(mx.int32), mx.isfinite(best)


def _random(logits: mx.array, sequences: list[Sequence]) -> tuple[mx.array, mx.array]:
    samplings = [sequence.generation.sampling for sequence in sequences]
    temperatures = mx.array([max(s.temperature, LOWEST_TEMPERATURE) for s in samplings])[:, None]
    weights = mx.softmax(logits.astype(mx.float32) / temperatures, axis=-1)
    weights = keep_likely(
        weights,
        [s.top_k for s in samplings],
        [s.top_p for s in samplings],
        [s.min_p for s in samplings],
    )
    cumulative = mx.cumsum(weights, axis=-1)
    total = cumulative[:, -1:]
    points = mx.array([uniform_of(sequence) for sequence in sequences])[:, None]
    tokens = mx.sum(cumulative <= points * total, axis=-1)
    # a point next to 1 may round up to the total itself
    tokens = mx.minimum(tokens, logits.shape[-1] - 1)
    return tokens.astype(mx.int32), mx.isfinite(total[:, 0])


def keep_likely(
    weights: mx.array, top_k: list[int], top_p: list[float], min_p: list[float]
) -> mx.array:
    """Zero what top_k, then top_p, then min_p exclude; tokens as likely as the last kept stay.

    ``weights`` [n, vocab] are probabilities. Each parameter has one value a row: 0, 1.0 and 0.0
    mean no limit.
    """
    vocab = weights.shape[-1]
    limits = [k if 0 < k < vocab else vocab for k in top_k]
    if min(limits) < vocab:
        weights = mx.where(weights >= _kth_largest(weights, limits), weights, 0.0)
    if min(top_p) < 1.0:
        weights = mx.where(weights >= _nucleus_edge(weights, top_p, limits), weights, 0.0)
    if max(min_p) > 0.0:
        edge = mx.array(min_p)[:, None] * mx.max(weights, axis=-1, keepdims=True)
        weights = mx.where(weights >= edge, weights, 0.0)
    return weights


def _kth_largest(weights: mx.array, limits: list[int]) -> mx.array:
    """The ``limits[i]``-th largest weight of row i, or 0 where that is no limit: [n, 1]."""
    vocab = weights.shape[-1]
    widest = max(limit for limit in limits if limit < vocab)
    descending = -mx.sort(-mx.topk(weights, widest, axis=-1), axis=-1)
    places = mx.array([min(limit, widest) - 1 for limit in limits])[:, None]
    edge = mx.take_along_axis(descending, places, axis=-1)
    unlimited = mx.array([limit == vocab for limit in limits])[:, None]
    return mx.where(unlimited, 0.0, edge)


def _nucleus_edge(weights: mx.array, top_p: list[float], limits: list[int]) -> mx.array:
    """The weight of the last token of each row's nucleus, or 0 where top_p is 1: [n, 1]."""
    width = max(limits)
    likely = weights if width == weights.shape[-1] else mx.topk(weights, width, axis=-1)
    descending = -mx.sort(-likely, axis=-1)
    cumulative = mx.cumsum(descending, axis=-1)
    share = mx.array(top_p)[:, None]
    # of the whole row: tokens that tie with the last of top_k may stand beyond ``width``
    total = mx.sum(weights, axis=-1, keepdims=True)
    before = mx.sum(cumulative < share * total, axis=-1, keepdims=True)
    edge = mx.take_along_axis(descending, mx.minimum(before, width - 1), axis=-1)
    return mx.where(share >= 1.0, 0.0, edge)


def uniform_of(sequence: Sequence) -> float:
    """The number in [0, 1) that decides this sequence's next token; 24 bits, as a float32 holds."""
    stream = _mix(sequence.seed ^ _mix(sequence.generation.choice))
    return (_mix(stream ^ _mix(sequence.num_sampled)) >> 40) / (1 << 24)


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): 64 bits in, 64 well mixed bits out."""
    value = (value + 0x9E3779B97F4A7C15) & MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)


def _logprobs(logits: mx.array, tokens: mx.array, sequences: list[Sequence]) -> LogprobRows | None:
    """Of the model's own distribution, before any sampling parameter; only for rows that asked."""
    rows = [i for i, s in enumerate(sequences) if s.generation.top_logprobs is not None]
    if not rows:
        return None
    count = max(sequences[i].generation.top_logprobs or 0 for i in rows)
    place = mx.array(rows)
    return score_tokens(logits[place], tokens[place], count, rows)


def score_tokens(logits: mx.array, tokens: mx.array, count: int, rows: list[int]) -> LogprobRows:
    """Logprobs of ``tokens`` [m] under ``logits`` [m, vocab], and the ``count`` best in order."""
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[:, None].astype(mx.int32), axis=-1)[:, 0]
    if count == 0:
        none = mx.zeros((len(rows), 0))
        return LogprobRows(rows, chosen, none.astype(mx.int32), none)
    count = min(count, logits.shape[-1])
    near = mx.argpartition(-logprobs, count - 1, axis=-1)[:, :count]
    values = mx.take_along_axis(logprobs, near, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return LogprobRows(
        rows,
        chosen,
        mx.take_along_axis(near, order, axis=-1).astype(mx.int32),
        mx.take_along_axis(values, order, axis=-1),
    )
