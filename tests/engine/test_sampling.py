"""Sampling: by the definition, whatever the company."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.engine.naive_sampling import Array, adjusted, choose, likely, softmax
from tests.sequences import make_sequence
from vllm_mlx.core.generation import Sampling, Stopping
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.sampling import Sampler, keep_likely, score_tokens, uniform_of

VOCAB = 23
EOS = (0, 4)
NEAR = 1e-4  # float32 against float64: choices nearer than that prove nothing

samplings = st.builds(
    Sampling,
    temperature=st.just(0.0) | st.floats(0.1, 2.0),
    top_p=st.just(1.0) | st.floats(0.05, 1.0),
    top_k=st.sampled_from([0, 0, 1, 2, 5, VOCAB, 100]),
    min_p=st.just(0.0) | st.floats(0.01, 0.9),
    presence_penalty=st.just(0.0) | st.floats(-2, 2),
    frequency_penalty=st.just(0.0) | st.floats(-2, 2),
    repetition_penalty=st.just(1.0) | st.floats(0.5, 2),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=3),
    seed=st.integers(-(2**63), 2**64 - 1),
)
token_ids = st.integers(0, VOCAB - 1)


@st.composite
def logit_rows(draw: st.DrawFn) -> list[float]:
    """Any spread; on a grid, so that tokens tie, or not."""
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    row = random.normal(scale=draw(st.sampled_from([0.1, 1.0, 5.0])), size=VOCAB)
    rounded = np.round(row) if draw(st.booleans()) else row
    return [float(value) for value in rounded.astype(np.float32)]


@st.composite
def rows(draw: st.DrawFn, number: int = 0) -> tuple[Sequence, list[float]]:
    sequence = make_sequence(
        draw(st.lists(token_ids, min_size=1, max_size=6)),
        number=number,
        outputs=draw(st.lists(token_ids, max_size=6)),
        sampling=draw(samplings),
        stopping=Stopping(
            max_tokens=50,
            min_tokens=draw(st.sampled_from([0, 0, 3, 20])),
            stop_token_ids=tuple(draw(st.lists(token_ids, max_size=2))),
        ),
        choice=draw(st.integers(0, 3)),
    )
    return sequence, draw(logit_rows())


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Sequence, list[float]]]:
    return [draw(rows(number)) for number in range(draw(st.integers(1, 6)))]


def sample(batch: list[tuple[Sequence, list[float]]]) -> list[int]:
    sequences, logits = zip(*batch, strict=True)
    sampled = Sampler(VOCAB, EOS).sample(mx.array(list(logits)), list(sequences))
    assert sampled.tokens.dtype == mx.int32
    assert mx.all(sampled.finite).item()
    found: Any = sampled.tokens.tolist()
    return list(found)


@given(rows())
@settings(max_examples=200)
def test_one_row_is_sampled_by_the_definition(row: tuple[Sequence, list[float]]) -> None:
    sequence, logits = row
    expected, margin = choose(
        adjusted(np.array(logits, np.float32), sequence, EOS), sequence, uniform_of(sequence)
    )
    assume(margin > NEAR)
    assert sample([row]) == [expected]


@given(batch=batches(), order=st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_company_and_order_change_nothing(
    batch: list[tuple[Sequence, list[float]]], order: random.Random
) -> None:
    alone = {row[0].number: sample([row])[0] for row in batch}
    assert sample(batch) == [alone[sequence.number] for sequence, _ in batch]
    shuffled = list(batch)
    order.shuffle(shuffled)
    assert sample(shuffled) == [alone[sequence.number] for sequence, _ in shuffled]


def test_company_does_not_change_a_nucleus_of_equals() -> None:
    """Ties at the edge of top_k stay, and count towards top_p, also beside a wider row."""
    logits = [3.0] + [2.0] * 9 + [-20.0] * (VOCAB - 10)
    for seed in range(100):
        narrow = make_sequence(sampling=Sampling(top_k=2, top_p=0.7, seed=seed))
        wide = make_sequence(number=1, sampling=Sampling(top_k=20, seed=seed))
        assert sample([(narrow, logits), (wide, logits)])[0] == sample([(narrow, logits)])[0]


# -- what stays


@given(
    logits=logit_rows(),
    top_k=st.integers(0, VOCAB + 2),
    top_p=st.just(1.0) | st.floats(0.01, 1.0),
    min_p=st.just(0.0) | st.floats(0.0, 1.0),
)
@settings(max_examples=200)
def test_exactly_the_likely_stay(
    logits: list[float], top_k: int, top_p: float, min_p: float
) -> None:
    weights = softmax(np.array(logits))
    expected, margin = likely(weights, top_k, top_p, min_p)
    assume(margin > NEAR or min_p in (0.0, 1.0))
    assume(min_p != 1.0)
    kept = keep_likely(mx.array(weights.astype(np.float32))[None], [top_k], [top_p], [min_p])
    assert set(np.flatnonzero(np.array(kept[0])).tolist()) == expected
    for token in expected:  # and as they were
        assert kept[0, token].item() == np.float32(weights[token])


def test_no_limit_touches_nothing() -> None:
    weights = mx.softmax(mx.random.normal((3, VOCAB), key=mx.random.key(0)), axis=-1)
    assert mx.array_equal(keep_likely(weights, [0] * 3, [1.0] * 3, [0.0] * 3), weights)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1e-6),
        Sampling(temperature=1.0, min_p=1.0),
        Sampling(temperature=1e-3),
        Sampling(temperature=1e-30),
        Sampling(temperature=5e-324),
    ],
)
def test_limits_of_the_parameters_are_greedy(sampling: Sampling) -> None:
    logits = mx.random.normal((1, VOCAB), key=mx.random.key(1))
    for seed in range(20):
        sequence = make_sequence(sampling=structs.replace(sampling, seed=seed))
        sampled = Sampler(VOCAB, EOS).sample(logits, [sequence])
        assert sampled.finite.tolist() == [True]
        assert sampled.tokens.tolist() == [mx.argmax(logits).item()]


# -- bias and ends


def test_a_bias_is_added_and_may_ban() -> None:
    logits = [0.0] * VOCAB
    chosen = make_sequence(sampling=Sampling(temperature=0.0, logit_bias={7: 3.0, 9: 2.0}))
    banned = make_sequence(
        number=1, sampling=Sampling(logit_bias={i: -100.0 for i in range(1, VOCAB)})
    )
    assert sample([(chosen, logits), (banned, logits)]) == [7, 0]


@pytest.mark.parametrize("num_sampled", [0, 2, 3, 4])
def test_no_end_before_min_tokens(num_sampled: int) -> None:
    logits = [0.0] * VOCAB
    logits[4], logits[6], logits[8] = 9.0, 8.0, 7.0
    stopping = Stopping(max_tokens=9, min_tokens=3, stop_token_ids=(6,))
    sequence = make_sequence(outputs=[1] * num_sampled, stopping=stopping)
    assert sample([(sequence, logits)]) == [8 if num_sampled < 3 else 4]


def test_a_bias_does_not_bring_a_forbidden_end_back() -> None:
    stopping = Stopping(max_tokens=9, min_tokens=3)
    sampling = Sampling(temperature=0.0, logit_bias={4: 100.0, 5: 50.0})
    assert sample([(make_sequence(sampling=sampling, stopping=stopping), [0.0] * VOCAB)]) == [5]


# -- chance


def test_the_distribution_is_the_models() -> None:
    count = 20_000
    logits = np.array([2.0, 1.0, 0.0, -1.0, 1.5, 0.5], np.float32)
    sequences = [make_sequence(number=i, sampling=Sampling(seed=i)) for i in range(count)]
    tokens = Sampler(6, ()).sample(mx.array(np.tile(logits, (count, 1))), sequences).tokens
    found = np.bincount(np.array(tokens), minlength=6)
    expected = softmax(logits.astype(np.float64)) * count
    assert ((found - expected) ** 2 / expected).sum() < 20.5  # chi squared, 5 degrees: p = 0.001


def spread(points: list[float]) -> float:
    """Chi squared of 64 bins, 63 degrees of freedom."""
    found, _ = np.histogram(points, bins=64, range=(0, 1))
    expected = len(points) / 64
    return float(((found - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("varies", ["seed", "choice", "position"])
def test_points_are_uniform_and_unrelated(varies: str) -> None:
    points = []
    for i in range(10_000):
        sequence = make_sequence(
            sampling=Sampling(seed=i if varies == "seed" else 7),
            choice=i if varies == "choice" else 0,
        )
        sequence.num_sampled = i if varies == "position" else 0
        points.append(uniform_of(sequence))
    assert all(0.0 <= point < 1.0 for point in points)
    assert all(point * 2**24 == int(point * 2**24) for point in points)
    assert spread(points) < 103.4  # p = 0.001
    pairs = np.corrcoef(points[:-1], points[1:])[0, 1]
    assert abs(pairs) < 0.035


@given(seed=st.integers(-(2**63), 2**64 - 1), choice=st.integers(0, 127), place=st.integers(0, 99))
def test_a_point_depends_on_seed_choice_and_position_only(
    seed: int, choice: int, place: int
) -> None:
    def point(number: int, **changes: int) -> float:
        sequence = make_sequence(
            number=number, sampling=Sampling(seed=changes.get("seed", seed)), choice=choice
        )
        sequence.num_sampled = changes.get("place", place)
        return uniform_of(sequence)

    assert point(1) == point(2)
    others = {point(1, place=place + 1), point(1, seed=(seed + 1) % 2**64)}
    assert point(1) not in others


def test_without_a_seed_everybody_draws_for_himself() -> None:
    points = {uniform_of(make_sequence(sampling=Sampling())) for _ in range(50)}
    assert len(points) > 45


# -- logprobs


@given(logits=st.lists(logit_rows(), min_size=1, max_size=4), count=st.integers(0, VOCAB + 3))
@settings(max_examples=60)
def test_scores_are_log_softmax(logits: list[list[float]], count: int) -> None:
    table = np.array(logits)
    exact = np.log(np.stack([softmax(row) for row in table]))
    tokens = [i % VOCAB for i in range(len(logits))]
    scores = score_tokens(mx.array(table), mx.array(tokens), count, list(range(len(logits))))
    np.testing.assert_allclose(
        np.array(scores.chosen), exact[range(len(tokens)), tokens], atol=1e-5
    )
    assert scores.best.shape == scores.best_ids.shape == (len(logits), min(count, VOCAB))
    for row, ids, values in zip(
        exact, np.array(scores.best_ids), np.array(scores.best), strict=True
    ):
        assert len(set(ids.tolist())) == len(ids)
        np.testing.assert_allclose(values, np.sort(row)[::-1][: len(values)], atol=1e-5)
        np.testing.assert_allclose(values, row[ids], atol=1e-5)


def test_logprobs_are_the_models_own_and_only_for_who_asked() -> None:
    """Bias, penalties and temperature change what is chosen, not what is reported."""
    logits = np.linspace(-1, 1, VOCAB).astype(np.float32)
    exact = np.log(softmax(logits.astype(np.float64)))
    quiet = make_sequence(number=0)
    asks = make_sequence(
        number=1,
        outputs=[22, 22],
        sampling=Sampling(temperature=0.0, frequency_penalty=2.0, logit_bias={3: 50.0}),
        top_logprobs=2,
    )
    table = mx.array(np.stack([logits, logits]))
    sampled = Sampler(VOCAB, EOS).sample(table, [quiet, asks])
    assert sampled.tokens.tolist() == [22, 3]
    assert sampled.logprobs is not None
    assert sampled.logprobs.rows == [1]
    np.testing.assert_allclose(np.array(sampled.logprobs.chosen), exact[[3]], atol=1e-5)
    assert sampled.logprobs.best_ids.tolist() == [[22, 21]]
    assert np.array_equal(np.array(table[1]), logits)  # the caller's logits are not touched
    assert len(sampled.arrays()) == 5


def test_nobody_pays_for_logprobs_that_nobody_wants() -> None:
    sampled = Sampler(VOCAB, EOS).sample(mx.zeros((1, VOCAB)), [make_sequence()])
    assert sampled.logprobs is None
    assert len(sampled.arrays()) == 2


# -- what is not a number


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("whole_row", [True, False])
def test_a_row_without_numbers_is_told_apart(
    temperature: float, wrong: float, whole_row: bool
) -> None:
    good = make_sequence(number=0, sampling=Sampling(temperature=temperature, seed=1))
    bad = make_sequence(number=1, sampling=Sampling(temperature=temperature, seed=1))
    logits: Array = np.zeros((3, VOCAB), np.float32)
    logits[0, 5] = logits[2, 6] = 40
    if whole_row:
        logits[1] = wrong
    else:
        logits[1, 7] = wrong
    third = make_sequence(number=2, sampling=Sampling(temperature=temperature, seed=1))
    sampled = Sampler(VOCAB, EOS).sample(mx.array(logits), [good, bad, third])
    assert sampled.finite.tolist() == [True, False, True]
    tokens: Any = sampled.tokens.tolist()
    assert (tokens[0], tokens[2]) == (5, 6)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_logits_are_sampled_in_32(dtype: mx.Dtype) -> None:
    logits = mx.random.normal((4, VOCAB), key=mx.random.key(3)).astype(dtype)
    sequences = [
        make_sequence(number=i, sampling=Sampling(seed=i, frequency_penalty=1.0), top_logprobs=1)
        for i in range(4)
    ]
    half = Sampler(VOCAB, EOS).sample(logits, sequences)
    full = Sampler(VOCAB, EOS).sample(logits.astype(mx.float32), sequences)
    assert half.tokens.tolist() == full.tokens.tolist()
    assert half.logprobs is not None
    assert half.logprobs.chosen.dtype == mx.float32
