"""How values are written in each notation, and the small words that all of them share."""

import json
import re

from msgspec import Struct

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS = {
    "true": "true", "false": "false", "null": "null",
    "True": "true", "False": "false", "None": "null",
}  # fmt: skip


class Notation(Struct, frozen=True):
    """How values are written: what opens and closes a string, and whether ``( )`` is a list."""

    quotes: tuple[str, ...] = ('"', "'")
    tuples: bool = False  # Python: parentheses are a list, triple quotes are a string
    escapes: bool = True  # a backslash in a string escapes


JSON = Notation()
PYTHON = Notation(quotes=('"""', "'''", '"', "'"), tuples=True)
GEMMA4 = Notation(quotes=('<|"|>', '"'), escapes=False)
FUNCTION_GEMMA = Notation(quotes=("<escape>", '"'), escapes=False)


def escape(text: str) -> str:
    """The inside of a JSON string with this value."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def word_to_json(word: str) -> str | None:
    """A number, truth value or null as JSON; None if it is something else."""
    if _NUMBER.fullmatch(word):
        return word
    if (known := _WORDS.get(word)) is not None:
        return known
    try:
        return json.dumps(float(word), allow_nan=False) if word.strip("+-.")[:1].isdigit() else None
    except ValueError:
        return None
