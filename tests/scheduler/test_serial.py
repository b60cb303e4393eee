"""One at a time."""

from tests.cache.pools import open_cache
from tests.scheduler.simulation import SimulatedEngine
from tests.sequences import make_sequence
from vllm_mlx.cache.none import NoCache
from vllm_mlx.scheduler.serial import SerialScheduler


def test_sequences_run_one_after_the_other() -> None:
    engine = SimulatedEngine(
        SerialScheduler(max_waiting=8, prefill_chunk_tokens=32), open_cache(NoCache)
    )
    sequences = [make_sequence([1] * 50, number=i, max_tokens=3) for i in range(3)]
    for sequence in sequences:
        engine.arrive(sequence)
    ran: list[int] = []
    while engine.members:
        plan = engine.step()
        assert len(engine.running) <= 1
        assert len(plan.grants) <= 1
        assert sum(grant.count for grant in plan.grants) <= 32
        ran += [grant.sequence.number for grant in plan.grants]
    assert ran == sorted(ran)
    assert [len(s.output_ids) for s in sequences] == [3, 3, 3]


def test_a_queue_limit_is_kept_for_the_engine() -> None:
    scheduler = SerialScheduler(max_waiting=5, prefill_chunk_tokens=32)
    assert (scheduler.max_running, scheduler.max_waiting) == (1, 5)
