"""Continuous batching, driven by an engine without a model."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.pools import open_cache
from tests.scheduler.simulation import SimulatedEngine
from tests.sequences import GREEDY, make_sequence
from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.core.generation import Sampling
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant, StepPlan
from vllm_mlx.core.tiles import TILE_TOKENS
from vllm_mlx.scheduler.continuous import SCORING_CHUNK_TOKENS, ContinuousScheduler
from vllm_mlx.scheduler.cost import StepCost

SEEDED = Sampling(temperature=1.0, seed=3)
CAPACITY_TOKENS = 256


def scheduler(**changes: Any) -> ContinuousScheduler:
    options: dict[str, Any] = {
        "max_running": 4,
        "max_waiting": 100,
        "step_tokens": 128,
        "prefill_chunk_tokens": 64,
        "stretch": 2.0,
        "target_itl_ms": None,
    }
    return ContinuousScheduler(**{**options, **changes})


class FixedCost(StepCost):
    """A machine whose chunk is known."""

    def __init__(self, chunk_tokens: int | None) -> None:
        super().__init__()
        self.chunk_tokens = chunk_tokens

    def chunk_for(self, num_decode: int, step_seconds: float | None, stretch: float) -> int | None:
        return self.chunk_tokens if num_decode else None


def prefills(plan: StepPlan) -> list[Grant]:
    return plan.grants[plan.num_decode :]


@dataclass
class Arrival:
    at_step: int
    prompt: list[int]
    max_tokens: int
    priority: int
    seeded: bool
    scored: bool
    leaves_after: int | None  # steps


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    """Prompts of two families, so that prefixes meet; each fits into the pool alone."""
    prompt_tokens = draw(st.integers(1, 200))
    family = draw(st.integers(0, 1))
    return Arrival(
        at_step=draw(st.integers(0, 20)),
        prompt=[family] * prompt_tokens,
        max_tokens=draw(st.integers(1, CAPACITY_TOKENS - prompt_tokens)),
        priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
        seeded=draw(st.booleans()),
        scored=draw(st.sampled_from([False, False, True])),
        leaves_after=draw(st.none() | st.integers(0, 30)),
    )


@given(
    load=st.lists(arrivals(), min_size=1, max_size=8),
    kind=st.sampled_from([NoCache, PagedCache]),
    max_running=st.integers(1, 5),
    chunk_tokens=st.integers(1, 150),
    more_step_tokens=st.integers(1, 100),
    cost_chunk=st.none() | st.integers(8, 100),
)
@settings(max_examples=120)
def test_everybody_finishes_within_every_limit(
    load: list[Arrival],
    kind: type[NoCache],
    max_running: int,
    chunk_tokens: int,
    more_step_tokens: int,
    cost_chunk: int | None,
) -> None:
    step_tokens = chunk_tokens + more_step_tokens
    engine = SimulatedEngine(
        scheduler(
            max_running=max_running, step_tokens=step_tokens, prefill_chunk_tokens=chunk_tokens
        ),
        open_cache(kind, CAPACITY_TOKENS),
        FixedCost(cost_chunk),
    )
    sequences = [
        make_sequence(
            arrival.prompt,
            number=number,
            max_tokens=arrival.max_tokens,
            sampling=SEEDED if arrival.seeded else GREEDY,
            priority=arrival.priority,
            prompt_logprobs=0 if arrival.scored else None,
        )
        for number, arrival in enumerate(load)
    ]
    step = 0
    while engine.members or step <= 20:
        for sequence, arrival in zip(sequences, load, strict=True):
            if arrival.at_step == step:
                engine.arrive(sequence)
            if arrival.leaves_after is not None and step == arrival.at_step + arrival.leaves_after:
                engine.abort(sequence)
        before = {s: s.computed_tokens for s in engine.running}
        waiting = list(engine.waiting)
        plan = engine.step()
        check_budget(plan, step_tokens, chunk_tokens, cost_chunk)
        check_tiles(plan)
        check_admission(plan, waiting, before)
        step += 1
        assert step < 10_000, "somebody starves"
    assert engine.kv.stats.used_blocks == 0
    for sequence, arrival in zip(sequences, load, strict=True):
        if arrival.leaves_after is None:
            assert len(sequence.output_ids) == arrival.max_tokens
    engine.kv.clear()
    assert engine.kv.extent_blocks() == 1


def check_budget(
    plan: StepPlan, step_tokens: int, chunk_tokens: int, cost_chunk: int | None
) -> None:
    """A reproducible sequence may round up to its tile; nothing else goes over."""
    chunk = chunk_tokens
    if cost_chunk is not None and plan.num_decode:
        chunk = min(chunk, cost_chunk)
    plain = [g for g in prefills(plan) if not g.sequence.is_reproducible]
    over = TILE_TOKENS - 1 if len(plain) < len(prefills(plan)) else 0
    assert plan.num_decode <= step_tokens
    assert plan.prefill_tokens <= chunk + over
    assert plan.num_decode + plan.prefill_tokens <= step_tokens + over
    for grant in prefills(plan):
        limit = min(chunk, SCORING_CHUNK_TOKENS) if grant.scores else chunk
        assert grant.count <= limit + (over if grant.sequence.is_reproducible else 0)


def check_tiles(plan: StepPlan) -> None:
    for grant in prefills(plan):
        if grant.sequence.is_reproducible:
            assert grant.start % TILE_TOKENS == 0
            assert grant.end % TILE_TOKENS == 0 or grant.samples


def check_admission(plan: StepPlan, waiting: list[Sequence], before: dict[Sequence, int]) -> None:
    """Nobody overtakes in the queue; who is taken back is last in order."""
    admitted = [g.sequence for g in plan.grants if g.sequence not in before]
    assert admitted == waiting[: len(admitted)]
    kept = [g.sequence.order for g in plan.grants[: plan.num_decode]]
    if plan.preempted:
        assert admitted == []
        assert max(kept, default=(-9, 0)) < min(s.order for s in plan.preempted)


def test_decode_rows_come_first_and_each_step() -> None:
    engine = SimulatedEngine(scheduler(), open_cache(NoCache), FixedCost(16))
    first = make_sequence([1] * 10, number=0, max_tokens=30)
    engine.arrive(first)
    engine.step()
    late = make_sequence([1] * 100, number=1, max_tokens=2)
    engine.arrive(late)
    chunks = []
    while late.num_sampled == 0:
        plan = engine.step()
        assert plan.grants[0].sequence is first  # never waits for the prompt of the other
        assert plan.grants[0].is_decode
        chunks += [grant.count for grant in prefills(plan)]
    assert sum(chunks) == 100
    assert max(chunks) <= 16


def test_several_short_prompts_share_a_step() -> None:
    engine = SimulatedEngine(scheduler(), open_cache(NoCache))
    for number in range(3):
        engine.arrive(make_sequence([1] * 20, number=number))
    assert [grant.count for grant in engine.step().grants] == [20, 20, 20]


def test_chunks_end_at_tiles_where_the_budget_allows() -> None:
    engine = SimulatedEngine(scheduler(prefill_chunk_tokens=100), open_cache(NoCache))
    engine.arrive(make_sequence([1] * 200, max_tokens=1))
    counts = []
    while engine.members:
        counts += [grant.count for grant in engine.step().grants]
    assert counts == [64, 64, 72]


def test_a_full_pool_preempts_the_last_and_brings_it_back() -> None:
    engine = SimulatedEngine(scheduler(), open_cache(NoCache, 256))
    sequences = [make_sequence([1] * 60, number=i, max_tokens=90) for i in range(3)]
    for sequence in sequences:
        engine.arrive(sequence)
    preempted: list[int] = []
    while engine.members:
        preempted += [s.number for s in engine.step().preempted]
    assert set(preempted) == {1, 2}
    assert preempted[0] == 2
    assert [s.number for s in engine.finished] == [0, 1, 2]
    assert sequences[2].num_preemptions == preempted.count(2)


def test_priority_decides_who_pays() -> None:
    engine = SimulatedEngine(scheduler(), open_cache(NoCache, 256))
    background = make_sequence([1] * 60, number=0, max_tokens=90, priority=5)
    urgent = make_sequence([1] * 60, number=1, max_tokens=90)
    engine.arrive(background)
    engine.arrive(urgent)
    while engine.members:
        engine.step()
    assert background.num_preemptions > 0
    assert urgent.num_preemptions == 0


def test_admission_leaves_a_block_for_everybody_who_runs() -> None:
    engine = SimulatedEngine(scheduler(), open_cache(NoCache, 256))
    engine.arrive(make_sequence([1] * 15, number=0, max_tokens=100))
    engine.step()
    late = make_sequence([1] * 239, number=1, max_tokens=1)  # 15 blocks: all that is left
    engine.arrive(late)
    engine.step()
    assert late.state == "waiting"
    while engine.members:
        assert engine.step().preempted == []


def test_a_prompt_that_fills_the_pool_is_admitted() -> None:
    """With nothing to generate, room for the prompt alone is enough."""
    engine = SimulatedEngine(scheduler(), open_cache(NoCache, 256))
    sequence = make_sequence([1] * 256, max_tokens=0)
    engine.arrive(sequence)
    for _ in range(8):
        engine.step()
    assert sequence.computed_tokens == 256


def test_after_a_failure_suspects_run_alone_until_they_are_cleared() -> None:
    engine = SimulatedEngine(scheduler(max_running=3), open_cache(NoCache))
    sequences = [make_sequence([1] * 10, number=i, max_tokens=40) for i in range(3)]
    for sequence in sequences:
        engine.arrive(sequence)
    for _ in range(5):
        engine.step()
    newcomer = make_sequence([1] * 10, number=3, max_tokens=40)
    engine.fail()
    assert all(sequence.is_suspect for sequence in sequences)
    engine.arrive(newcomer)
    steps = 0
    while any(sequence.is_suspect for sequence in sequences):
        suspects = [s for s in sequences if s.is_suspect]
        plan = engine.step()
        granted = [grant.sequence for grant in plan.grants]
        if any(sequence in suspects for sequence in granted):
            assert len(granted) == 1
        steps += 1
        assert steps < 20, "suspects wait for one another to end"
    assert all(len(sequence.output_ids) < 20 for sequence in sequences)
    while engine.members:
        engine.step()
    assert len(engine.finished) == 4


@given(
    fail_at=st.sets(st.integers(0, 40), max_size=4),
    lengths=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 100)), min_size=1, max_size=6),
    kind=st.sampled_from([NoCache, PagedCache]),
)
@settings(max_examples=60)
def test_failures_starve_nobody(
    fail_at: set[int], lengths: list[tuple[int, int]], kind: type[NoCache]
) -> None:
    engine = SimulatedEngine(scheduler(), open_cache(kind))
    for number, (prompt_tokens, max_tokens) in enumerate(lengths):
        engine.arrive(make_sequence([1] * prompt_tokens, number=number, max_tokens=max_tokens))
    step = 0
    while engine.members:
        engine.step()
        if step in fail_at:
            engine.fail()
        step += 1
        assert step < 3000
    assert len(engine.finished) == len(lengths)
    assert engine.kv.stats.used_blocks == 0


@pytest.mark.parametrize("target_itl_ms", [None, 20.0])
def test_the_latency_aim_reaches_the_cost_model(target_itl_ms: float | None) -> None:
    asked: list[tuple[float | None, float]] = []

    class Asked(StepCost):
        def chunk_for(
            self, num_decode: int, step_seconds: float | None, stretch: float
        ) -> int | None:
            asked.append((step_seconds, stretch))
            return None

    engine = SimulatedEngine(
        scheduler(stretch=3.0, target_itl_ms=target_itl_ms), open_cache(NoCache), Asked()
    )
    engine.arrive(make_sequence())
    engine.step()
    assert asked == [(None if target_itl_ms is None else 0.020, 3.0)]
