"""One row at a time, in numpy and float64, straight from the definitions."""

from collections import Counter

import numpy as np

from vllm_mlx.core.sequence import Sequence

Array = np.ndarray


def adjusted(logits: Array, sequence: Sequence, eos_ids: tuple[int, ...]) -> Array:
    """After bias, forbidden ends and penalties."""
    asked, stopping = sequence.generation.sampling, sequence.generation.stopping
    row = logits.astype(np.float64)
    for token, value in asked.logit_bias.items():
        row[token] += value
    if sequence.num_sampled < stopping.min_tokens:
        row[[*eos_ids, *stopping.stop_token_ids]] = -np.inf
    said = Counter(sequence.output_ids)
    for token in {*said, *sequence.generation.prompt_ids}:
        factor = asked.repetition_penalty
        row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
    for token, count in said.items():
        row[token] -= asked.frequency_penalty * count + asked.presence_penalty
    return row


def softmax(row: Array) -> Array:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def likely(weights: Array, top_k: int, top_p: float, min_p: float) -> tuple[set[int], float]:
    """Tokens that stay, and how near (as a share) the nucleus came to another size.

    What is as likely as the last one kept stays as well.
    """
    kept = set(range(len(weights)))
    margin = 1.0
    if 0 < top_k < len(weights):
        edge = sorted(weights, reverse=True)[top_k - 1]
        margin = min(margin, _nearest(weights, edge))
        kept = {token for token in kept if weights[token] >= edge}
    if top_p < 1.0:
        total = sum(weights[token] for token in kept)
        share, edge = 0.0, 0.0
        for token in sorted(kept, key=lambda token: -weights[token]):
            edge = weights[token]
            share += weights[token] / total
            margin = min(margin, abs(share - top_p))
            if share >= top_p:
                break
        margin = min(margin, _nearest(weights, edge))
        kept = {token for token in kept if weights[token] >= edge}
    if min_p > 0.0:
        edge = min_p * max(weights)
        margin = min(margin, *(abs(weights[t] - edge) / max(weights) for t in range(len(weights))))
        kept = {token for token in kept if weights[token] >= edge}
    return kept, margin


def _nearest(weights: Array, edge: float) -> float:
    """How near a weight comes to ``edge`` without being it: in float32 the two may tie."""
    others = [abs(weight - edge) for weight in weights if weight != edge]
    return min(others, default=1.0) / max(weights)


def choose(row: Array, sequence: Sequence, point: float) -> tuple[int, float]:
    """The token, and how near the choice was to another one."""
    asked = sequence.generation.sampling
    if asked.is_greedy:
        best = np.sort(row)[::-1]
        return int(row.argmax()), float(best[0] - best[1])
    weights = softmax(row / asked.temperature)
    kept, margin = likely(weights, asked.top_k, asked.top_p, asked.min_p)
    share = np.array([w if token in kept else 0.0 for token, w in enumerate(weights)])
    cumulative = np.cumsum(share) / share.sum()
    margin = min(margin, float(np.abs(cumulative - point).min()))
    return int(np.sum(cumulative <= point)), margin
