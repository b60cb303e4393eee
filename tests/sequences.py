"""Sequences as the engine makes them, for tests of the rooms that only see sequences."""

from collections.abc import Sequence as Items
from typing import Any

from vllm_mlx.core.generation import Generation, Sampling, Stopping
from vllm_mlx.core.sequence import Sequence

GREEDY = Sampling(temperature=0.0)


def make_sequence(
    prompt: Items[int] = (1, 2, 3),
    *,
    number: int = 0,
    max_tokens: int = 16,
    outputs: Items[int] = (),
    sampling: Sampling = GREEDY,
    stopping: Stopping | None = None,
    **more: Any,
) -> Sequence:
    """``outputs`` were sampled and read; ``more`` are fields of Generation."""
    generation = Generation(
        id=f"request-{number}",
        prompt_ids=tuple(prompt),
        sampling=sampling,
        stopping=stopping if stopping is not None else Stopping(max_tokens=max_tokens),
        **more,
    )
    sequence = Sequence(generation, number, max_tokens)
    sequence.output_ids = list(outputs)
    sequence.num_sampled = len(outputs)
    return sequence
