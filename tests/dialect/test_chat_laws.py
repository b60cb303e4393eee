"""Laws of chat replies: any deltas, in any interleaving of the choices."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.core.delta import Delta, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from vllm_mlx.dialect.chat import ChatStream
from vllm_mlx.dialect.chat_fold import ChatFold
from vllm_mlx.wire.openai_chat import ChatChunk, ChatRequest, ChatUserMessage
from vllm_mlx.wire.openai_sampling import StreamOptions

texts = st.builds(
    TextDelta, st.text(max_size=4), st.lists(st.integers(0, 9), max_size=3).map(tuple)
)
thoughts = st.builds(ReasoningDelta, st.text(max_size=4), st.just((1,)))


@st.composite
def deltas_of_a_choice(draw: st.DrawFn) -> list[Delta]:
    """A stream as the engine promises it: pieces, then exactly one end."""
    pieces: list[Delta] = draw(st.lists(texts | thoughts, max_size=5))
    for index in range(draw(st.integers(0, 2))):
        pieces.append(ToolCallDelta(index, f"call_{index}", "look"))
        parts = draw(st.lists(st.text(max_size=3), max_size=3))
        pieces.extend(ToolCallDelta(index, arguments=part) for part in parts)
    sampled = sum(len(p.token_ids) for p in pieces if isinstance(p, TextDelta | ReasoningDelta))
    reason: Any = draw(st.sampled_from(["stop", "length", "tool_calls", "abort"]))
    return [*pieces, Finished(reason, Usage(7, sampled, cached_tokens=3))]


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[list[Delta]], list[tuple[int, Delta]]]:
    choices = draw(st.lists(deltas_of_a_choice(), min_size=1, max_size=3))
    left = [list(deltas) for deltas in choices]
    mixed: list[tuple[int, Delta]] = []
    while any(left):
        choice = draw(st.sampled_from([i for i, deltas in enumerate(left) if deltas]))
        mixed.append((choice, left[choice].pop(0)))
    return choices, mixed


def replies(count: int, **options: bool) -> tuple[ChatStream, ChatFold]:
    body = ChatRequest(
        messages=[ChatUserMessage(content="x")], n=count, stream_options=StreamOptions(**options)
    )
    named: dict[str, Any] = {"id": "i", "created": 1, "model": "m"}
    return ChatStream(body, **named, prompt_tokens=7), ChatFold(body, **named)


def chunks_of(stream: ChatStream, mixed: list[tuple[int, Delta]]) -> list[ChatChunk]:
    chunks = [chunk for choice, delta in mixed for chunk in stream.add(choice, delta)]
    return [*chunks, *stream.end()]


@given(interleaved())
def test_a_whole_answer_is_the_fold_of_the_stream(
    case: tuple[list[list[Delta]], list[tuple[int, Delta]]],
) -> None:
    choices, mixed = case
    stream, fold = replies(len(choices))
    for chunk in chunks_of(stream, mixed):
        fold.add(chunk)
    ends = {i: deltas[-1] for i, deltas in enumerate(choices)}
    body = fold.body(ends)  # type: ignore[arg-type]
    for choice, deltas in zip(body.choices, choices, strict=True):
        said = "".join(d.text for d in deltas if isinstance(d, TextDelta))
        thought = "".join(d.text for d in deltas if isinstance(d, ReasoningDelta))
        calls: dict[int, str] = {}
        for delta in deltas:
            if isinstance(delta, ToolCallDelta):
                calls[delta.index] = calls.get(delta.index, "") + delta.arguments
        assert (choice.message.content or "") == said
        assert (choice.message.content is None) == (bool(calls) and not said)
        assert (choice.message.reasoning_content or "") == thought
        held = choice.message.tool_calls or []
        assert [call.function.arguments for call in held] == [calls[i] for i in sorted(calls)]
        assert [call.id for call in held] == [f"call_{i}" for i in sorted(calls)]
        assert choice.finish_reason == deltas[-1].reason  # type: ignore[union-attr]
    assert body.usage.prompt_tokens == 7
    assert body.usage.prompt_tokens_details.cached_tokens == 3
    assert body.usage.completion_tokens == sum(end.usage.completion_tokens for end in ends.values())  # type: ignore[union-attr]


@given(interleaved(), st.booleans(), st.booleans())
def test_the_order_of_chunks(
    case: tuple[list[list[Delta]], list[tuple[int, Delta]]], usage: bool, continuous: bool
) -> None:
    choices, mixed = case
    stream, _ = replies(len(choices), include_usage=usage, continuous_usage_stats=continuous)
    chunks = chunks_of(stream, mixed)
    if usage:
        last = chunks.pop()
        assert last.choices == []
        assert last.usage is not None
    for index in range(len(choices)):
        own = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert own[0].delta.role == "assistant"
        assert all(not piece.delta.role for piece in own[1:])
        assert [piece.finish_reason is None for piece in own] == [True] * (len(own) - 1) + [False]
    if usage and continuous:
        counts = [c.usage.completion_tokens for c in chunks]  # type: ignore[union-attr]
        assert counts == sorted(counts)
    else:
        assert all(not c.usage for c in chunks)
