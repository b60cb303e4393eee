"""The loop, step by step on one thread: pipelining, failures, preemption, ends."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.scripted import EOS, LEAN, VOCAB, Bench, chain
from tests.sequences import make_sequence
from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.core.delta import Finished, PromptScored
from vllm_mlx.core.generation import Generation, Sampling, Stopping
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant
from vllm_mlx.engine.loop import IDLE_WAIT_SECONDS
from vllm_mlx.engine.mailbox import Drain
from vllm_mlx.errors import EngineStopped, GenerationFailed

GREEDY = Sampling(temperature=0.0)
KINDS = st.sampled_from([NoCache, PagedCache])


def ask(
    prompt: tuple[int, ...], max_tokens: int = 8, sampling: Sampling = GREEDY, **more: object
) -> Generation:
    stopping = more.pop("stopping", Stopping(max_tokens=max_tokens))
    return Generation(
        id="r",
        prompt_ids=prompt,
        sampling=sampling,
        stopping=stopping,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def prompt_of(tokens: int, family: int = 0) -> tuple[int, ...]:
    return tuple((family * 7 + i) % EOS for i in range(tokens))


loads = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 30), st.integers(0, 12)), min_size=1, max_size=6
)


@given(load=loads, kind=KINDS, pool_tokens=st.sampled_from([256, 1024]), seeded=st.booleans())
@settings(max_examples=40)
def test_everybody_gets_his_own_continuation(
    load: list[tuple[int, int, int]], kind: type[NoCache], pool_tokens: int, seeded: bool
) -> None:
    """Joining at any step, prefixes shared or not, in a pool with room or without."""
    bench = Bench(pool_tokens, kind)
    # top_k=1 is greedy by another way, and a seed asks for whole tiles
    sampling = Sampling(top_k=1, seed=1) if seeded else GREEDY
    asked = [ask(prompt_of(n), max_tokens, sampling) for n, max_tokens, _ in load]
    for step in range(13):
        for generation, (_, _, at) in zip(asked, load, strict=True):
            if at == step:
                bench.submit(generation)
        bench.step()
    bench.run()
    for number, sequence in enumerate(bench.sequences):
        generation = sequence.generation
        limit = generation.stopping.max_tokens or 0
        assert bench.tokens(number) == chain(generation.prompt_ids, limit)
        assert bench.end(number).reason == "length"
        assert bench.end(number).usage.prompt_tokens == len(generation.prompt_ids)
        assert bench.end(number).usage.completion_tokens == limit
    assert bench.kv.stats.used_blocks == 0
    assert set(bench.runner.forgotten) >= set(range(len(load)))


def test_a_step_is_launched_before_the_one_before_is_read() -> None:
    bench = Bench()
    bench.submit(ask((1, 2, 3)))
    counts = []
    for _ in range(5):
        bench.step()
        counts.append(len(bench.sequences[0].output_ids))
    assert counts == [0, 1, 2, 3, 4]
    assert bench.sequences[0].num_sampled == 5
    assert bench.runner.unread_steps == 4  # the input of each decode row came from the device


def test_preemption_changes_nothing_but_time() -> None:
    small, large = Bench(256, NoCache), Bench(2048, NoCache)
    for bench in (small, large):
        for family in range(4):
            bench.submit(ask(prompt_of(50, family), 60))
        bench.run()
    assert small.loop.counters.preemptions > 0
    assert large.loop.counters.preemptions == 0
    for number in range(4):
        assert small.tokens(number) == large.tokens(number) == chain(prompt_of(50, number), 60)


def test_cached_tokens_are_prefill_saved() -> None:
    bench = Bench()
    for prompt in (prompt_of(100), prompt_of(100), (*prompt_of(40), 3, 3), prompt_of(100, 1)):
        bench.submit(ask(prompt))
        bench.run()
    computed = [0] * 4
    for step in bench.runner.steps:
        for grant in step:
            computed[grant.sequence.number] += 0 if grant.is_decode else grant.count
    cached = [bench.end(number).usage.cached_tokens for number in range(4)]
    assert cached == [0, 96, 32, 0]
    assert computed == [100, 4, 10, 100]
    assert [bench.tokens(i) for i in (0, 1)] == [chain(prompt_of(100), 8)] * 2


def test_output_is_a_prefix_too() -> None:
    """A conversation goes on: the next prompt holds the last answer."""
    bench = Bench()
    bench.submit(ask(prompt_of(30), 40))
    bench.run()
    longer = (*prompt_of(30), *chain(prompt_of(30), 40), 5, 5)
    bench.submit(ask(longer))
    bench.run()
    assert bench.end(1).usage.cached_tokens == 64  # of 69 that were computed
    assert bench.tokens(1) == chain(longer, 8)


def test_rows_share_no_prefix() -> None:
    """Their keys and values are not in the pool."""
    bench = Bench(mode="rows")
    for _ in range(2):
        bench.submit(ask(prompt_of(100)))
        bench.run()
    assert bench.end(1).usage.cached_tokens == 0


# -- ends


def test_max_tokens_zero_ends_after_the_prompt() -> None:
    bench = Bench()
    bench.submit(ask(prompt_of(100), 0, prompt_logprobs=1))
    bench.submit(ask(prompt_of(9), 0))
    bench.run()
    scored, end = bench.heard[0]
    assert isinstance(scored, PromptScored)
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == ("length", 0)
    assert len(bench.heard[1]) == 1
    assert bench.loop.counters.prompt_tokens == 109
    assert bench.kv.stats.used_blocks == 0


def test_a_prompt_that_fills_the_pool_is_scored() -> None:
    bench = Bench(256)
    bench.submit(ask(prompt_of(256), 0, prompt_logprobs=0))
    bench.run()
    assert isinstance(bench.heard[0][0], PromptScored)


def test_eos_stop_tokens_and_what_forbids_them() -> None:
    bench = Bench()
    prompt = (1, 2, 3)
    first, second, third = chain(prompt, 3)
    wants_end = Sampling(temperature=0.0, logit_bias={EOS: 50.0})
    bench.submit(ask(prompt, 3, wants_end))
    bench.submit(ask(prompt, sampling=wants_end, stopping=Stopping(max_tokens=5, min_tokens=2)))
    bench.submit(ask(prompt, sampling=wants_end, stopping=Stopping(max_tokens=3, ignore_eos=True)))
    bench.submit(ask(prompt, stopping=Stopping(max_tokens=9, stop_token_ids=(third,))))
    bench.submit(ask(prompt, stopping=Stopping(max_tokens=9, stop=(chr(65 + second),))))
    bench.run()
    assert bench.tokens(0) == [EOS]
    assert bench.tokens(1) == [first, second, EOS]
    assert bench.tokens(2) == [EOS] * 3
    assert bench.tokens(3) == [first, second, third]
    assert bench.tokens(4) == [first, second]
    ends = [(bench.end(i).reason, bench.end(i).stop_match) for i in range(5)]
    assert ends == [
        ("stop", None),
        ("stop", None),
        ("length", None),
        ("stop", third),
        ("stop", chr(65 + second)),
    ]
    assert bench.loop.counters.completion_tokens == 12


# -- prompt logprobs


@given(
    prompt_tokens=st.integers(1, 200),
    others=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 60)), max_size=3),
    asked=st.integers(0, 2),
    fail_at=st.none() | st.integers(0, 8),
    max_tokens=st.integers(0, 5),
)
@settings(max_examples=40)
def test_prompt_logprobs_are_exact_and_come_once(
    prompt_tokens: int,
    others: list[tuple[int, int]],
    asked: int,
    fail_at: int | None,
    max_tokens: int,
) -> None:
    """In chunks, in company, preempted, and after a failed step."""
    bench = Bench(256)
    for number, (tokens, limit) in enumerate(others):
        bench.submit(ask(prompt_of(tokens, number + 1), limit))
    prompt = prompt_of(prompt_tokens)
    mine = bench.submit(ask(prompt, max_tokens, prompt_logprobs=asked))
    for step in range(9):
        bench.loop.fails = lambda grant, step=step: step == fail_at and len(others) > 0  # type: ignore[method-assign]
        bench.step()
    bench.loop.fails = lambda grant: False  # type: ignore[method-assign]
    bench.run()
    if mine in bench.failures:  # it was alone in the step that failed
        return
    scored = [delta for delta in bench.heard[mine] if isinstance(delta, PromptScored)]
    assert len(scored) == 1
    assert bench.heard[mine][0] is scored[0]
    entries = scored[0].logprobs
    assert [entry.token_id for entry in entries] == list(prompt)
    assert entries[0].logprob is None
    low = -float(np.log(np.exp(LEAN) + VOCAB - 1))
    for place, entry in enumerate(entries[1:], start=1):
        planned = (prompt[place - 1] * 5 + (place - 1) * 3 + 1) % EOS
        expected = low + (LEAN if entry.token_id == planned else 0.0)
        assert entry.logprob == pytest.approx(expected, abs=1e-4)
        assert len(entry.top) == asked
        if asked:
            assert entry.top[0].token_id == planned
    assert bench.tokens(mine) == chain(prompt, max_tokens)


def test_logprobs_beside_somebody_who_wants_more() -> None:
    bench = Bench()
    bench.submit(ask((1, 2), 3, top_logprobs=1))
    bench.submit(ask((1, 2), 3, top_logprobs=5))
    bench.submit(ask((1, 2), 3))
    bench.run()
    counts = [
        [len(e.top) for d in heard for e in getattr(d, "logprobs", ())] for heard in bench.heard
    ]
    assert counts == [[1] * 3, [5] * 3, []]
    assert bench.end(0).cumulative_logprob == pytest.approx(
        3 * (LEAN - np.log(np.exp(LEAN) + 40)), abs=1e-4
    )
    assert bench.end(2).cumulative_logprob is None


# -- aborts


@pytest.mark.parametrize("after_steps", range(8))
def test_an_abort_frees_everything_within_a_step(after_steps: int) -> None:
    """Before it is read, while it waits, in the middle of its prompt, and while it decodes."""
    bench = Bench(1024, NoCache)
    bench.submit(ask(prompt_of(300), 50))
    bench.submit(ask(prompt_of(20, 1), 12))
    bench.step(after_steps)
    said = len(bench.tokens(0))
    bench.streams[0].abort()
    bench.streams[0].abort()
    bench.step()
    assert bench.loop.num_members == 1
    assert bench.kv.stats.used_blocks <= 2
    bench.run()
    assert len(bench.tokens(0)) <= said + 1  # what was under way when the abort came
    assert not any(isinstance(delta, Finished) for delta in bench.heard[0])
    assert bench.tokens(1) == chain(prompt_of(20, 1), 12)
    assert bench.kv.stats.used_blocks == 0
    assert 0 not in [s.number for s in bench.loop._waiting]


def test_an_abort_while_waiting() -> None:
    bench = Bench(max_running=1)
    bench.submit(ask((1, 2), 5))
    bench.submit(ask((1, 2), 5))
    bench.step(2)
    assert (bench.loop.num_running, bench.loop.num_waiting) == (1, 1)
    bench.streams[1].abort()
    bench.step()
    assert bench.loop.num_waiting == 0
    bench.run()
    assert bench.heard[1] == []
    assert bench.tokens(0) == chain((1, 2), 5)


# -- failures

guilts = st.tuples(
    st.sampled_from(["raises", "spoils", "fails"]),
    st.sets(st.integers(0, 5), min_size=1, max_size=2),  # who
    st.integers(0, 6),  # once it has so many tokens read
)


@given(
    load=st.lists(st.tuples(st.integers(1, 130), st.integers(1, 20)), min_size=2, max_size=6),
    guilt=guilts,
    kind=KINDS,
)
@settings(max_examples=60)
def test_the_guilty_fail_and_nobody_else_notices(
    load: list[tuple[int, int]], guilt: tuple[str, set[int], int], kind: type[NoCache]
) -> None:
    how, who, from_count = guilt
    bench = Bench(1024, kind)

    def is_guilty(grant: Grant) -> bool:
        sequence = grant.sequence
        return sequence.number in who and len(sequence.output_ids) >= from_count

    setattr(bench.loop if how == "fails" else bench.runner, how, is_guilty)
    for family, (tokens, limit) in enumerate(load):
        bench.submit(ask(prompt_of(tokens, family), limit))
    bench.run()
    for number, (tokens, limit) in enumerate(load):
        expected = chain(prompt_of(tokens, number), limit)
        if number in bench.failures:
            assert number in who
            assert isinstance(bench.failures[number], GenerationFailed)
            said = bench.tokens(number)
            assert said == expected[: len(said)]
        else:
            assert bench.tokens(number) == expected
            assert bench.end(number).usage.completion_tokens == limit
            # a step launched past the end may be guilty: nobody waits for it any more
            assert number not in who or limit <= from_count + 1
    assert bench.kv.stats.used_blocks == 0
    assert bench.loop.num_members == 0


def test_a_failure_names_its_reason() -> None:
    bench = Bench()
    bench.runner.raises = lambda grant: grant.sequence.number == 1
    for family in range(3):
        bench.submit(ask(prompt_of(10, family)))
    bench.run()
    assert str(bench.failures[1]) == "this request failed: RuntimeError: this row breaks the step"
    assert bench.runner.resets > 0


def test_others_do_not_queue_up_behind_a_failure() -> None:
    """After it they decode together again, not one after the other."""
    bench = Bench()
    bench.runner.raises = lambda grant: grant.sequence.number == 0 and grant.start > 20
    for family in range(5):
        bench.submit(ask(prompt_of(10, family), 60))
    bench.run()
    assert list(bench.failures) == [0]
    assert len(bench.runner.steps) < 2 * 60


def test_nan_blocks_are_scrubbed_and_never_shared() -> None:
    bench = Bench()
    bench.runner.spoils = lambda grant: grant.sequence.number == 0
    bench.submit(ask(prompt_of(100)))
    bench.step()
    held = list(bench.sequences[0].block_ids)
    bench.run()
    assert "not numbers" in str(bench.failures[0])
    assert sorted(bench.runner.scrubbed) == sorted(held)
    bench.submit(ask(prompt_of(100)))
    bench.run()
    assert bench.end(1).usage.cached_tokens == 0
    assert bench.tokens(1) == chain(prompt_of(100), 8)


def test_a_prompt_that_nothing_was_sampled_after_is_not_shared() -> None:
    """Nobody has looked whether its keys and values are numbers."""
    bench = Bench()
    bench.submit(ask(prompt_of(100), 0))
    bench.run()
    bench.submit(ask(prompt_of(100)))
    bench.run()
    assert bench.end(1).usage.cached_tokens == 0


def test_after_a_failure_no_prefix_is_known() -> None:
    """The arrays behind the blocks are gone."""
    bench = Bench()
    bench.submit(ask(prompt_of(100)))
    bench.run()
    bench.runner.raises = lambda grant: grant.sequence.number == 1
    bench.submit(ask(prompt_of(50, 1)))
    bench.run()
    assert list(bench.failures) == [1]
    bench.submit(ask(prompt_of(100)))
    bench.run()
    assert bench.end(2).usage.cached_tokens == 0
    assert bench.tokens(2) == chain(prompt_of(100), 8)


def test_nan_in_a_scored_prompt_is_a_failure() -> None:
    """Not a number in the answer."""
    bench = Bench()
    bench.runner.spoils = lambda grant: grant.sequence.number == 0
    bench.submit(ask(prompt_of(100), 0, prompt_logprobs=1))
    bench.submit(ask(prompt_of(30, 1), 4, prompt_logprobs=1))
    bench.run()
    assert list(bench.failures) == [0]
    assert bench.heard[0] == []
    assert bench.tokens(1) == chain(prompt_of(30, 1), 4)
    bench.submit(ask(prompt_of(100)))
    bench.run()
    assert bench.end(2).usage.cached_tokens == 0


# -- the end of the thread


def test_draining_finishes_what_runs() -> None:
    bench = Bench()
    bench.submit(ask((1, 2), 20))
    bench.submit(ask(prompt_of(100, 1), 3))
    bench.inbox.post(Drain(time.monotonic() + 60))
    bench.loop.run()
    bench.listen()
    assert bench.tokens(0) == chain((1, 2), 20)
    assert bench.tokens(1) == chain(prompt_of(100, 1), 3)


def test_what_outlives_the_deadline_is_told() -> None:
    bench = Bench()
    bench.submit(ask((1, 2), 500))
    bench.step(3)
    bench.inbox.post(Drain(time.monotonic() - 1))
    bench.loop.run()
    bench.listen()
    assert isinstance(bench.failures[0], EngineStopped)
    assert bench.tokens(0) == chain((1, 2), 500)[: len(bench.tokens(0))]


def test_at_the_end_everybody_is_told_even_if_nothing_works_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(max_running=2)
    for _ in range(4):
        bench.submit(ask((1, 2), 50))
    bench.step(2)
    bench.submit(ask((1, 2), 50))  # still in the mail

    def broken(sequence: Sequence) -> list[int]:
        raise ValueError("block 3 is free already")

    monkeypatch.setattr(bench.kv, "release", broken)
    bench.loop.end(EngineStopped("over"))
    bench.listen()
    assert {number: str(error) for number, error in bench.failures.items()} == dict.fromkeys(
        range(5), "over"
    )


def test_an_idle_engine_gives_memory_back() -> None:
    bench = Bench(kind=NoCache)
    bench.submit(ask(prompt_of(200), 2))
    bench.run()
    bench.inbox.post(Drain(time.monotonic() + 60))
    bench.step()
    assert bench.runner.trimmed[-1] == 1


def test_waiting_with_nothing_to_do_is_not_busy() -> None:
    """Idle, it waits for mail; a sequence that cannot be admitted yet does not spin it."""
    bench = Bench(256, NoCache)
    bench.step()
    assert bench.inbox.waits == [IDLE_WAIT_SECONDS]
    holder = make_sequence([1] * 200, number=99)
    assert bench.kv.extend(holder, 200)  # held by nobody the loop knows
    bench.submit(ask(prompt_of(100)))
    bench.step(6)
    assert all(wait > 0 for wait in bench.inbox.waits[2:])
    bench.kv.release(holder)
    bench.step(3)
    assert bench.inbox.waits[-2:] == [0, 0]  # now it works
    bench.run()
    assert bench.tokens(0) == chain(prompt_of(100), 8)
