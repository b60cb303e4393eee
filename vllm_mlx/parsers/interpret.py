"""Core deltas of plain text -> core deltas of content, reasoning and tool calls.

Sits between the detokenizer and the dialects. Formats are in ``formats/``, reading in
``machine.py``.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from vllm_mlx.core.delta import (
    Delta,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from vllm_mlx.parsers.base import (
    CallArguments,
    CallEnd,
    CallProblem,
    CallStart,
    Content,
    Event,
    Parser,
    Reasoning,
)


class Interpreter:
    """Reads one reply. Every delta of the engine goes through ``feed``, ``Finished`` last.

    Token ids come out once, in order, with the first delta that their text (or the text before
    it) leads to. Logprobs come out with content only, as clients expect: those of thinking,
    calls and markers are dropped. ``Finished`` gets the count of reasoning tokens, and the
    reason ``tool_calls`` if a reply that stopped by itself holds a call.
    """

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._ids: tuple[int, ...] = ()
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self._reasoning_tokens = 0
        self.call_problems: dict[int, CallProblem] = {}  # of ended calls, by index
        self._calls = 0

    def feed(self, delta: Delta) -> list[Delta]:
        """The deltas that follow from the next one."""
        if isinstance(delta, TextDelta):
            return self._text(delta)
        if isinstance(delta, Finished):
            return self._finish(delta)
        return [delta]

    def _text(self, delta: TextDelta) -> list[Delta]:
        parser = self._parser
        was_reasoning = parser.is_reasoning
        events = parser.feed(delta.text) if delta.text else []
        if delta.token_ids:
            self._ids = self._ids + delta.token_ids if self._ids else delta.token_ids
            if was_reasoning or parser.is_reasoning:
                self._reasoning_tokens += len(delta.token_ids)
        if delta.logprobs and (not was_reasoning or any(type(e) is Content for e in events)):
            self._logprobs += delta.logprobs
        deltas = self._deltas(events)
        if parser.is_reasoning:
            self._logprobs = ()
        return deltas

    def _finish(self, finished: Finished) -> list[Delta]:
        is_cut = finished.reason in ("length", "abort")
        deltas = self._deltas(self._parser.finish(is_cut=is_cut))
        if self._ids or self._logprobs:
            deltas.append(TextDelta("", self._ids, self._logprobs))
        usage = replace(finished.usage, reasoning_tokens=self._reasoning_tokens)
        reason = "tool_calls" if self._calls and finished.reason == "stop" else finished.reason
        deltas.append(replace(finished, usage=usage, reason=reason))
        return deltas

    def _deltas(self, events: Iterable[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        for event in events:
            kind = type(event)
            if kind is CallEnd:
                self._end(event)  # type: ignore[arg-type]
                continue
            ids, self._ids = self._ids, ()
            if kind is Content:
                logprobs, self._logprobs = self._logprobs, ()
                deltas.append(TextDelta(event.text, ids, logprobs))  # type: ignore[union-attr]
                continue
            self._logprobs = ()
            if kind is Reasoning:
                deltas.append(ReasoningDelta(event.text, ids))  # type: ignore[union-attr]
            else:
                deltas.append(self._call(event, ids))
        return deltas

    def _call(self, event: Event, ids: tuple[int, ...]) -> ToolCallDelta:
        if isinstance(event, CallStart):
            self._calls += 1
            return ToolCallDelta(event.index, event.id, event.name, token_ids=ids)
        assert isinstance(event, CallArguments)
        return ToolCallDelta(event.index, arguments=event.text, token_ids=ids)

    def _end(self, event: CallEnd) -> None:
        if event.problem is not None:
            self.call_problems[event.index] = event.problem
