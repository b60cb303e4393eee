"""The step: take mail, plan, launch, collect the step before, emit. Runs on the engine thread.

A step is launched before the tokens of the one before it are read, so the device never waits for
Python; what ends at a token read late has one row computed for nothing.
"""

import logging
import time
from typing import Any

import mlx.core as mx
from msgspec import Struct

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.delta import Delta, Finished
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant, StepPlan
from vllm_mlx.engine.detokenize import TokenText
from vllm_mlx.engine.mailbox import Abort, Drain, Inbox, Letter, Outbox, Submit
from vllm_mlx.engine.output import OutputPipe, RawLogprob
from vllm_mlx.engine.sampling import LogprobRows, Sampled, Sampler, score_tokens
from vllm_mlx.engine.stream import EngineStream
from vllm_mlx.errors import EngineStopped, GenerationFailed, VllmMlxError
from vllm_mlx.runner.base import Loaded, Unread
from vllm_mlx.scheduler.base import Scheduler
from vllm_mlx.scheduler.cost import StepCost
from vllm_mlx.scheduler.waiting import WaitingQueue

IDLE_WAIT_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Launched(Struct, frozen=True):
    """A step on its way through the device."""

    plan: StepPlan
    sampled: Sampled | None
    sampling: list[Sequence]  # one per row of ``sampled``
    scored: list[tuple[Grant, LogprobRows]]
    at: float


class Counters:
    """Totals since start; written by the engine thread, read by anyone."""

    def __init__(self) -> None:
        self.steps = 0
        self.preemptions = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0


class Running(Struct):
    """A sequence beside the objects that carry its output."""

    sequence: Sequence
    stream: EngineStream
    pipe: OutputPipe


class EngineLoop:
    """One model's loop; every method runs on the thread that loaded the model."""

    def __init__(
        self,
        loaded: Loaded,
        scheduler: Scheduler,
        kv: KvCache,
        inbox: Inbox,
        outbox: Outbox,
        cost: StepCost,
    ) -> None:
        self._runner, self._scheduler, self._kv = loaded.runner, scheduler, kv
        self._inbox, self._outbox, self._cost = inbox, outbox, cost
        self._eos_ids = loaded.card.eos_token_ids
        self._table = TokenText(loaded.token_bytes, loaded.special_ids)
        self._shares_prefixes = loaded.card.mode != "rows"
        self._sampler = Sampler(loaded.card.vocab_tokens, self._eos_ids)
        self._members: dict[int, Running] = {}
        self._running: list[Sequence] = []
        self._waiting = WaitingQueue()
        self._in_flight: Launched | None = None
        self._collected_at = 0.0
        self._deadline: float | None = None
        self.counters = Counters()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_members(self) -> int:
        """Running and waiting."""
        return len(self._members)

    @property
    def used_blocks(self) -> int:
        return self._kv.stats.used_blocks

    def run(self) -> None:
        """Until a Drain is done."""
        while not self._is_drained():
            self.step()

    def step(self) -> None:
        self._take_mail()
        launched = self._launch(self._plan())
        previous, self._in_flight = self._in_flight, launched
        if previous is not None:
            self._collect(previous)
        self._outbox.flush()

    def end(self, reason: VllmMlxError) -> None:
        """Tell everybody who still waits."""
        for letter in self._inbox.take_all(0):
            if isinstance(letter, Submit):
                self._outbox.put(letter.stream, [reason])
        for number in list(self._members):
            self._fail(self._members[number].sequence, reason)
        self._outbox.flush()

    # -- mail

    def _take_mail(self) -> None:
        idle = not self._members and self._in_flight is None
        if idle:
            self._runner.trim(self._kv.extent_blocks())
        blocked = not idle and not self._running and self._in_flight is None
        wait = IDLE_WAIT_SECONDS if idle else 0.01 if blocked and self._is_stuck() else 0.0
        for letter in self._inbox.take_all(wait):
            self._read(letter)

    def _is_stuck(self) -> bool:
        """Nothing runs and the first in the queue could not be admitted: wait for mail a little."""
        return self.counters.steps > 0 and len(self._waiting) > 0

    def _read(self, letter: Letter) -> None:
        match letter:
            case Submit(sequence, stream):
                pipe = OutputPipe(sequence, self._table, frozenset(self._eos_ids))
                self._members[sequence.number] = Running(sequence, stream, pipe)
                self._waiting.add(sequence)
            case Abort(number):
                if number in self._members:
                    self._leave(self._members[number].sequence)
            case Drain(deadline):
                self._deadline = deadline

    def _is_drained(self) -> bool:
        if self._deadline is None:
            return False
        if time.monotonic() > self._deadline:
            self.end(EngineStopped("the server is shutting down"))
        return not self._members

    # -- launch

    def _plan(self) -> StepPlan:
        plan = self._scheduler.plan(self._running, self._waiting, self._kv, self._cost)
        for sequence in plan.preempted:
            self._runner.forget(sequence)
            self._sampler.forget(sequence)
        self.counters.preemptions += len(plan.preempted)
        return plan

    def _launch(self, plan: StepPlan) -> Launched | None:
        if not plan.grants:
            return None
        started = time.perf_counter()
        try:
            launched = self._compute(plan, started)
        except Exception as error:  # of any kind: it must not reach sequences that are not in it
            self._recover(error, [grant.sequence for grant in plan.grants])
            return None
        self.counters.steps += 1
        return launched

    def _compute(self, plan: StepPlan, started: float) -> Launched:
        logits = self._runner.forward(plan.grants, self._unread())
        sampling, scored, arrays = [], [], self._runner.state()
        sample_rows, row = [], 0
        for grant in plan.grants:
            if grant.scores:
                scored += self._score(grant, logits[row : row + grant.count])
            row += grant.num_logits
            if grant.samples:
                sampling.append(grant.sequence)
                sample_rows.append(row - 1)
        sampled = None
        if sampling:
            wanted = logits if len(sample_rows) == row else logits[mx.array(sample_rows)]
            sampled = self._sampler.sample(wanted, sampling)
            arrays = [*sampled.arrays(), *arrays]
        for _, rows in scored:
            arrays += [rows.chosen, rows.best_ids, rows.best]
        mx.async_eval(arrays)  # type: ignore[no-untyped-call]
        for grant in plan.grants:
            grant.sequence.computed_tokens = grant.end
            grant.sequence.num_sampled += int(grant.samples)
        return Launched(plan, sampled, sampling, scored, started)

    def _unread(self) -> Unread | None:
        flying = self._in_flight
        if flying is None or flying.sampled is None:
            return None
        index = {sequence.number: i for i, sequence in enumerate(flying.sampling)}
        return Unread(flying.sampled.tokens, index)

    @staticmethod
    def _score(grant: Grant, logits: mx.array) -> list[tuple[Grant, LogprobRows]]:
        """Logprobs of the prompt tokens that follow the grant's tokens."""
        sequence = grant.sequence
        end = min(grant.end, sequence.prompt_tokens - 1)
        if end <= grant.start:
            return []
        targets = mx.array(sequence.tokens_between(grant.start + 1, end + 1))
        rows = list(range(end - grant.start))
        count = sequence.generation.prompt_logprobs or 0
        return [(grant, score_tokens(logits[: len(rows)], targets, count, rows))]

    # -- collect

    def _collect(self, launched: Launched) -> None:
        try:
            self._emit(launched)
        except Exception as error:  # an evaluation failed: whose fault it was is found out alone
            self._recover(error, [grant.sequence for grant in launched.plan.grants])
            return
        now = time.perf_counter()
        since = max(launched.at, self._collected_at)
        self._collected_at = now
        self._cost.observe(launched.plan.num_decode, launched.plan.prefill_tokens, now - since)

    def _emit(self, launched: Launched) -> None:
        """Read the step's results (this waits for the device) and hand them to their streams."""
        sampled = launched.sampled
        tokens: Any = sampled.tokens.tolist() if sampled else []
        finite: Any = sampled.finite.tolist() if sampled else []
        if sampled is None:
            mx.eval(self._runner.state())
        raws = _raw_logprobs(sampled.logprobs, len(tokens)) if sampled else []
        for grant, rows in launched.scored:
            self._emit_scores(grant, rows)
        for grant in launched.plan.grants:
            self._after_prefill(grant)
        for sequence, token, is_finite, raw in zip(
            launched.sampling, tokens, finite, raws, strict=True
        ):
            self._emit_token(sequence, token, is_finite, raw)

    def _emit_token(
        self, sequence: Sequence, token: int, is_finite: bool, raw: RawLogprob | None
    ) -> None:
        member = self._members.get(sequence.number)
        if member is None:  # ended or left while this row was computed
            return
        if not is_finite:
            self._fail_nan(sequence)
            return
        sequence.output_ids.append(token)
        if sequence.state == "waiting":  # preempted after this token was launched
            sequence.num_sampled = len(sequence.output_ids)
        sequence.is_suspect = False
        self.counters.completion_tokens += 1
        if len(sequence.output_ids) == 1:
            self.counters.prompt_tokens += sequence.prompt_tokens
        self._put(member, member.pipe.accept(token, raw))

    def _emit_scores(self, grant: Grant, rows: LogprobRows) -> None:
        member = self._members.get(grant.sequence.number)
        if member is not None:
            raws = _raw_logprobs(rows, len(rows.rows))
            scores = [raw for raw in raws if raw is not None]
            self._put(member, member.pipe.accept_prompt(grant.start + 1, scores))

    def _after_prefill(self, grant: Grant) -> None:
        """The prompt is complete: share it; and end where nothing is to be generated."""
        sequence = grant.sequence
        member = self._members.get(sequence.number)
        if grant.is_decode or member is None or sequence.state != "running":
            return
        if self._shares_prefixes and grant.end >= sequence.prompt_tokens:
            self._kv.commit(sequence)
        if sequence.scores_prompt and sequence.prompt_tokens == 1:  # nothing predicts it
            self._put(member, member.pipe.accept_prompt(1, []))
        if sequence.max_tokens == 0 and grant.end == sequence.prompt_tokens:
            self._put(member, member.pipe.end_unsampled())

    def _put(self, member: Running, deltas: list[Delta]) -> None:
        if not deltas:
            return
        self._outbox.put(member.stream, list(deltas))
        if isinstance(deltas[-1], Finished):
            if self._shares_prefixes and member.sequence.state == "running":
                self._kv.commit(member.sequence)
            self._leave(member.sequence)

    # -- ends

    def _leave(self, sequence: Sequence) -> list[int]:
        """Forget a sequence, wherever it is; returns the blocks that became free."""
        del self._members[sequence.number]
        if sequence.state == "waiting":
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
        sequence.state = "finished"
        freed = self._kv.release(sequence)
        self._runner.forget(sequence)
        self._sampler.forget(sequence)
        return freed

    def _fail(self, sequence: Sequence, reason: VllmMlxError) -> list[int]:
        self._outbox.put(self._members[sequence.number].stream, [reason])
        return self._leave(sequence)

    def _fail_nan(self, sequence: Sequence) -> None:
        logger.error("request %s: logits are not numbers", sequence.generation.id)
        freed = self._fail(sequence, GenerationFailed("the model's logits are not numbers (NaN)"))
        self._runner.scrub(freed)

    def _recover(self, error: Exception, involved: list[Sequence]) -> None:
        """A step failed as a whole. Alone in it means guilty; others start over, suspects alone.

        Keys and values are dropped, since a failed evaluation leaves no array to trust; every
        token that was read stays, so nobody sees a difference but time.
        """
        logger.error("a step of %d sequences failed", len(involved), exc_info=error)
        self._in_flight = None
        present = [s for s in involved if s.number in self._members]
        if len(present) == 1:
            failure = GenerationFailed(f"this request failed: {type(error).__name__}: {error}")
            self._fail(present[0], failure)
            present = []
        for sequence in list(self._running):
            self._kv.release(sequence)
            self._runner.forget(sequence)
            self._sampler.forget(sequence)
            sequence.rewind()
            sequence.is_suspect = sequence.is_suspect or sequence in present
            self._running.remove(sequence)
            self._waiting.add(sequence)
        self._kv.clear()
        self._runner.reset()


def _raw_logprobs(rows: LogprobRows | None, count: int) -> list[RawLogprob | None]:
    """By row of the step: None for those that did not ask."""
    raws: list[RawLogprob | None] = [None] * count
    if rows is not None:
        chosen: Any = rows.chosen.tolist()
        ids: Any = rows.best_ids.tolist()
        best: Any = rows.best.tolist()
        for i, row in enumerate(rows.rows):
            raws[row] = RawLogprob(chosen[i], ids[i], best[i])
    return raws
