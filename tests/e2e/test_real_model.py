"""The default model in process: right answers in good English, and numbers that are mlx-lm's."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from msgspec.structs import replace

from tests.checkpoints import smollm2_folder
from tests.engine_driver import Answer, ask, greedy, running_engine
from vllm_mlx.core.delta import TokenLogprob
from vllm_mlx.core.generation import Generation, Sampling, Stopping
from vllm_mlx.engine.engine import GenerationEngine
from vllm_mlx.model.load import load_checkpoint

# questions whose answers a model of 135 million parameters gives, and a part of each answer
QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "What is the capital of Germany?": "Berlin",
    "How many days are in a week?": "7 days",
    "How many legs does a dog have?": "four legs",
    "What is 2+2?": " 4",
    "What color is the sky?": "blue",
    "What is the opposite of hot?": "cold",
}
EMOJI = "Repeat after me: 😀🎉 日本語 naïve"  # it repeats the second
ROUNDING = 2e-3


class Served:
    """The engine on an event loop of its own, for the tests of this file."""

    def __init__(self, runner: asyncio.Runner, engine: GenerationEngine) -> None:
        self._runner, self.engine = runner, engine

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def prompt(self, question: str) -> list[int]:
        return self.engine.codec.render_chat([{"role": "user", "content": question}])

    def ask(self, *generations: Generation) -> list[Answer]:
        """All at once."""

        async def together() -> list[Answer]:
            return list(await asyncio.gather(*(ask(self.engine, g) for g in generations)))

        answers: list[Answer] = self.run(together())
        return answers


@pytest.fixture(scope="module")
def folder(checkpoint_root: Path) -> Path:
    return smollm2_folder(checkpoint_root)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with asyncio.Runner() as runner:
        context = running_engine(folder)
        yield Served(runner, runner.run(context.__aenter__()))
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_checkpoint(folder).model


def chat(prompt: list[int], max_tokens: int, **stopping: Any) -> Generation:
    return Generation(
        id="chat",
        prompt_ids=tuple(prompt),
        sampling=Sampling(temperature=0.0),
        stopping=Stopping(max_tokens=max_tokens, **stopping),
    )


def test_it_runs_as_it_should(served: Served) -> None:
    card = served.engine.card
    assert (card.architecture, card.mode, card.dtype) == ("llama", "token_rows", "float32")
    assert (card.context_tokens, card.vocab_tokens) == (8192, 49152)


def test_right_answers_to_many_at_once(served: Served) -> None:
    answers = served.ask(*(chat(served.prompt(question), 20) for question in QUESTIONS))
    for answer, (question, part) in zip(answers, QUESTIONS.items(), strict=True):
        assert part in answer.text, f"{question} {answer.text}"
    ended = [answer.finished.reason for answer in answers if answer.finished]
    assert len(ended) == len(answers)
    assert ended[:3] == ["stop", "stop", "stop"]  # by its own end token


def test_what_is_streamed_is_the_text_of_the_tokens(served: Served) -> None:
    answers = served.ask(
        chat(served.prompt("What is the capital of France?"), 20),
        chat(served.prompt("Count from one to ten."), 30),
        chat(served.prompt(EMOJI), 16, ignore_eos=True),
    )
    for answer in answers:
        assert answer.text == served.engine.codec.decode(answer.token_ids)
        assert len(answer.pieces) > 5
        assert answer.finished is not None
        assert answer.finished.usage.completion_tokens == len(answer.token_ids)
    emoji = answers[2]
    assert emoji.text.count("🎉") >= 2
    assert "\ufffd" not in emoji.text  # though one of them is several tokens
    assert len(emoji.token_ids) > len(emoji.text)


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        (("Paris",), "The capital of France is "),
        (("pital of F",), "The ca"),  # begins and ends inside of tokens
        (("is London", "rance is P", "aris"), "The capital of F"),
        ((".",), "The capital of France is Paris"),
    ],
)
def test_stop_strings_are_never_shown(served: Served, stop: tuple[str, ...], shown: str) -> None:
    prompt = served.prompt("What is the capital of France?")
    answer = served.ask(chat(prompt, 20, stop=stop))[0]
    assert answer.text == shown
    assert answer.finished is not None
    assert answer.finished.reason == "stop"
    assert answer.finished.stop_match in stop
    for shown_so_far in range(len(answer.pieces)):  # nothing was shown and taken back
        assert shown.startswith("".join(answer.pieces[:shown_so_far]))


def test_logprobs_are_mlx_lms(served: Served, model: Any) -> None:
    prompt = served.prompt("Write one sentence about the sea.")
    biased = Sampling(temperature=0.0, logit_bias={5: -3.0}, repetition_penalty=1.1)
    plain = greedy(prompt, 8, top_logprobs=5)
    answers = served.ask(plain, replace(plain, sampling=biased, top_logprobs=2))
    for answer in answers:  # of the model's own distribution, whatever was done to choose
        given = [*prompt, *answer.token_ids]
        rows = _logprob_rows(model, given)[len(prompt) - 1 :]
        for entry, token_id, row in zip(answer.logprobs, answer.token_ids, rows, strict=False):
            _check_entry(entry, token_id, row)
        assert answer.finished is not None
        total = sum(entry.logprob or 0.0 for entry in answer.logprobs)
        assert answer.finished.cumulative_logprob == pytest.approx(total)
    by_mlx_lm = list(generate_step(mx.array(prompt), model, max_tokens=8))
    assert answers[0].token_ids == [int(token) for token, _ in by_mlx_lm]
    for entry, (token, logprobs) in zip(answers[0].logprobs, by_mlx_lm, strict=True):
        _check_entry(entry, int(token), logprobs)


def _logprob_rows(model: Any, token_ids: list[int]) -> mx.array:
    """One plain forward pass, without our caches: [tokens, vocab]."""
    logits: mx.array = model(mx.array([token_ids]))[0]
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _check_entry(entry: TokenLogprob, token_id: int, row: mx.array) -> None:
    assert entry.token_id == token_id
    assert entry.logprob == pytest.approx(row[token_id].item(), abs=ROUNDING)
    count = len(entry.top)
    best: Any = mx.sort(row)[::-1][:count].tolist()
    assert [top.logprob for top in entry.top] == pytest.approx(best, abs=ROUNDING)
    for top in entry.top:
        assert top.logprob == pytest.approx(row[top.token_id].item(), abs=ROUNDING)


def test_prompt_logprobs_are_those_of_a_plain_forward(served: Served, model: Any) -> None:
    text = "The Eiffel Tower stands in Paris. The Colosseum stands in Rome. " * 5
    prompt = served.engine.codec.encode(text)
    assert len(prompt) > 64  # more than one chunk
    generation = replace(chat(prompt, 0), prompt_logprobs=2)
    answer = served.ask(generation)[0]
    rows = _logprob_rows(model, prompt)
    assert [entry.token_id for entry in answer.prompt_logprobs] == prompt
    assert answer.prompt_logprobs[0].logprob is None
    for entry, token_id, row in zip(answer.prompt_logprobs[1:], prompt[1:], rows, strict=False):
        _check_entry(entry, token_id, row)
    assert answer.token_ids == []
    assert b"".join(entry.bytes for entry in answer.prompt_logprobs).decode() == text


def test_choices_of_one_seed_differ_and_come_again(served: Served) -> None:
    prompt = served.prompt("Tell me about the moon.")

    def choices(seed: int) -> list[Generation]:
        sampling = Sampling(temperature=0.8, seed=seed)
        return [replace(chat(prompt, 8), sampling=sampling, choice=n) for n in range(4)]

    answers = served.ask(*choices(1), *choices(2), *choices(1))
    ids = [tuple(answer.token_ids) for answer in answers]
    assert len(set(ids[:4])) == 4
    assert not set(ids[:4]) & set(ids[4:8])
    assert ids[8:] == ids[:4]


def test_unseeded_choices_differ(served: Served) -> None:
    prompt = served.prompt("Tell me about the moon.")
    sampling = Sampling(temperature=1.0)
    asked = [replace(chat(prompt, 8), sampling=sampling, choice=n) for n in range(4)]
    assert len({tuple(answer.token_ids) for answer in served.ask(*asked)}) > 1
