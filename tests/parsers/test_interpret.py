"""From the engine's deltas to the clients': ids and logprobs, counts, and the reason to stop."""

from hypothesis import given, settings

from tests.parsers.strategies import EXAMPLES, TOOLS, cut, sizes
from vllm_mlx.core.delta import (
    Delta,
    Finished,
    FinishReason,
    PromptScored,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from vllm_mlx.parsers.formats.registry import reasoning_format, tool_format
from vllm_mlx.parsers.ids import CountingIds
from vllm_mlx.parsers.interpret import Interpreter
from vllm_mlx.parsers.machine import Markup

TEXT = (
    "<think>Hm, 😀</think>Let me look.\n<tool_call>\n"
    '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
)


def interpret(
    pieces: list[str], reason: FinishReason = "stop", tool: str = "hermes"
) -> tuple[list[Delta], Interpreter]:
    markup = Markup(tool_format(tool), reasoning_format("qwen3"))
    interpreter = Interpreter(markup.reply(TOOLS, CountingIds()))
    deltas: list[Delta] = []
    for n, piece in enumerate(pieces):
        logprob = TokenLogprob(n, piece, piece.encode(), -0.5)
        deltas += interpreter.feed(TextDelta(piece, (n,), (logprob,)))
    usage = Usage(prompt_tokens=5, completion_tokens=len(pieces))
    deltas += interpreter.feed(Finished(reason, usage))
    return deltas, interpreter


@given(lengths=sizes)
@settings(max_examples=EXAMPLES)
def test_every_token_id_comes_out_once_in_order(lengths: list[int]) -> None:
    pieces = cut(TEXT, lengths)
    deltas, _ = interpret(pieces)
    ids = [one for delta in deltas if not isinstance(delta, Finished)
           for one in delta.token_ids]  # type: ignore[union-attr] # fmt: skip
    assert ids == list(range(len(pieces)))


@given(lengths=sizes)
@settings(max_examples=EXAMPLES)
def test_the_deltas_fold_to_the_message(lengths: list[int]) -> None:
    deltas, interpreter = interpret(cut(TEXT, lengths))
    assert "".join(d.text for d in deltas if isinstance(d, ReasoningDelta)) == "Hm, 😀"
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == "Let me look."
    calls = [d for d in deltas if isinstance(d, ToolCallDelta)]
    assert (calls[0].index, calls[0].id, calls[0].name) == (0, f"call_{0:024d}", "get_weather")
    assert "".join(d.arguments for d in calls) == '{"city": "Paris"}'
    finished = deltas[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "tool_calls"
    assert interpreter.call_problems == {}


def test_reasoning_tokens_are_those_of_the_thinking_and_its_tags() -> None:
    deltas, _ = interpret(["<think>", "Hm", ".", "</think>", "Yes", "."])
    finished = deltas[-1]
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(prompt_tokens=5, completion_tokens=6, reasoning_tokens=4)


def test_logprobs_come_with_content_only() -> None:
    deltas, _ = interpret(["<think>", "Hm", "</think>", "Yes", " ", "we", "<", "="])
    tokens = [p.token for d in deltas if isinstance(d, TextDelta) for p in d.logprobs]
    assert tokens == ["Yes", " ", "we", "<", "="]


def test_a_cut_reply_keeps_its_reason_and_says_which_call_broke() -> None:
    deltas, interpreter = interpret([TEXT[:-20]], "length")
    finished = deltas[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    assert interpreter.call_problems == {0: "truncated"}


def test_a_reply_without_a_call_just_stops() -> None:
    deltas, _ = interpret(["Hello"])
    assert isinstance(deltas[-1], Finished)
    assert deltas[-1].reason == "stop"


def test_other_deltas_pass() -> None:
    _, interpreter = interpret([])
    scored = PromptScored(())
    assert interpreter.feed(scored) == [scored]
