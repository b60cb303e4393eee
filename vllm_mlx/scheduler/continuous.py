"""``scheduler=continuous``: decode rows first, then prefill chunks, in one step."""

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant, StepPlan
from vllm_mlx.core.tiles import TILE_TOKENS
from vllm_mlx.scheduler.cost import StepCost
from vllm_mlx.scheduler.waiting import WaitingQueue

# A chunk whose every token's logits are wanted: [chunk, vocab] is what it costs in memory.
SCORING_CHUNK_TOKENS = 64


class ContinuousScheduler:
    """First come, first served within a priority; see ``scheduler.base.Scheduler``."""

    def __init__(
        self,
        max_running: int,
        max_waiting: int,
        step_tokens: int,
        prefill_chunk_tokens: int,
        stretch: float,
        target_itl_ms: float | None,
    ) -> None:
        self.max_running, self.max_waiting = max_running, max_waiting
        self._step_tokens, self._chunk_tokens = step_tokens, prefill_chunk_tokens
        self._stretch = stretch
        self._step_seconds = None if target_itl_ms is None else target_itl_ms / 1000

    def plan(
        self, running: list[Sequence], waiting: WaitingQueue, kv: KvCache, cost: StepCost
    ) -> StepPlan:
        suspect = self._find_suspect(running, waiting, kv)
        if suspect is not None:
            return self._plan_suspect(suspect, kv)
        preempted = self._secure_decodes(running, waiting, kv)
        decodes = [s for s in running if s.is_decoding and s.can_sample_more]
        decodes = decodes[: self._step_tokens]
        grants = [Grant(s, s.computed_tokens, 1, samples=True) for s in decodes]
        budget = self._prefill_budget(len(decodes), cost)
        prefills = self._grant_prefills(running, budget)
        budget -= sum(grant.count for grant in prefills)
        if not preempted:  # what was taken back is not given away in the same step
            prefills += self._admit(running, waiting, kv, budget)
        return StepPlan(
            [*grants, *prefills], preempted, len(grants), sum(g.count for g in prefills)
        )

    def _prefill_budget(self, num_decode: int, cost: StepCost) -> int:
        limit = cost.chunk_for(num_decode, self._step_seconds, self._stretch)
        room = self._step_tokens - num_decode
        return min(room, self._chunk_tokens if limit is None else min(limit, self._chunk_tokens))

    def _secure_decodes(
        self, running: list[Sequence], waiting: WaitingQueue, kv: KvCache
    ) -> list[Sequence]:
        """Every decoding sequence gets room for its next token; the last in order pay for it."""
        preempted: list[Sequence] = []
        for sequence in sorted(running, key=lambda s: s.order):
            if sequence in preempted or not (sequence.is_decoding and sequence.can_sample_more):
                continue
            while not kv.extend(sequence, sequence.length):
                victim = max(running, key=lambda s: s.order)
                self._preempt(victim, running, waiting, kv)
                preempted.append(victim)
                if victim is sequence:
                    break
        return preempted

    @staticmethod
    def _preempt(
        victim: Sequence, running: list[Sequence], waiting: WaitingQueue, kv: KvCache
    ) -> None:
        kv.release(victim)
        victim.rewind()
        victim.num_preemptions += 1
        running.remove(victim)
        waiting.add(victim)

    def _grant_prefills(self, running: list[Sequence], budget: int) -> list[Grant]:
        grants = []
        for sequence in sorted(running, key=lambda s: s.order):
            if sequence.is_decoding or sequence.remaining_tokens == 0:
                continue
            if budget <= 0:
                break
            grants.append(_prefill_grant(sequence, budget))
            budget -= grants[-1].count
        return grants

    def _admit(
        self, running: list[Sequence], waiting: WaitingQueue, kv: KvCache, budget: int
    ) -> list[Grant]:
        grants: list[Grant] = []
        while budget > 0:
            first = waiting.first()
            if first is None or first.is_suspect:  # a suspect is admitted to a step of its own
                break
            sequence = self._admit_first(running, waiting, kv)
            if sequence is None:
                break
            grants.append(_prefill_grant(sequence, budget))
            budget -= grants[-1].count
        return grants

    def _admit_first(
        self, running: list[Sequence], waiting: WaitingQueue, kv: KvCache
    ) -> Sequence | None:
        """Let the first of the queue run, if there is room for it."""
        sequence = waiting.first()
        if sequence is None or sequence.has_unread_token or len(running) >= self.max_running:
            return None
        kv.match(sequence)
        tokens = sequence.length + int(sequence.can_sample_more)
        # one block for each sequence that runs: admitting must not preempt in the next step
        if not kv.extend(sequence, tokens, spare_blocks=len(running)):
            kv.release(sequence)
            sequence.computed_tokens = 0
            return None
        running.append(waiting.take_first())
        sequence.state = "running"
        return sequence

    def _find_suspect(
        self, running: list[Sequence], waiting: WaitingQueue, kv: KvCache
    ) -> Sequence | None:
        """The one that runs, or else the first of the queue if it is one and can be admitted."""
        suspect = next((s for s in running if s.is_suspect), None)
        first = waiting.first()
        if suspect is None and first is not None and first.is_suspect:
            return self._admit_first(running, waiting, kv)
        return suspect

    def _plan_suspect(self, sequence: Sequence, kv: KvCache) -> StepPlan:
        """After an unexplained failure: a step for a suspect alone, in which it can only hurt
        itself. The others pause until it has a token to show."""
        if sequence.is_decoding:
            if not sequence.can_sample_more or not kv.extend(sequence, sequence.length):
                return StepPlan([], [])
            return StepPlan([Grant(sequence, sequence.computed_tokens, 1, True)], [], 1, 0)
        if sequence.remaining_tokens == 0:
            return StepPlan([], [])
        grant = _prefill_grant(sequence, self._chunk_tokens)
        return StepPlan([grant], [], 0, grant.count)


def _prefill_grant(sequence: Sequence, budget: int) -> Grant:
    """As many tokens as budget allows, ending at a tile where that is possible."""
    start, left = sequence.computed_tokens, sequence.remaining_tokens
    if sequence.scores_prompt:
        budget = min(budget, SCORING_CHUNK_TOKENS)
    end = start + min(left, max(1, budget))
    if end < start + left:
        aligned = end - end % TILE_TOKENS
        if aligned > start:
            end = aligned
        elif sequence.is_reproducible:  # its tiles are computed whole, whatever the budget
            end = min(start + left, aligned + TILE_TOKENS)
    samples = end == start + left and sequence.can_sample_more
    return Grant(sequence, start, end - start, samples=samples, scores=sequence.scores_prompt)
