"""The text not yet consumed, and looking ahead in it without consuming.

Everything that waits for more text is a generator: it yields to say "not enough yet" and is
resumed when a piece was pushed. Positions given out are offsets from ``pos``, so they stay
valid while consumed text is dropped. What the text means is not here.
"""

import re
from collections.abc import Generator, Iterable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]  # yields for more text, returns T

FAILED = -1  # an offset that is none

_NOT_SPACE = re.compile(r"\S")


class Markers:
    """A set of literal markers: the longest at a place wins.

    Compiled once per format; holds no state of any reply.
    """

    def __init__(self, literals: Iterable[str]) -> None:
        self.literals = tuple(sorted(set(literals), key=lambda one: (-len(one), one)))
        self.prefixes = frozenset(m[:n] for m in self.literals for n in range(1, len(m)))
        # a class that matches nothing, where there are no markers
        firsts = "".join(re.escape(c) for c in sorted({m[0] for m in self.literals}))
        self.find_first = re.compile(f"[{firsts}]" if firsts else r"(?!)").search
        self.match_at = re.compile("|".join(map(re.escape, self.literals)) or r"(?!)").match
        self.longest_chars = len(self.literals[0]) if self.literals else 0

    def find(self, text: str, start: int, ended: bool) -> tuple[int, str]:
        """Where text from ``start`` stops being plain, and the marker there.

        The marker is "" if the place could still become one (then it is the tail of ``text``), or
        if there is none (then the place is the end).
        """
        place = start
        while (first := self.find_first(text, place)) is not None:
            place = first.start()
            if (
                not ended
                and len(text) - place < self.longest_chars
                and text[place:] in self.prefixes
            ):
                return place, ""
            if (hit := self.match_at(text, place)) is not None:
                return place, hit.group()
            place += 1
        return len(text), ""


@lru_cache(maxsize=512)
def markers_of(*literals: str) -> Markers:
    """The compiled set, shared: markers are constants of the formats."""
    return Markers(literals)


class Scanner:
    """A window on the reply: ``text[pos:]`` is not consumed yet.

    ``floor`` (None, or an index <= pos) keeps consumed text from being dropped.
    """

    __slots__ = ("ended", "floor", "is_cut", "pos", "text")

    def __init__(self) -> None:
        self.text = ""
        self.pos = 0
        self.ended = False
        self.is_cut = False  # it ended at a limit, not by itself
        self.floor: int | None = None

    def push(self, piece: str) -> None:
        """Appends a piece and drops what was consumed."""
        drop = self.pos if self.floor is None else self.floor
        self.text = self.text[drop:] + piece
        self.pos -= drop
        if self.floor is not None:
            self.floor = 0

    def rest(self, at: int = 0) -> str:
        """What is known after an offset."""
        return self.text[self.pos + at :]

    def skip_space(self, at: int) -> Steps[int]:
        """The offset of the next character that is not white space, or of the end."""
        while True:
            found = _NOT_SPACE.search(self.text, self.pos + at)
            if found is not None:
                return found.start() - self.pos
            at = len(self.text) - self.pos
            if self.ended:
                return at
            yield

    def char(self, at: int) -> Steps[str]:
        """The character at an offset, or "" at the end."""
        while self.pos + at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.pos + at]

    def literal(self, at: int, markers: Markers) -> Steps[str]:
        """The marker that begins exactly at an offset, or ""."""
        while True:
            start = self.pos + at
            hit = markers.match_at(self.text, start)
            tail = self.text[start:]
            if not self.ended and (tail in markers.prefixes or not tail):
                yield
                continue
            return hit.group() if hit is not None else ""

    def until(self, at: int, markers: Markers, limit_chars: int) -> Steps[tuple[int, str]]:
        """The offset and text of the next marker, if it begins within ``limit_chars``.

        (FAILED, "") if it does not, or if the text ends before.
        """
        while True:
            place, hit = markers.find(self.text, self.pos + at, self.ended)
            place -= self.pos
            if place - at > limit_chars:
                return FAILED, ""
            if hit:
                return place, hit
            if self.ended:
                return FAILED, ""
            yield
