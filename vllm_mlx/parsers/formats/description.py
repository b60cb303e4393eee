"""The shape of a format's description. The descriptions themselves are beside this file."""

from msgspec import Struct

from vllm_mlx.parsers.bodies.headed import HeadedCalls
from vllm_mlx.parsers.bodies.json_object import JsonCalls
from vllm_mlx.parsers.bodies.pythonic import PythonicCalls
from vllm_mlx.parsers.bodies.raw import RawCalls
from vllm_mlx.parsers.bodies.tagged import TaggedCalls
from vllm_mlx.parsers.ids import IdStyle

Region = JsonCalls | TaggedCalls | HeadedCalls | PythonicCalls | RawCalls


def openers_of(region: Region) -> tuple[str, ...]:
    """The markers that begin a region anywhere in the content."""
    match region:
        case TaggedCalls(opens=opens, call=call):
            return (*opens, call.open) if call.open else opens
        case HeadedCalls(opens=opens, calls=calls):
            return (*opens, *calls)
        case _:
            return region.opens


class Channels(Struct, frozen=True, kw_only=True):
    """A reply made of messages, each with a header that says whom it is for.

    ``head`` must match the whole header; groups ``recipient`` and ``channel``, both optional.
    """

    starts: tuple[str, ...]  # a header begins
    messages: tuple[str, ...]  # the header is over, the body begins
    ends: tuple[str, ...]  # the body is over
    head: str
    implicit: tuple[str, ...] = ()  # also begin the reply's first header
    begins_in_head: bool = False  # the reply begins with a header that has no marker at all
    reasoning: tuple[str, ...] = ()  # recipients or channels of thinking
    readers: tuple[str, ...] = ()  # recipients who are no tools
    prefix: str = ""  # of a tool's name
    calls: bool = True  # a body for another recipient is the arguments of a call


class ToolFormat(Struct, frozen=True, kw_only=True):
    """How a family writes tool calls. ``names[0]`` is the name; the others are aliases."""

    names: tuple[str, ...]
    families: str
    wire: str  # one line for people
    regions: tuple[Region, ...] = ()
    channels: Channels | None = None
    noise: tuple[str, ...] = ()  # markers that carry nothing and are dropped from the content
    restarts: tuple[str, ...] = ()  # text after which markerless calls may begin again
    ids: IdStyle = "call"
    stops: tuple[str, ...] = ()  # further stop strings a model of this family needs
    drops_repeats: bool = False  # a call equal to an earlier one of the reply is left out
    native: bool = True  # the family's template takes tool messages as they are


class ReasoningFormat(Struct, frozen=True, kw_only=True):
    """How a family marks its thinking."""

    names: tuple[str, ...]
    families: str
    wire: str
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    until: tuple[str, ...] = ()  # also end the thinking, and are read again after it
    assumed: bool = False  # without word from the prompt, a reply begins inside the thinking
    repeats: bool = False  # may open again after content
    noise: tuple[str, ...] = ()
    channels: Channels | None = None
