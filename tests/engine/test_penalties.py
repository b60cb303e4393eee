"""Penalties kept on the device, step by step, against their definitions."""

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.naive_sampling import adjusted
from tests.sequences import GREEDY, make_sequence
from vllm_mlx.core.generation import Sampling
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.engine.penalties import PenaltyTable

VOCAB = 11
token_ids = st.integers(0, VOCAB - 1)
samplings = st.just(GREEDY) | st.builds(
    Sampling,
    presence_penalty=st.just(0.0) | st.floats(-2, 2),
    frequency_penalty=st.just(0.0) | st.floats(-2, 2),
    repetition_penalty=st.just(1.0) | st.floats(0.5, 2),
)


def apply(table: PenaltyTable, logits: np.ndarray, sequences: list[Sequence]) -> np.ndarray:
    return np.array(table.apply(mx.array(logits), sequences))


@given(
    members=st.lists(
        st.tuples(samplings, st.lists(token_ids, min_size=1, max_size=4)), min_size=1, max_size=5
    ),
    steps=st.lists(
        st.tuples(st.sets(st.integers(0, 4), min_size=1), st.none() | st.integers(0, 4)), max_size=8
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=80)
def test_counts_follow_who_runs_leaves_and_comes_back(
    members: list[tuple[Sampling, list[int]]],
    steps: list[tuple[set[int], int | None]],
    seed: int,
) -> None:
    """In each step some sequences sample; now and then one is preempted, or replaced by another."""
    random = np.random.default_rng(seed)
    table = PenaltyTable(VOCAB)
    sequences = [
        make_sequence(prompt, number=i, sampling=s) for i, (s, prompt) in enumerate(members)
    ]
    for chosen, leaver in steps:
        running = [sequences[i] for i in sorted(chosen) if i < len(sequences)]
        if running:
            logits = random.normal(size=(len(running), VOCAB)).astype(np.float32)
            expected = [adjusted(row, s, ()) for row, s in zip(logits, running, strict=True)]
            np.testing.assert_allclose(apply(table, logits, running), expected, atol=1e-5)
            tokens = random.integers(0, VOCAB, len(running))
            table.count(running, mx.array(tokens))
            for sequence, token in zip(running, tokens.tolist(), strict=True):
                sequence.output_ids.append(token)
                sequence.num_sampled += 1
        if leaver is not None and leaver < len(sequences):
            old = sequences[leaver]
            table.drop(old.number)
            table.drop(old.number)  # again: nothing
            if leaver % 2:  # another one takes the row
                sequences[leaver] = make_sequence(
                    [leaver], number=old.number + 100, sampling=old.generation.sampling
                )


def test_a_token_on_the_device_counts_at_once() -> None:
    """The next step is launched before the host has read the token."""
    table = PenaltyTable(VOCAB)
    sequence = make_sequence([1], sampling=Sampling(frequency_penalty=1.0))
    table.apply(mx.zeros((1, VOCAB)), [sequence])
    table.count([sequence], mx.array([5]))
    assert apply(table, np.zeros((1, VOCAB)), [sequence])[0, 5] == -1.0


def test_rows_that_ask_for_nothing_cost_nothing() -> None:
    table, logits = PenaltyTable(VOCAB), mx.zeros((2, VOCAB), dtype=mx.float16)
    plain = [make_sequence(number=i) for i in range(2)]
    assert table.apply(logits, plain) is logits
    table.count(plain, mx.array([1, 2]))


def test_forbidden_tokens_stay_forbidden() -> None:
    table = PenaltyTable(VOCAB)
    sampling = Sampling(repetition_penalty=1.5, presence_penalty=-2.0, frequency_penalty=-2.0)
    sequence = make_sequence([3], outputs=[3, 3], sampling=sampling)
    logits = np.zeros((1, VOCAB))
    logits[0, 3] = -np.inf
    assert np.isneginf(apply(table, logits, [sequence])[0, 3])
