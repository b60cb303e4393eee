"""The engine's loop on the test's own thread, over a runner whose next token is arithmetic."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from tests.cache.pools import open_cache
from tests.fakes import ByteCodec
from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.core.card import ModelCard
from vllm_mlx.core.delta import Delta, Finished, TextDelta
from vllm_mlx.core.generation import Generation
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant
from vllm_mlx.engine.loop import EngineLoop, Launched
from vllm_mlx.engine.mailbox import Abort, Inbox, Letter, Outbox, Submit
from vllm_mlx.engine.stream import EngineStream
from vllm_mlx.errors import VllmMlxError
from vllm_mlx.runner.base import Loaded, Unread
from vllm_mlx.scheduler.continuous import ContinuousScheduler
from vllm_mlx.scheduler.cost import StepCost

VOCAB = 41
EOS = 40
LEAN = 9.0
Guilt = Callable[[Grant], bool]


def next_token(token: int, position: int) -> int:
    """What follows ``token`` at ``position``; never the end token."""
    return (token * 5 + position * 3 + 1) % EOS


def chain(prompt: tuple[int, ...], count: int) -> list[int]:
    """The greedy continuation."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens[-1], len(tokens) - 1))
    return tokens[len(prompt) :]


class ScriptedRunner:
    """Keeps the tokens it was given in "blocks", and answers from what it finds there."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.raises: Guilt = lambda grant: False
        self.spoils: Guilt = lambda grant: False  # logits that are not numbers
        self.steps: list[list[Grant]] = []
        self.unread_steps = 0
        self.forgotten: list[int] = []
        self.scrubbed: list[int] = []
        self.trimmed: list[int] = []
        self.resets = 0

    def forward(self, grants: list[Grant], unread: Unread | None) -> mx.array:
        self.steps.append(grants)
        for grant in grants:
            if self.raises(grant):
                raise RuntimeError("this row breaks the step")
        rows = [self._row(grant, place, unread) for grant in grants for place in _wanted(grant)]
        return mx.stack(rows) if rows else mx.zeros((0, VOCAB))

    def _row(self, grant: Grant, place: int, unread: Unread | None) -> mx.array:
        sequence = grant.sequence
        assert len(sequence.block_ids) * self.block_tokens > place
        if sequence.has_unread_token and place == sequence.length - 1:
            assert unread is not None
            self.unread_steps += 1
            token = unread.tokens[unread.index[sequence.number]]
        else:
            token = mx.array(sequence.token_at(place))
        chosen = (token * 5 + place * 3 + 1) % EOS
        row = mx.where(mx.arange(VOCAB) == chosen, LEAN, 0.0)
        return row * mx.array(float("nan")) if self.spoils(grant) else row

    def state(self) -> list[mx.array]:
        return []

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence.number)

    def reset(self) -> None:
        self.resets += 1

    def scrub(self, block_ids: list[int]) -> None:
        self.scrubbed += block_ids

    def trim(self, extent_blocks: int) -> None:
        self.trimmed.append(extent_blocks)

    @property
    def allocated_bytes(self) -> int:
        return 0


def _wanted(grant: Grant) -> range:
    return range(grant.end - grant.num_logits, grant.end)


class SameThread:
    """Stands for the event loop: what it is asked to call it calls."""

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> None:
        callback(*args)


class FailingLoop(EngineLoop):
    """Reading a step's results fails while one of the guilty is in it."""

    fails: Guilt = staticmethod(lambda grant: False)

    def _emit(self, launched: Launched) -> None:
        if any(self.fails(grant) for grant in launched.plan.grants):
            raise RuntimeError("the evaluation failed")
        super()._emit(launched)


class HastyInbox(Inbox):
    """Writes down how long it was to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def take_all(self, wait_seconds: float) -> list[Letter]:
        self.waits.append(wait_seconds)
        return super().take_all(0)


class Bench:
    """Everything a loop needs, and what its streams said."""

    def __init__(
        self,
        pool_tokens: int = 1024,
        kind: type[NoCache] = PagedCache,
        mode: Any = "token_rows",
        **scheduling: Any,
    ) -> None:
        options: dict[str, Any] = {
            "max_running": 8,
            "max_waiting": 100,
            "step_tokens": 256,
            "prefill_chunk_tokens": 64,
            "stretch": 2.0,
            "target_itl_ms": None,
        }
        self.kv = open_cache(kind, pool_tokens)
        self.runner = ScriptedRunner(self.kv.block_tokens)
        self.inbox = HastyInbox()
        card = ModelCard(
            id="scripted",
            created=0,
            architecture="scripted",
            mode=mode,
            mode_reason="",
            dtype="float32",
            context_tokens=pool_tokens,
            vocab_tokens=VOCAB,
            weights_bytes=0,
            kv_bytes_per_token=1024,
            eos_token_ids=(EOS,),
        )
        table = [bytes([65 + i]) for i in range(VOCAB)]
        loaded = Loaded(self.runner, ByteCodec(), card, table, frozenset({EOS}))
        self.loop = FailingLoop(
            loaded,
            ContinuousScheduler(**{**options, **scheduling}),
            self.kv,
            self.inbox,
            Outbox(SameThread()),  # type: ignore[arg-type]
            StepCost(),
        )
        self.streams: list[EngineStream] = []
        self.sequences: list[Sequence] = []
        self.heard: list[list[Delta]] = []
        self.failures: dict[int, Exception] = {}

    def submit(self, generation: Generation) -> int:
        number = len(self.streams)
        limit = generation.stopping.max_tokens
        sequence = Sequence(generation, number, 16 if limit is None else limit)
        stream = EngineStream(number, lambda which: self.inbox.post(Abort(which)))
        self.inbox.post(Submit(sequence, stream))
        self.streams.append(stream)
        self.sequences.append(sequence)
        self.heard.append([])
        return number

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.step()
            self.listen()

    def listen(self) -> None:
        for number, stream in enumerate(self.streams):
            self.heard[number] += stream.take_ready()
            pending = stream._ready
            if pending and isinstance(pending[0], VllmMlxError):
                self.failures[number] = pending.popleft()  # type: ignore[assignment]

    def run(self, most_steps: int = 2000) -> None:
        """Until nobody is left."""
        for _ in range(most_steps):
            if self.loop.num_members == 0 and self.inbox.num_letters == 0:
                self.step()  # what is in flight
                return
            self.step()
        raise AssertionError("somebody starves")

    def tokens(self, number: int) -> list[int]:
        heard = self.heard[number]
        return [i for delta in heard if isinstance(delta, TextDelta) for i in delta.token_ids]

    def end(self, number: int) -> Finished:
        last = self.heard[number][-1]
        assert isinstance(last, Finished)
        assert sum(isinstance(delta, Finished) for delta in self.heard[number]) == 1
        return last
