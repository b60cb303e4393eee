"""Identifiers of tool calls, in the shapes that model families and clients expect."""

import random
import string
from typing import Literal, Protocol

# call: OpenAI's shape; short: Mistral's nine characters; kimi: functions.name:index
IdStyle = Literal["call", "short", "kimi"]

_ALPHABET = string.ascii_letters + string.digits


class IdFactory(Protocol):
    """Makes the id of a call whose text does not carry one."""

    def __call__(self, style: IdStyle, name: str, index: int) -> str: ...


class RandomIds:
    """Random ids: ``call_`` and 24 characters, or 9; Kimi's follow from name and index."""

    def __init__(self, source: random.Random | None = None) -> None:
        self._source = source or random.SystemRandom()

    def __call__(self, style: IdStyle, name: str, index: int) -> str:
        if style == "kimi":
            return f"functions.{name}:{index}"
        if style == "short":
            return "".join(self._source.choices(_ALPHABET, k=9))
        return "call_" + "".join(self._source.choices(_ALPHABET, k=24))


class CountingIds:
    """Ids that follow from the index alone, for tests and recordings."""

    def __call__(self, style: IdStyle, name: str, index: int) -> str:
        if style == "kimi":
            return f"functions.{name}:{index}"
        return f"{index:09d}" if style == "short" else f"call_{index:024d}"
