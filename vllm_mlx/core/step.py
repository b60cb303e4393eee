"""What one step computes: grants of tokens to sequences. A plan is data; it touches no array."""

from msgspec import Struct

from vllm_mlx.core.sequence import Sequence


class Grant(Struct, frozen=True):
    """``count`` tokens of one sequence from position ``start``, to be computed in this step.

    ``samples``: the last of them is followed by a sampled token. ``scores``: every one of them
    needs its logits (prompt logprobs).
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    scores: bool = False

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def is_decode(self) -> bool:
        """Its one token is the last sampled one; as true after the launch as before it."""
        is_output = self.start >= self.sequence.prompt_tokens
        return self.count == 1 and self.samples and is_output

    @property
    def num_logits(self) -> int:
        return self.count if self.scores else int(self.samples)


class StepPlan(Struct, frozen=True):
    """``preempted`` lost their blocks and are back in the queue; ``grants`` may be empty."""

    grants: list[Grant]
    preempted: list[Sequence]
    num_decode: int = 0
    prefill_tokens: int = 0
