"""What a parser takes and gives: pieces of text in, events out, and the fold of the events.

How any format looks is not here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct, field

# parameters (JSON Schema) by function name, as the request gave them
ToolSchemas = Mapping[str, Mapping[str, Any]]

# truncated: the text ended inside the call; malformed: its arguments are not what they claim to be
CallProblem = Literal["truncated", "malformed"]


class Content(Struct, frozen=True, gc=False):
    """Text for the reader."""

    text: str


class Reasoning(Struct, frozen=True, gc=False):
    """Text of the model's thinking."""

    text: str


class CallStart(Struct, frozen=True, gc=False):
    """A call begins; calls of one reply are numbered from 0."""

    index: int
    id: str
    name: str


class CallArguments(Struct, frozen=True, gc=False):
    """The next piece of the call's arguments, as JSON text."""

    index: int
    text: str


class CallEnd(Struct, frozen=True, gc=False):
    """The call is over. Without a ``problem`` its arguments are complete, valid JSON."""

    index: int
    problem: CallProblem | None = None


Event = Content | Reasoning | CallStart | CallArguments | CallEnd


class Parser(Protocol):
    """One reply being read. However the text is cut into pieces, the folded events are the same."""

    @property
    def is_reasoning(self) -> bool:
        """Whether text fed now would be reasoning, as far as is known."""
        ...

    def feed(self, text: str) -> list[Event]:
        """Takes the next piece; holds back only what could still become a marker."""
        ...

    def finish(self, *, is_cut: bool = False) -> list[Event]:
        """Gives out what was held back. ``is_cut``: the reply hit a limit, so nothing is repaired.

        Call once; the parser takes no text afterwards.
        """
        ...


class FoldedCall(Struct):
    """One call put together."""

    id: str
    name: str
    arguments: str = ""
    ended: bool = False
    problem: CallProblem | None = None


class Folded(Struct):
    """A whole reply put together: what a client that does not stream receives."""

    content: str = ""
    reasoning: str = ""
    calls: list[FoldedCall] = field(default_factory=list)


def fold(events: Iterable[Event]) -> Folded:
    """Joins the events of one reply. Raises IndexError when a call's piece precedes its start."""
    folded = Folded()
    for event in events:
        match event:
            case Content(text):
                folded.content += text
            case Reasoning(text):
                folded.reasoning += text
            case CallStart(index, call_id, name):
                if index != len(folded.calls):
                    raise IndexError(f"call {index} starts after {len(folded.calls)} calls")
                folded.calls.append(FoldedCall(call_id, name))
            case CallArguments(index, text):
                folded.calls[index].arguments += text
            case CallEnd(index, problem):
                folded.calls[index].ended, folded.calls[index].problem = True, problem
    return folded
