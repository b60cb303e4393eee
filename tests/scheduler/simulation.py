"""The engine's loop without a model: pipelined by one step, and every promise checked."""

from vllm_mlx.cache.none import NoCache
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import StepPlan
from vllm_mlx.scheduler.base import Scheduler
from vllm_mlx.scheduler.cost import StepCost
from vllm_mlx.scheduler.waiting import WaitingQueue


class SimulatedEngine:
    """Does to sequences and cache what ``engine.loop`` does; samples token 7."""

    def __init__(self, scheduler: Scheduler, kv: NoCache, cost: StepCost | None = None) -> None:
        self.scheduler, self.kv = scheduler, kv
        self.cost = StepCost() if cost is None else cost
        self.running: list[Sequence] = []
        self.waiting = WaitingQueue()
        self.members: set[Sequence] = set()
        self.finished: list[Sequence] = []
        self._in_flight: StepPlan | None = None

    def arrive(self, sequence: Sequence) -> None:
        self.members.add(sequence)
        self.waiting.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        if sequence in self.members:
            self._leave(sequence)

    def step(self) -> StepPlan:
        plan = self.scheduler.plan(self.running, self.waiting, self.kv, self.cost)
        self._check(plan)
        for grant in plan.grants:
            grant.sequence.computed_tokens = grant.end
            grant.sequence.num_sampled += int(grant.samples)
        previous, self._in_flight = self._in_flight, plan
        if previous is not None:
            self._collect(previous)
        return plan

    def fail(self) -> None:
        """A step failed as a whole: everybody starts over, who was in it as a suspect."""
        involved = [] if self._in_flight is None else [g.sequence for g in self._in_flight.grants]
        self._in_flight = None
        for sequence in list(self.running):
            self.kv.release(sequence)
            sequence.rewind()
            sequence.is_suspect = sequence.is_suspect or sequence in involved
            self.running.remove(sequence)
            self.waiting.add(sequence)
        self.kv.clear()

    def _collect(self, plan: StepPlan) -> None:
        for grant in plan.grants:
            sequence = grant.sequence
            if sequence not in self.members or not grant.samples:
                continue
            if sequence.state == "running" and not grant.is_decode:
                self.kv.commit(sequence)
            sequence.output_ids.append(7)
            sequence.is_suspect = False
            if sequence.state == "waiting":
                sequence.num_sampled = len(sequence.output_ids)
            if len(sequence.output_ids) >= sequence.max_tokens:
                self._leave(sequence)
                self.finished.append(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.members.remove(sequence)
        if sequence.state == "waiting":
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
        sequence.state = "finished"
        self.kv.release(sequence)

    def _check(self, plan: StepPlan) -> None:
        granted = [grant.sequence for grant in plan.grants]
        assert len(set(granted)) == len(granted)
        assert set(granted) <= set(self.running)
        assert not set(plan.preempted) & set(granted)
        assert len(self.running) <= self.scheduler.max_running
        assert set(self.running) | set(self.waiting) == self.members
        for sequence in self.waiting:
            assert sequence.state == "waiting"
            assert sequence.block_ids == []
            assert sequence.computed_tokens == 0
        for grant in plan.grants:
            sequence = grant.sequence
            assert sequence.state == "running"
            assert grant.count > 0
            assert grant.start == sequence.computed_tokens
            assert grant.end <= sequence.length
            if grant.samples:
                assert grant.end == sequence.length
                assert sequence.num_sampled < sequence.max_tokens
            assert len(sequence.block_ids) * self.kv.block_tokens >= grant.end
            if not grant.is_decode:  # its tokens come from the host
                assert not sequence.has_unread_token
        decodes = [s for s in self.running if s.is_decoding and s.can_sample_more]
        if not any(sequence.is_suspect for sequence in self.running) and plan.prefill_tokens:
            assert set(decodes) <= set(granted)  # before anybody's prompt
        assert plan.num_decode + plan.prefill_tokens == sum(g.count for g in plan.grants)
        self._check_blocks()

    def _check_blocks(self) -> None:
        held = {block for sequence in self.running for block in sequence.block_ids}
        stats = self.kv.stats
        assert stats.used_blocks == len(held) <= stats.capacity_blocks
        for one in self.running:
            for other in self.running:
                if one is not other:
                    self._check_shared(one, other)

    def _check_shared(self, one: Sequence, other: Sequence) -> None:
        """What two sequences share stands at the same place, after the same tokens."""
        size = self.kv.block_tokens
        for block in set(one.block_ids) & set(other.block_ids):
            place = one.block_ids.index(block)
            assert other.block_ids[place] == block
            end = (place + 1) * size
            assert one.tokens_between(0, end) == other.tokens_between(0, end)
