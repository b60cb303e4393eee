"""The model without weights: what it plans, what its logits say, and its scripts."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.sequences import make_sequence
from vllm_mlx.cache.none import NoCache
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import Grant
from vllm_mlx.errors import ModelError
from vllm_mlx.model.progress import no_progress
from vllm_mlx.runner.base import Loaded
from vllm_mlx.runner.toy import LEAN, ToyModel, ToyRunner, read_script


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return ToyModel(None, 1 << 17).load(NoCache(16, 0.25), no_progress)


def runner_of(loaded: Loaded, replies: list[str] | None = None) -> ToyRunner:
    codec: Any = loaded.codec
    return ToyRunner(codec, loaded.card.eos_token_ids[0], replies)


def speak(loaded: Loaded, runner: ToyRunner, sequence: Sequence, limit: int = 100) -> str:
    """Greedy tokens until the end token, as text."""
    grant = Grant(sequence, 0, sequence.prompt_tokens, samples=True)
    while len(sequence.output_ids) < limit:
        token: Any = mx.argmax(runner.forward([grant], None)[-1]).item()
        if token in loaded.card.eos_token_ids:
            break
        sequence.output_ids.append(token)
        sequence.num_sampled += 1
        grant = Grant(sequence, sequence.length - 1, 1, samples=True)
    return loaded.codec.decode(sequence.output_ids)


def test_it_says_what_it_is(loaded: Loaded) -> None:
    card = loaded.card
    assert (card.id, card.mode, card.architecture, card.weights_bytes) == ("toy", "toy", "toy", 0)
    assert card.context_tokens == 131072
    assert "without any weights" in card.notes[0]
    assert card.vocab_tokens == len(loaded.token_bytes)
    assert set(card.eos_token_ids) <= loaded.special_ids


def test_the_context_is_what_the_pool_holds() -> None:
    toy = ToyModel(None, 1 << 17).load(NoCache(16, 256 / (1 << 20)), no_progress)
    assert toy.card.context_tokens == 256


def test_it_answers_what_was_said_and_ends(loaded: Loaded) -> None:
    prompt = loaded.codec.render_chat([{"role": "user", "content": "the sea is blue"}])
    sequence = make_sequence(prompt)
    assert speak(loaded, runner_of(loaded), sequence) == "You said: the sea is blue"
    long = loaded.codec.render_chat([{"role": "user", "content": "word " * 400}])
    sequence = make_sequence(long, number=1)
    speak(loaded, runner_of(loaded), sequence)
    assert len(sequence.output_ids) < 32


def test_the_last_user_turn_counts_and_any_prompt_will_do(loaded: Loaded) -> None:
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "last"},
    ]
    prompt = loaded.codec.render_chat(turns)
    assert speak(loaded, runner_of(loaded), make_sequence(prompt)) == "You said: last"
    plain = loaded.codec.encode("just text")
    assert speak(loaded, runner_of(loaded), make_sequence(plain)) == "You said: just text"


def test_logits_lean_towards_the_plan_and_nothing_else(loaded: Loaded) -> None:
    runner = runner_of(loaded)
    one, other = make_sequence([5, 6]), make_sequence([7, 8, 9], number=1)
    grants = [Grant(one, 0, 2, samples=True), Grant(other, 0, 3, samples=False, scores=True)]
    logits = runner.forward(grants, None)
    assert logits.shape == (4, loaded.card.vocab_tokens)
    base = logits[0] - logits[1]
    best: Any = mx.argmax(logits, axis=-1).tolist()
    assert best[1:3] == [8, 9]  # prompt tokens are followed by prompt tokens
    assert best[0] == best[3]  # "You"
    assert abs(base[best[0]].item() - LEAN) < 1e-4  # type: ignore[operator,arg-type]
    assert mx.sum(mx.abs(base) > 1e-4).item() == 2
    assert runner.forward([Grant(one, 0, 1, samples=False)], None).shape == (0, logits.shape[1])


def test_company_changes_nothing(loaded: Loaded) -> None:
    runner = runner_of(loaded)
    one, other = make_sequence([5, 6]), make_sequence([7, 8, 9], number=1)
    grants = [Grant(other, 0, 3, samples=True), Grant(one, 0, 2, samples=True)]
    together = runner.forward(grants, None)
    assert mx.array_equal(runner.forward(grants[1:], None)[0], together[1])


def test_a_script_is_given_in_order_and_again(loaded: Loaded) -> None:
    runner = runner_of(loaded, ["Yes.", "No."])
    said = [speak(loaded, runner, make_sequence([1, 2], number=i)) for i in range(3)]
    assert said == ["Yes.", "No.", "Yes."]


def test_a_preempted_sequence_goes_on_as_it_began(loaded: Loaded) -> None:
    runner = runner_of(loaded, ["one two three", "other"])
    sequence = make_sequence([1, 2])
    speak(loaded, runner, sequence, limit=1)
    runner.forget(sequence)
    sequence.output_ids, sequence.num_sampled = [], 0
    assert speak(loaded, runner, sequence) == "one two three"
    sequence.state = "finished"
    runner.forget(sequence)
    sequence.output_ids, sequence.num_sampled = [], 0
    assert speak(loaded, runner, sequence) == "other"


def test_scripts_with_tool_calls(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    call = {"name": "look", "arguments": {"at": "é"}}
    entries = [
        "plain",
        {"content": "I look.", "tool_calls": [call, {"name": "rest"}]},
        {"content": None},
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")
    plain, calls, empty = read_script(path)
    assert (plain, empty) == ("plain", "")
    first, *marked = calls.split("<tool_call>\n")
    assert first == "I look.\n"
    bodies = [json.loads(part.split("\n</tool_call>")[0]) for part in marked]
    assert bodies == [call, {"name": "rest", "arguments": {}}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", r"script\.json: Expecting value"),
        ("[]", r"at least one reply"),
        ('{"content": "x"}', r"at least one reply"),
        ('["a", 7]', r"script\.json\[1\]: a text, or an object"),
        ('[{"text": "x"}]', r"script\.json\[0\]: a text, or an object"),
        ('[{"tool_calls": [{"arguments": {}}]}]', r"\[0\]: a tool call needs a name"),
        ('[{"tool_calls": {"name": "x"}}]', r"\[0\]"),
        ('[{"content": 7}]', r"\[0\]"),
    ],
)
def test_a_wrong_script_says_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        read_script(path)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        ToyModel(str(tmp_path / "nowhere.json"), 4096)


def test_it_keeps_nothing(loaded: Loaded) -> None:
    runner = runner_of(loaded)
    runner.reset()
    runner.scrub([1])
    runner.trim(1)
    assert runner.state() == []
    assert runner.allocated_bytes == 0
