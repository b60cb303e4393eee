"""Sequence: one Generation while it runs. Host integers only, shared by several rooms."""

import secrets
from typing import Literal

from vllm_mlx.core.generation import Generation

SequenceState = Literal["waiting", "running", "finished"]


class Sequence:
    """What has been asked, what has been computed, and which blocks hold it.

    ``length`` counts the prompt and every sampled token, also one still on the device;
    ``computed_tokens`` counts positions whose keys and values are in the cache or in a launched
    step. A sequence decodes when exactly its last sampled token is left to compute.

        |<-- cached_tokens -->|                                  prefill saved by the prefix cache
        |<-------- computed_tokens -------->|<-- remaining -->|
        |<---------- prompt ---------->|<---- sampled ------->|  length
    """

    def __init__(self, generation: Generation, number: int, max_tokens: int) -> None:
        self.generation = generation
        self.number = number  # order of arrival; unique
        self.max_tokens = max_tokens  # capped to the context
        given = generation.sampling.seed
        self.seed = secrets.randbits(64) if given is None else given
        self.state: SequenceState = "waiting"
        self.output_ids: list[int] = []  # read back from the device
        self.num_sampled = 0  # launched, read or not
        self.computed_tokens = 0
        self.cached_tokens = 0
        self.block_ids: list[int] = []
        self.num_preemptions = 0
        self.is_suspect = False  # runs alone after an unexplained failure

    @property
    def prompt_tokens(self) -> int:
        return len(self.generation.prompt_ids)

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.num_sampled

    @property
    def remaining_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return self.length - self.computed_tokens

    @property
    def is_decoding(self) -> bool:
        return self.num_sampled > 0 and self.remaining_tokens == 1

    @property
    def has_unread_token(self) -> bool:
        return self.num_sampled > len(self.output_ids)

    @property
    def can_sample_more(self) -> bool:
        return self.num_sampled < self.max_tokens

    @property
    def scores_prompt(self) -> bool:
        return self.generation.prompt_logprobs is not None

    @property
    def is_reproducible(self) -> bool:
        """A seed was given: the same tokens are promised alone and in any company."""
        return self.generation.sampling.seed is not None

    @property
    def order(self) -> tuple[int, int]:
        """Who runs first: priority (lower first), then arrival."""
        return (self.generation.priority, self.number)

    def token_at(self, position: int) -> int:
        """The token at ``position``; it must have been read."""
        prompt = self.generation.prompt_ids
        if position < len(prompt):
            return prompt[position]
        return self.output_ids[position - len(prompt)]

    def tokens_between(self, start: int, end: int) -> list[int]:
        """Tokens at positions ``start`` to ``end - 1``; all must have been read."""
        prompt = self.generation.prompt_ids
        split = len(prompt)
        if end <= split:
            return list(prompt[start:end])
        head = list(prompt[start:split]) if start < split else []
        return head + self.output_ids[max(0, start - split) : end - split]

    def rewind(self) -> None:
        """Back to the queue: everything read stays, everything computed is computed again."""
        self.num_sampled = len(self.output_ids)
        self.computed_tokens = 0
        self.state = "waiting"
