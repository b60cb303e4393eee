"""What is asked of the engine, without any vendor's vocabulary. How it is computed is not here."""

from msgspec import Struct, field


class Sampling(Struct, frozen=True, kw_only=True):
    """How one token is chosen from its logits; every field is per sequence.

    The order is: logit_bias, repetition, presence and frequency penalties, temperature, top_k,
    top_p, min_p. ``temperature == 0`` means greedy.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)  # token id -> added to its logit
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )


class Stopping(Struct, frozen=True, kw_only=True):
    """When a sequence ends."""

    max_tokens: int | None = None  # None: up to the end of the context
    min_tokens: int = 0  # no end token and no stop string before so many
    stop: tuple[str, ...] = ()  # never part of the output
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


class Generation(Struct, frozen=True, kw_only=True):
    """One prompt and how to continue it. ``n`` choices are n generations."""

    id: str  # the caller's request id, for logs and abort
    prompt_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    stopping: Stopping = field(default_factory=Stopping)
    choice: int = 0  # which of the n choices; part of the seed
    priority: int = 0  # lower runs first, as in vLLM
    top_logprobs: int | None = None  # None: no logprobs asked; 0: the chosen token only
    prompt_logprobs: int | None = None  # the same for prompt tokens; needs no decoding
    skip_special_tokens: bool = True
