"""The machine that reads a reply: content, thinking and calls, by a format's markers.

What a marker leads to is data (``formats/``); how one call is written is in ``bodies/``.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any

from vllm_mlx.parsers.base import Content, Event, Reasoning, ToolSchemas
from vllm_mlx.parsers.bodies.headed import HeadedCalls, read_headed
from vllm_mlx.parsers.bodies.json_object import JsonCalls, read_json
from vllm_mlx.parsers.bodies.pythonic import PythonicCalls, read_pythonic
from vllm_mlx.parsers.bodies.raw import RawCalls, read_raw
from vllm_mlx.parsers.bodies.tagged import TaggedCalls, read_tagged
from vllm_mlx.parsers.calls import CallWriter, Reading
from vllm_mlx.parsers.channels import read_body, read_header
from vllm_mlx.parsers.flow import Flow
from vllm_mlx.parsers.formats.description import (
    Channels,
    ReasoningFormat,
    Region,
    ToolFormat,
    openers_of,
)
from vllm_mlx.parsers.ids import IdFactory
from vllm_mlx.parsers.prompt import begins_in_reasoning
from vllm_mlx.parsers.recovery import HeldCallWriter, Recovery
from vllm_mlx.parsers.scanner import Markers, Scanner, Steps, markers_of

_READERS: Mapping[type, Callable[[Reading, Any, str], Steps[bool]]] = {
    JsonCalls: read_json,
    TaggedCalls: read_tagged,
    HeadedCalls: read_headed,
    PythonicCalls: read_pythonic,
    RawCalls: read_raw,
}


class Markup:
    """A tool format and a reasoning format, compiled once per model; holds no reply's state."""

    def __init__(self, tool: ToolFormat | None, reasoning: ReasoningFormat | None) -> None:
        self.tool, self.reasoning = tool, reasoning
        self.channels: Channels | None = (tool.channels if tool else None) or (
            reasoning.channels if reasoning else None
        )
        regions = tool.regions if tool else ()
        self.regions: dict[str, list[Region]] = {}
        for region in regions:
            for opener in openers_of(region):
                self.regions.setdefault(opener, []).append(region)
        self.starts = [(one, region) for region in regions for one in region.starts]
        self.noise = frozenset(
            (*(tool.noise if tool else ()), *(reasoning.noise if reasoning else ()))
        )
        self.restarts = frozenset(tool.restarts if tool else ())
        self.thinks = frozenset(reasoning.opens if reasoning else ())
        headers = reasoning.channels if reasoning else None
        self.thought = Markers(
            (
                *(reasoning.closes if reasoning else ()),
                *(reasoning.until if reasoning else ()),
                *((*headers.starts, *headers.ends) if headers else ()),
            )
        )
        self.bodies = frozenset(
            (*self.channels.starts, *self.channels.ends) if self.channels else ()
        )
        self.stray = frozenset(reasoning.closes if reasoning and not reasoning.assumed else ())
        marks = (*self.regions, *self.noise, *self.restarts, *self.thinks, *self.bodies)
        self.content = Markers(marks)
        self.content_untold = Markers((*marks, *self.stray))

    @property
    def markers(self) -> tuple[str, ...]:
        """Every literal that must reach the parser: a detokenizer may not skip these."""
        more = self.channels.messages if self.channels else ()
        return tuple(dict.fromkeys((*self.content.literals, *self.thought.literals, *more)))

    def begins_in_reasoning(self, prompt: str) -> bool | None:
        """Whether the prompt's end leaves the thinking open or closed; None if it says neither."""
        return begins_in_reasoning(self.reasoning, prompt) if self.reasoning else None

    def reply(
        self,
        tools: ToolSchemas,
        ids: IdFactory,
        *,
        in_reasoning: bool | None = None,
        recovery: Recovery = "none",
    ) -> "MarkupParser":
        """A parser for one reply; ``in_reasoning`` as ``begins_in_reasoning`` says."""
        return MarkupParser(self, tools, ids, in_reasoning, recovery)


class MarkupParser:
    """Reads one reply; see ``base.Parser``."""

    def __init__(
        self,
        markup: Markup,
        tools: ToolSchemas,
        ids: IdFactory,
        in_reasoning: bool | None,
        recovery: Recovery,
    ) -> None:
        self._markup = markup
        self._scan = Scanner()
        self._events: list[Event] = []
        self._content = Flow(lambda text: self._events.append(Content(text)), False)
        self._reasoning = Flow(lambda text: self._events.append(Reasoning(text)), True)
        self._reading = Reading(self._scan, self._writer(ids, tools, recovery), tools)
        self._untold = in_reasoning is None
        assumed = markup.reasoning is not None and markup.reasoning.assumed
        self.is_reasoning = assumed if in_reasoning is None else in_reasoning
        self._run: Generator[None, None, None] = self._read()
        next(self._run)

    def _writer(self, ids: IdFactory, tools: ToolSchemas, recovery: Recovery) -> CallWriter:
        tool = self._markup.tool
        style = tool.ids if tool else "call"
        drops = tool is not None and tool.drops_repeats
        if recovery == "none" and not drops:
            return CallWriter(self._emit, ids, style)
        return HeldCallWriter(
            self._emit, ids, style, self._scan, tools=tools, recovery=recovery, drops_repeats=drops
        )

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def feed(self, text: str) -> list[Event]:
        self._scan.push(text)
        next(self._run)
        events, self._events = self._events, []
        return events

    def finish(self, *, is_cut: bool = False) -> list[Event]:
        self._scan.ended = True
        self._scan.is_cut = is_cut
        next(self._run, None)
        self._reasoning.finish()
        self._content.finish()
        events, self._events = self._events, []
        return events

    # ------------------------------------------------------------------ the reply
    def _read(self) -> Generator[None, None, None]:
        yield  # the first piece
        if self.is_reasoning:
            yield from self._repeated_opener()
            yield from self._think(self._markup.thought)
        channels = self._markup.channels
        if channels is None:
            yield from self._read_content()
            return
        first = True
        while (yield from self._message(channels, first)):
            first = False

    def _repeated_opener(self) -> Steps[None]:
        """The prompt opened the thinking, and the model does so once more."""
        at = yield from self._scan.skip_space(0)
        hit = yield from self._scan.literal(at, markers_of(*self._markup.thinks))
        if hit:
            self._scan.pos += at + len(hit)

    def _message(self, channels: Channels, first: bool) -> Steps[bool]:
        """One header and its body; False when the text is over."""
        scan, calls = self._scan, self._reading.calls
        kind = yield from read_header(self._reading, channels, first)
        if kind is None:
            yield from self._broken_header(channels)
        else:
            self._content.boundary()
        if kind is not None and kind.is_reasoning and self._markup.reasoning is not None:
            yield from self._think(markers_of(*channels.starts, *channels.ends))
        elif kind is not None and kind.tool and self._markup.tool is not None:
            calls.enter()
            yield from read_body(self._reading, channels, kind.tool)
            self._leave()
        else:
            yield from self._read_content()
        at = yield from scan.skip_space(0)
        hit = yield from scan.literal(at, markers_of(*channels.ends))
        if hit:
            scan.pos += at + len(hit)
            self._content.boundary()
        return bool((yield from scan.char(0)))

    def _broken_header(self, channels: Channels) -> Steps[None]:
        """What begins a header but is none is text."""
        scan = self._scan
        at = yield from scan.skip_space(0)
        hit = yield from scan.literal(at, markers_of(*channels.starts))
        if hit:
            self._content.write(scan.text[scan.pos : scan.pos + at + len(hit)])
            scan.pos += at + len(hit)

    def _read_content(self) -> Steps[None]:
        """Content with thinking and calls in it, up to the end of a body or of the text."""
        markup, scan, content = self._markup, self._scan, self._content
        fresh = True
        while True:
            if fresh and markup.starts and (yield from self._try_starts()):
                continue
            fresh = False
            marker = yield from self._stream(
                content, markup.content_untold if self._untold else markup.content
            )
            if not marker or marker in markup.bodies:
                return
            if marker in markup.thinks and self._may_think():
                scan.pos += len(marker)
                self._untold = False
                yield from self._think(markup.thought)
                fresh = True
            elif marker in markup.noise:
                scan.pos += len(marker)
                content.boundary()
            elif marker in markup.regions:
                if not (yield from self._region(marker)):
                    # one character only: another marker may begin inside this one
                    content.write(marker[0])
                    scan.pos += 1
            else:
                fresh = marker in markup.restarts
                self._as_text(marker)

    def _as_text(self, marker: str) -> None:
        """A marker that leads nowhere is text; a close of thinking nobody announced is markup."""
        self._scan.pos += len(marker)
        if self._untold and marker in self._markup.stray:
            self._untold = False
            self._content.boundary()
        else:
            self._content.write(marker)

    def _may_think(self) -> bool:
        reasoning = self._markup.reasoning
        is_first = not (self._content.said or self._reasoning.said or self._reading.calls.count)
        return is_first or (reasoning is not None and reasoning.repeats)

    def _try_starts(self) -> Steps[bool]:
        """Calls without a marker, where the content begins."""
        scan = self._scan
        for opener, region in self._markup.starts:
            at = yield from scan.skip_space(0)
            if not (yield from scan.literal(at, markers_of(opener))):
                continue
            self._content.write(scan.text[scan.pos : scan.pos + at])
            scan.pos += at
            if (yield from self._call(region, opener)):
                return True
        return False

    def _region(self, opener: str) -> Steps[bool]:
        """The first kind of body that fits what follows the opener."""
        for region in self._markup.regions[opener]:
            if (yield from self._call(region, opener)):
                return True
        return False

    def _call(self, region: Region, opener: str) -> Steps[bool]:
        reading = self._reading
        reading.calls.enter()
        found = yield from _READERS[type(region)](reading, region, opener)
        self._leave()
        if found:
            self._content.boundary()
        return found

    def _leave(self) -> None:
        for raw in self._reading.calls.leave():
            self._content.write(raw)

    def _think(self, closes: Markers) -> Steps[None]:
        """Thinking up to a close, which is consumed, or to what ends it without belonging to it."""
        self.is_reasoning = True
        self._content.boundary()
        self._reasoning.boundary()
        marker = yield from self._stream(self._reasoning, closes)
        reasoning = self._markup.reasoning
        if marker:
            self._reasoning.boundary()
            self._untold = False
            self.is_reasoning = False
        if reasoning is not None and marker in reasoning.closes:
            self._scan.pos += len(marker)

    def _stream(self, flow: Flow, markers: Markers) -> Steps[str]:
        """Writes text to a flow up to a marker (not consumed), or "" at the end of the text."""
        scan, find, write = self._scan, markers.find, flow.write
        while True:
            place, hit = find(scan.text, scan.pos, scan.ended)
            if place > scan.pos:
                write(scan.text[scan.pos : place])
                scan.pos = place
            if hit or scan.ended:
                return hit
            yield
