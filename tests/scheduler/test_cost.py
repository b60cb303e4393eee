"""The measured step-time model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.scheduler.cost import SMALLEST_CHUNK, StepCost, estimate_wait_seconds

seconds = st.floats(1e-5, 10.0)


def measured(decode: float = 0.010, per_token: float = 0.001) -> StepCost:
    """A machine with so long a decode step at 8 rows, and so much for a prefill token."""
    cost = StepCost()
    cost.observe(8, 0, decode)
    cost.observe(8, 10, decode + 10 * per_token)
    return cost


def test_nothing_measured_nothing_known() -> None:
    cost = StepCost()
    assert cost.decode_seconds(1) is None
    assert cost.chunk_for(0, None, 2.0) is None
    assert cost.chunk_for(1, None, 2.0) == SMALLEST_CHUNK
    cost.observe(4, 100, 1.0)  # cannot be split without a decode step to compare with
    assert cost.chunk_for(4, None, 2.0) == SMALLEST_CHUNK


def test_without_decode_rows_nothing_limits() -> None:
    assert measured().chunk_for(0, 0.001, 1.0) is None


def test_a_chunk_keeps_the_step_within_the_stretch() -> None:
    assert measured().chunk_for(8, None, 2.0) in (9, 10)
    assert measured().chunk_for(8, None, 4.0) in (29, 30)
    assert measured().chunk_for(8, None, 1.0) == SMALLEST_CHUNK


def test_an_aim_in_seconds_replaces_the_stretch() -> None:
    assert measured().chunk_for(8, 0.060, 1.0) in (49, 50)
    assert measured().chunk_for(8, 0.001, 100.0) == SMALLEST_CHUNK


def test_rows_are_known_by_powers_of_two_and_the_nearest() -> None:
    cost = StepCost()
    cost.observe(1, 0, 0.010)
    cost.observe(16, 0, 0.040)
    assert cost.decode_seconds(1) == cost.decode_seconds(2) == 0.010
    assert cost.decode_seconds(9) == cost.decode_seconds(16) == cost.decode_seconds(200) == 0.040


def test_one_slow_step_hardly_counts() -> None:
    cost = StepCost()
    cost.observe(1, 0, 0.010)
    cost.observe(1, 0, 10.0)
    assert cost.decode_seconds(1) == pytest.approx(0.0115)


def test_prefill_alone_is_measured_too() -> None:
    cost = StepCost()
    cost.observe(0, 100, 0.1)
    cost.observe(1, 0, 0.010)
    assert cost.chunk_for(1, None, 3.0) in (19, 20)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 64), seconds), min_size=1))
def test_estimates_stay_within_what_was_seen(steps: list[tuple[int, int, float]]) -> None:
    cost = StepCost()
    for rows, tokens, time in steps:
        cost.observe(rows, tokens, time)
    pure = [time for _, tokens, time in steps if tokens == 0]
    for rows in (1, 5, 64):
        estimate = cost.decode_seconds(rows)
        assert (estimate is None) is (not pure)
        if estimate is not None:
            assert min(pure) * 0.999 <= estimate <= max(pure) * 1.001
        chunk = cost.chunk_for(rows, None, 2.0)
        assert chunk is not None
        assert chunk >= SMALLEST_CHUNK


@given(
    stretches=st.tuples(st.floats(1.0, 100.0), st.floats(1.0, 100.0)),
    decode=seconds,
    per_token=seconds,
)
def test_more_patience_means_larger_chunks(
    stretches: tuple[float, float], decode: float, per_token: float
) -> None:
    cost = measured(decode, per_token)
    less, more = (cost.chunk_for(8, None, stretch) for stretch in sorted(stretches))
    assert less is not None
    assert more is not None
    assert less <= more


@given(step=st.none() | seconds, queues=st.tuples(st.integers(0, 5000), st.integers(0, 5000)))
def test_a_longer_queue_waits_longer_and_never_for_ever(
    step: float | None, queues: tuple[int, int]
) -> None:
    short, long = (estimate_wait_seconds(queue, step) for queue in sorted(queues))
    assert 1 <= short <= long <= 60
