"""Whether two runs that were to give the same tokens did, or parted at a tie.

Rounding depends on the shapes of products, so in 16 bit two computations of the same logits differ
a little. They may then choose different tokens where the best two are as good as equal, and from
there on the texts differ. ``EPSILONS`` says how nearly equal; anything else is a failure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx.core.generation import Generation, Sampling
from vllm_mlx.core.sequence import Sequence as Row
from vllm_mlx.engine.sampling import uniform_of

# Greedy: a part of the spread of the logits (their largest distance from their mean). Drawn: a
# part of the probability. The latter is lax where many tokens are about as likely: the stretch of
# each is then far shorter than epsilon. Products in TF32 round inputs to 10 bits.
EPSILONS = {"float32": 1e-4, "tf32": 5e-2, "bfloat16": 5e-2}


class Solo(NamedTuple):
    """mlx-lm's most likely tokens for one request alone, and the logits they were chosen by."""

    prompt: list[int]
    token_ids: list[int]
    logits: list[np.ndarray]  # up to a constant


@dataclass
class Tally:
    """Of requests that were to give the same tokens."""

    requests: int = 0
    same: int = 0
    parted_at: list[int] = field(default_factory=list)  # the first other token
    gaps: list[float] = field(default_factory=list)  # at that place, in the unit of EPSILONS
    failures: list[str] = field(default_factory=list)

    def add(self, place: int | None, gap: float, epsilon: float, what: str) -> None:
        self.requests += 1
        if place is None:
            self.same += 1
            return
        self.parted_at.append(place)
        self.gaps.append(gap)
        if not gap < epsilon:
            self.failures.append(f"{what}: other token {place}, gap {gap:.4f}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "same": self.same,
            "parted_at_token": self.parted_at,
            "largest_gap": max(self.gaps, default=None),
            "failures": self.failures,
        }


def solo_greedy(model: Any, prompt: Sequence[int], max_tokens: int) -> Solo:
    """One request by mlx-lm."""
    solo = Solo(list(prompt), [], [])
    for token, logprobs in generate_step(mx.array(solo.prompt), model, max_tokens=max_tokens):
        solo.token_ids.append(int(token))
        solo.logits.append(_numbers(logprobs))
    return solo


def own_noise(model: Any, solo: Solo) -> float:
    """How far mlx-lm's logits, token by token, are from its own in one call: part of the spread."""
    at_once = np.stack([_numbers(row) for row in _plain_logits(model, solo)])
    return max(
        float(np.abs(_centred(one) - _centred(other)).max() / spread(other))
        for one, other in zip(solo.logits, at_once, strict=True)
    )


def spread(logits: np.ndarray) -> float:
    return float(np.abs(logits - logits.mean()).max())


def compare_greedy(found: list[int], solo: Solo, epsilon: float, tally: Tally, what: str) -> None:
    """The gap is that between the logits of both tokens where they part, as mlx-lm sees it."""
    place = first_difference(found, solo.token_ids)
    gap = 0.0
    if place is not None:
        if place >= min(len(found), len(solo.token_ids)):
            tally.add(place, float("inf"), epsilon, f"{what} ({len(found)} tokens)")
            return
        logits = solo.logits[place]
        lead = logits[solo.token_ids[place]] - logits[found[place]]
        gap = float(lead) / spread(logits)
    tally.add(place, gap, epsilon, what)


def compare_drawn(
    model: Any,
    generation: Generation,
    alone: list[int],
    among: list[int],
    epsilon: float,
    tally: Tally,
) -> None:
    """The gap is how far the draw's number is from what would choose the one or the other token."""
    place = first_difference(alone, among)
    gap = 0.0
    if place is not None:
        if place >= min(len(alone), len(among)):
            tally.add(place, float("inf"), epsilon, f"{generation.id} (another length)")
            return
        prefix = [*generation.prompt_ids, *alone[:place]]
        logits = _numbers(model(mx.array([prefix]), cache=make_prompt_cache(model))[0, -1])
        row = Row(generation, 0, len(alone))
        row.num_sampled = place
        point = uniform_of(row)
        gap = max(
            _distance(logits, generation.sampling, point, token)
            for token in (alone[place], among[place])
        )
    tally.add(place, gap, epsilon, generation.id)


def first_difference(mine: list[int], theirs: list[int]) -> int | None:
    for place, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a != b:
            return place
    return None if len(mine) == len(theirs) else min(len(mine), len(theirs))


def _distance(logits: np.ndarray, sampling: Sampling, point: float, token: int) -> float:
    """From ``point`` to the stretch of the cumulative distribution that belongs to ``token``."""
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    cumulative = np.cumsum(weights) / weights.sum()
    low = cumulative[token - 1] if token else 0.0
    return float(max(low - point, point - cumulative[token], 0.0))


def _plain_logits(model: Any, solo: Solo) -> list[mx.array]:
    tokens = [*solo.prompt, *solo.token_ids[:-1]]
    logits: mx.array = model(mx.array([tokens]), cache=make_prompt_cache(model))[0]
    return list(logits[len(solo.prompt) - 1 :])


def _numbers(logits: mx.array) -> np.ndarray:
    return np.array(logits.astype(mx.float32))


def _centred(logits: np.ndarray) -> np.ndarray:
    """generate_step gives log-probabilities: the same but for a constant."""
    centred: np.ndarray = logits - logits.mean()
    return centred
