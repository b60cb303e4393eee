"""The engine on its own thread, over the toy model, as an event loop sees it."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.cache.pools import gib_for
from tests.engine.naive_sampling import softmax
from tests.engine.toy_engine import GREEDY, Answer, Toy, ToySource, read, toy_engine
from vllm_mlx.cache.none import NoCache
from vllm_mlx.cache.paged import PagedCache
from vllm_mlx.core.delta import Finished, PromptScored, TextDelta
from vllm_mlx.core.generation import Generation, Sampling
from vllm_mlx.engine.engine import GenerationEngine
from vllm_mlx.errors import (
    EngineStopped,
    GenerationFailed,
    ModelError,
    PromptTooLong,
    QueueFull,
    RequestError,
)
from vllm_mlx.model.progress import Progress, no_progress
from vllm_mlx.runner.base import Loaded
from vllm_mlx.runner.toy import LEAN
from vllm_mlx.scheduler.continuous import ContinuousScheduler

pytestmark = pytest.mark.anyio

LONG_REPLIES = [f"{word} and " * 40 for word in ("one", "two", "three", "four", "five", "six")]
PROMPTS = ["the sea", "a blue whale", "seven little ducks", "rain", "old stone bridges", "why?"]


async def all_of(toy: Toy, prompts: list[Any], **fields: Any) -> list[Answer]:
    streams = [toy.submit(prompt, **fields) for prompt in prompts]
    return list(await asyncio.gather(*map(read, streams)))


# -- streams


async def test_a_stream_is_text_as_it_comes_and_one_end(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        answer = await engine.ask("Hello, world")
        assert answer.text == "You said: Hello, world"
        assert answer.end.reason == "stop"
        assert answer.end.usage.prompt_tokens == 3
        assert answer.end.usage.completion_tokens == len(answer.token_ids)
        assert answer.token_ids[-1] in engine.engine.card.eos_token_ids
        texts = [d for d in answer.deltas if isinstance(d, TextDelta)]
        assert len(texts) == len(answer.token_ids)  # one a token
        await engine.is_empty()


async def test_many_at_once_each_get_their_own(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        alone = [await engine.ask(prompt) for prompt in PROMPTS]
        for _ in range(3):
            together = await all_of(engine, PROMPTS)
            assert [a.text for a in together] == [a.text for a in alone]
        assert [a.text for a in alone] == [f"You said: {prompt}" for prompt in PROMPTS]
        await engine.is_empty()


async def test_characters_of_several_tokens_are_never_cut(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        answer = await engine.ask("🐟 né 漢字")
        assert answer.text == "You said: 🐟 né 漢字"
        assert "\ufffd" not in "".join(d.text for d in answer.deltas if isinstance(d, TextDelta))


async def test_status_counts(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        status = engine.engine.status
        assert (status.state, status.running, status.waiting) == ("ready", 0, 0)
        assert status.kv_capacity_tokens == 4096
        assert status.steps == status.prompt_tokens_total == 0
        answers = await all_of(engine, PROMPTS)
        await engine.is_empty()
        status = engine.engine.status
        assert status.prompt_tokens_total == sum(a.end.usage.prompt_tokens for a in answers)
        assert status.completion_tokens_total == sum(len(a.token_ids) for a in answers)
        assert status.steps >= max(len(a.token_ids) for a in answers)
        assert status.preemptions == 0
        assert status.failure is None


async def test_running_and_waiting_are_told_apart(toy: Loaded) -> None:
    async with toy_engine(toy, replies=LONG_REPLIES, max_running=2) as engine:
        streams = [engine.submit("x", max_tokens=3000, ignore_eos=True) for _ in range(5)]
        status = engine.engine.status
        while (status.running, status.waiting) != (2, 3):
            await asyncio.sleep(0.001)
            status = engine.engine.status
        for stream in streams:
            stream.abort()
        await engine.is_empty()


# -- what is refused, capped, ordered


async def test_a_full_queue_refuses_and_opens_again(toy: Loaded) -> None:
    async with toy_engine(toy, max_running=1, max_waiting=2) as engine:
        engine.runner.gate.clear()
        streams = [engine.submit("x") for _ in range(3)]
        with pytest.raises(QueueFull) as refused:
            engine.submit("x")
        assert 1 <= refused.value.retry_after_seconds <= 60
        engine.runner.gate.set()
        answers = await asyncio.gather(*map(read, streams))
        assert {answer.text for answer in answers} == {"You said: x"}
        await engine.is_empty()
        assert (await engine.ask("x")).text == "You said: x"


async def test_a_prompt_that_leaves_no_room(toy: Loaded) -> None:
    async with toy_engine(toy, context_tokens=64) as engine:
        assert engine.engine.card.context_tokens == 64
        with pytest.raises(PromptTooLong, match=r"64 tokens.*prompt") as refused:
            engine.submit((5,) * 64)
        assert (refused.value.prompt_tokens, refused.value.context_tokens) == (64, 64)
        with pytest.raises(RequestError, match="no tokens"):
            engine.submit(())
        answer = await engine.ask((5,) * 63, ignore_eos=True)
        assert (answer.end.reason, len(answer.token_ids)) == ("length", 1)


@pytest.mark.parametrize("asked", [None, 1000])
async def test_max_tokens_is_capped_to_the_context(toy: Loaded, asked: int | None) -> None:
    async with toy_engine(toy, context_tokens=64) as engine:
        answer = await engine.ask((5,) * 50, max_tokens=asked, ignore_eos=True)
        assert (answer.end.reason, len(answer.token_ids)) == ("length", 14)
        await engine.is_empty()


async def test_the_context_is_what_memory_holds(toy: Loaded) -> None:
    async with toy_engine(toy, context_tokens=4096, pool_tokens=256) as engine:
        answer = await engine.ask((5,) * 250, max_tokens=1000, ignore_eos=True)
        assert len(answer.token_ids) == 6
        assert (await engine.ask((5,) * 256, max_tokens=0)).end.reason == "length"
        await engine.is_empty()


async def test_priority_decides_who_is_next(toy: Loaded) -> None:
    async with toy_engine(toy, max_running=1) as engine:
        engine.runner.gate.clear()
        order: list[int] = []

        async def follow(priority: int) -> None:
            await read(engine.submit("x", priority=priority))
            order.append(priority)

        first = asyncio.create_task(follow(0))
        await engine.until(lambda: len(engine.runner.grants) > 0)
        rest = [asyncio.create_task(follow(priority)) for priority in (5, 1, -3)]
        await asyncio.sleep(0)
        engine.runner.gate.set()
        await asyncio.gather(first, *rest)
        assert order == [0, -3, 1, 5]


# -- how a sequence ends


async def test_stop_strings_over_token_borders(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        plain = (await engine.ask("a little house")).token_ids
        assert len(plain) > 4
        for stop, shown in [
            ("d: a l", "You sai"),
            ("said", "You "),
            ("Y", ""),
            ("house", "You said: a little "),
        ]:
            answer = await engine.ask("a little house", stop=("zzz", stop))
            assert answer.text == shown
            assert (answer.end.reason, answer.end.stop_match) == ("stop", stop)
            assert answer.token_ids == plain[: len(answer.token_ids)]
        unstopped = await engine.ask("a little house", stop=("house!",))
        assert unstopped.text == "You said: a little house"  # held back, then shown
        await engine.is_empty()


async def test_min_tokens_max_tokens_and_ignored_ends(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        plain = await engine.ask("hi")
        longer = await engine.ask("hi", min_tokens=20)
        assert len(longer.token_ids) > 20
        assert not set(longer.token_ids[:20]) & set(engine.engine.card.eos_token_ids)
        assert longer.text.startswith(plain.text)
        cut = await engine.ask("hi", max_tokens=3)
        assert (cut.end.reason, cut.token_ids) == ("length", plain.token_ids[:3])
        endless = await engine.ask("hi", max_tokens=30, ignore_eos=True)
        assert (endless.end.reason, len(endless.token_ids)) == ("length", 30)
        stopped = await engine.ask("hi", stop_token_ids=(plain.token_ids[2],))
        assert stopped.end.stop_match == plain.token_ids[2]
        assert stopped.token_ids == plain.token_ids[:3]
        nothing = await engine.ask("hi", max_tokens=0)
        assert [type(delta) for delta in nothing.deltas] == [Finished]


async def test_n_choices_differ_and_come_again(toy: Loaded) -> None:
    """Choices of one seed are each their own, alone and together."""
    async with toy_engine(toy) as engine:
        sampling = Sampling(temperature=2.0, seed=11)
        fields: dict[str, Any] = {"sampling": sampling, "max_tokens": 6, "ignore_eos": True}
        together = await asyncio.gather(
            *(engine.ask("tell me", choice=choice, **fields) for choice in range(4))
        )
        alone = [await engine.ask("tell me", choice=choice, **fields) for choice in range(4)]
        ids = [tuple(answer.token_ids) for answer in together]
        assert len(set(ids)) == 4
        assert ids == [tuple(answer.token_ids) for answer in alone]


async def test_seeded_requests_do_not_mind_company(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        seeded: list[dict[str, Any]] = [
            {"prompt": f"story {i}", "sampling": Sampling(temperature=1.7, seed=i, top_p=0.95)}
            for i in range(4)
        ]
        alone = [await engine.ask(max_tokens=12, ignore_eos=True, **one) for one in seeded]
        others = [engine.submit("noise", Sampling(temperature=1.0), max_tokens=15) for _ in seeded]
        together = await asyncio.gather(
            *(engine.ask(max_tokens=12, ignore_eos=True, **one) for one in reversed(seeded))
        )
        await asyncio.gather(*map(read, others))
        assert [a.token_ids for a in reversed(together)] == [a.token_ids for a in alone]


# -- logprobs


async def test_logprobs_are_those_of_the_logits(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        prompt = engine.encode("once upon a time")
        answer = await engine.ask(
            prompt, top_logprobs=2, prompt_logprobs=1, max_tokens=3, sampling=GREEDY
        )
        base = np.array(engine.runner._base[0]).astype(np.float64)

        def exact(planned: int, token: int) -> float:
            row = base.copy()
            row[planned] += LEAN
            return float(np.log(softmax(row)[token]))

        for token, entry in zip(answer.token_ids, answer.logprobs, strict=True):
            assert entry.token_id == entry.top[0].token_id == token
            assert entry.logprob == pytest.approx(exact(token, token), abs=1e-4)
            assert len(entry.top) == 2
            assert entry.top[0].logprob >= entry.top[1].logprob
            second = entry.top[1]
            assert second.logprob == pytest.approx(exact(token, second.token_id), abs=1e-4)
            assert entry.bytes.decode() == entry.token
        total = sum(entry.logprob or 0.0 for entry in answer.logprobs)
        assert answer.end.cumulative_logprob == pytest.approx(total)
        scored = answer.prompt_logprobs
        assert isinstance(answer.deltas[0], PromptScored)
        assert [entry.token_id for entry in scored] == list(prompt)
        assert scored[0].logprob is None
        for entry in scored[1:]:  # the toy predicts its prompt
            assert entry.logprob == pytest.approx(exact(entry.token_id, entry.token_id), abs=1e-4)
            assert [top.token_id for top in entry.top] == [entry.token_id]


@pytest.mark.parametrize("length", [1, 2, 64, 65, 200])
async def test_prompts_are_scored_whole(toy: Loaded, length: int) -> None:
    async with toy_engine(toy) as engine:
        prompt = tuple(range(100, 100 + length))
        await engine.ask(prompt)  # known to the prefix cache: it must be computed all the same
        answer = await engine.ask(prompt, prompt_logprobs=0, max_tokens=0)
        assert [entry.token_id for entry in answer.prompt_logprobs] == list(prompt)
        are_none = [entry.logprob is None for entry in answer.prompt_logprobs]
        assert are_none == [True] + [False] * (length - 1)
        assert answer.end.usage.cached_tokens == 0


# -- prefixes and preemption


async def test_a_known_prefix_is_not_computed_again(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        prompt = tuple(range(100, 200))
        first, second = [await engine.ask(prompt) for _ in range(2)]
        assert (first.end.usage.cached_tokens, second.end.usage.cached_tokens) == (0, 96)
        assert (engine.runner.computed(0), engine.runner.computed(1)) == (100, 4)
        assert first.text == second.text
        other = await engine.ask((99, *prompt[1:]))
        assert other.end.usage.cached_tokens == 0


async def test_without_a_cache_nothing_is_known(toy: Loaded) -> None:
    async with toy_engine(toy, kind=NoCache) as engine:
        prompt = tuple(range(100, 200))
        answers = [await engine.ask(prompt) for _ in range(2)]
        assert [a.end.usage.cached_tokens for a in answers] == [0, 0]
        assert engine.runner.computed(1) == 100


@pytest.mark.parametrize("kind", [NoCache, PagedCache])
@pytest.mark.parametrize("seed", [None, 1])
async def test_a_tiny_pool_gives_the_text_of_a_large_one(
    toy: Loaded, kind: type[NoCache], seed: int | None
) -> None:
    texts = []
    for pool_tokens in (4096, 256):
        async with toy_engine(
            toy, replies=LONG_REPLIES, pool_tokens=pool_tokens, kind=kind
        ) as engine:
            prompts = [tuple(range(100 + 50 * i, 140 + 50 * i)) for i in range(6)]
            sampling = GREEDY if seed is None else Sampling(temperature=0.9, seed=seed)
            engine.runner.gate.clear()
            streams = [engine.submit(p, sampling, max_tokens=70) for p in prompts]
            engine.runner.gate.set()
            answers = await asyncio.gather(*map(read, streams))
            texts.append([answer.text for answer in answers])
            assert (engine.engine.status.preemptions > 0) is (pool_tokens == 256)
            assert {len(answer.token_ids) for answer in answers} == {70}
            await engine.is_empty()
    assert texts[0] == texts[1]


# -- aborts


async def test_an_abort_while_running(toy: Loaded) -> None:
    async with toy_engine(toy, replies=LONG_REPLIES) as engine:
        leaver, stayer = (engine.submit("x", max_tokens=80) for _ in range(2))
        await anext(leaver)
        leaver.abort()
        assert len((await read(stayer)).token_ids) == 80
        await engine.is_empty()
        assert engine.runner.sequence(0).num_sampled < 80


async def test_an_abort_in_the_middle_of_a_prompt(toy: Loaded) -> None:
    async with toy_engine(toy) as engine:
        engine.runner.gate.clear()
        stream = engine.submit(tuple(range(1000)))
        await engine.until(lambda: len(engine.runner.grants) == 1)
        assert engine.engine.status.kv_used_tokens >= 64
        stream.abort()
        engine.runner.gate.set()
        await engine.is_empty()
        assert engine.runner.computed(0) < 1000
        assert (await read(stream)).deltas == []


async def test_an_abort_while_waiting(toy: Loaded) -> None:
    async with toy_engine(toy, max_running=1) as engine:
        engine.runner.gate.clear()
        first, second, third = (engine.submit(text) for text in ("a", "b", "c"))
        second.abort()
        engine.runner.gate.set()
        answers = await asyncio.gather(read(first), read(third))
        assert [answer.text for answer in answers] == ["You said: a", "You said: c"]
        await engine.is_empty()
        assert {grant.sequence.number for grant in engine.runner.grants} == {0, 2}


async def test_a_reader_that_is_cancelled_leaves_nothing_behind(toy: Loaded) -> None:
    async with toy_engine(toy, replies=LONG_REPLIES) as engine:
        engine.runner.gate.clear()
        stream = engine.submit("x", max_tokens=60)
        reader = asyncio.create_task(read(stream))
        await engine.until(lambda: len(engine.runner.grants) > 0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        stream.abort()
        engine.runner.gate.set()
        await engine.is_empty()


# -- failures


@pytest.mark.parametrize("how", ["raises", "spoils"])
@pytest.mark.parametrize("from_count", [0, 3])
async def test_one_request_fails_alone(toy: Loaded, how: str, from_count: int) -> None:
    async with toy_engine(toy) as engine:
        expected = [(await engine.ask(prompt)).text for prompt in PROMPTS]
        guilty = len(PROMPTS) + 2

        def is_guilty(grant: Any) -> bool:
            sequence = grant.sequence
            return sequence.number == guilty and len(sequence.output_ids) >= from_count

        setattr(engine.runner, how, is_guilty)
        streams = [engine.submit(prompt) for prompt in PROMPTS]
        results = await asyncio.gather(*map(read, streams), return_exceptions=True)
        failure = results.pop(2)
        assert isinstance(failure, GenerationFailed)
        assert ("this row breaks the step" if how == "raises" else "NaN") in str(failure)
        texts = [answer.text for answer in results if isinstance(answer, Answer)]
        assert texts == expected[:2] + expected[3:]
        await engine.is_empty()
        assert engine.engine.status.state == "ready"
        again = await engine.ask(PROMPTS[2])  # and it is not remembered against the prompt
        assert again.text == expected[2]


async def test_when_the_thread_dies_everybody_is_told(
    toy: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with toy_engine(toy, max_running=2, replies=LONG_REPLIES) as engine:
        engine.runner.gate.clear()
        streams = [engine.submit("x") for _ in range(4)]
        await engine.until(lambda: len(engine.runner.grants) > 0)

        def broken(*_: Any) -> None:
            raise SystemError("out of luck")

        monkeypatch.setattr(engine.engine._scheduler, "plan", broken)
        engine.runner.gate.set()
        results = await asyncio.gather(*map(read, streams), return_exceptions=True)
        assert {type(result) for result in results} == {EngineStopped}
        assert {str(result) for result in results} == {"the engine died: out of luck"}
        status = engine.engine.status
        assert (status.state, status.failure) == ("failed", "the engine died: out of luck")
        with pytest.raises(EngineStopped, match="out of luck"):
            engine.submit("x")
        assert "the engine thread died" in caplog.text


async def test_a_letter_that_nobody_will_read_is_an_error(
    toy: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread dies between the look at its state and the posting."""
    async with toy_engine(toy) as engine:
        mine = engine.engine
        post = mine._inbox.post

        def die_first(letter: Any) -> None:
            mine._state, mine._failure = "failed", "just now"
            post(letter)

        monkeypatch.setattr(mine._inbox, "post", die_first)
        with pytest.raises(EngineStopped, match="just now"):
            engine.submit("x")
        monkeypatch.undo()


class NoSource:
    def load(self, kv: Any, progress: Progress) -> Loaded:
        raise ModelError("no such folder")


def engine_of(source: Any) -> GenerationEngine:
    scheduler = ContinuousScheduler(4, 4, 64, 32, 2.0, None)
    return GenerationEngine(source, scheduler, NoCache(16, gib_for(256)), no_progress)


GENERATION = Generation(id="r", prompt_ids=(1, 2))


async def test_a_model_that_cannot_be_loaded_fails_the_start() -> None:
    engine = engine_of(NoSource())
    with pytest.raises(ModelError, match="no such folder"):
        await engine.start()
    assert engine.status.state == "failed"
    assert engine.status.failure == "no such folder"
    with pytest.raises(EngineStopped, match="no such folder"):
        engine.submit(GENERATION)
    with pytest.raises(EngineStopped):
        _ = engine.card
    await engine.stop(0)


async def test_before_the_start_nothing_is_taken(toy: Loaded) -> None:
    engine = engine_of(ToySource(toy, None, 4096))
    assert engine.status.state == "starting"
    with pytest.raises(EngineStopped, match="starting"):
        engine.submit(GENERATION)
    with pytest.raises(EngineStopped, match="starting"):
        _ = engine.card
    await engine.stop(0)  # nothing to stop


# -- the end


async def test_a_drain_lets_everybody_finish(toy: Loaded) -> None:
    async with toy_engine(toy, max_running=2) as engine:
        engine.runner.gate.clear()
        streams = [engine.submit(prompt) for prompt in PROMPTS]
        stopping = asyncio.create_task(engine.engine.stop(60))
        await asyncio.sleep(0.01)
        assert engine.engine.status.state == "draining"
        with pytest.raises(EngineStopped, match="draining"):
            engine.engine.submit(GENERATION)
        # who is still answering needs both
        assert engine.engine.card.id == "toy"
        assert engine.engine.codec.encode("x")
        engine.runner.gate.set()
        answers = await asyncio.gather(*map(read, streams))
        await stopping
        assert [answer.text for answer in answers] == [f"You said: {p}" for p in PROMPTS]
        assert engine.engine.status.state == "stopped"
        await engine.engine.stop(0)  # again: does nothing


async def test_a_stop_at_once_tells_who_runs_and_who_waits(toy: Loaded) -> None:
    async with toy_engine(toy, max_running=2, replies=LONG_REPLIES) as engine:
        streams = [engine.submit("x", max_tokens=3000, ignore_eos=True) for _ in range(4)]
        first = await anext(streams[0])
        assert isinstance(first, TextDelta)
        await engine.engine.stop(0)
        results = await asyncio.gather(*map(read, streams), return_exceptions=True)
        assert {type(result) for result in results} == {EngineStopped}
        assert {str(result) for result in results} == {"the server is shutting down"}
        status = engine.engine.status
        assert (status.state, status.running, status.waiting) == ("stopped", 0, 0)
        with pytest.raises(EngineStopped, match="stopped"):
            engine.engine.submit(GENERATION)


async def test_a_stop_while_loading_ends_the_thread(toy: Loaded) -> None:
    engine = engine_of(ToySource(toy, None, 4096))
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    await engine.stop(5)
    await starting
    assert engine.status.state == "stopped"
